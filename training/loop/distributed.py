"""Several processes, one run: each draws the same batches, takes its share of them, and adds up the gradients."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

Value = TypeVar("Value")

# While the first process evaluates or publishes the others wait; torchrun ends them if it dies.
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a run and this one's place among them: 0 is the first, the one that shows and writes."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that shows, writes, evaluates and publishes."""
        return self.rank == 0

    def share(self, count: int) -> tuple[int, int]:
        """First place and end of this process's contiguous part of `count` things; the part may be empty."""
        return count * self.rank // self.size, count * (self.rank + 1) // self.size

    def all_reduce_gradients(self, parameters: Sequence[Tensor], values: Tensor) -> Tensor:
        """Adds up all processes' gradients, in place, and their `values` [n]; gives the sums of the values.

        A parameter that no process has a gradient of has none afterwards, as it would in one process.
        """
        if self.size == 1:
            return values
        used = torch.tensor([float(p.grad is not None) for p in parameters], device=values.device)
        gradients = [p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in parameters]
        flat = torch.cat([*gradients, used, values])
        distributed.all_reduce(flat)
        sizes = [*(p.numel() for p in parameters), len(parameters), len(values)]
        *gradients, used, values = torch.split(flat, sizes)
        for parameter, gradient, count in zip(parameters, gradients, used.tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter) if count else None
        return values

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds in any process. Waits for all of them."""
        if self.size == 1:
            return flag
        found = torch.tensor([int(flag)])  # on the CPU, so that no GPU spins while it waits
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return bool(found.item())

    def broadcast(self, value: Value) -> Value:
        """The first process's `value`."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Every process's `value`, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values


@contextmanager
def process_group() -> Iterator[Group]:
    """The processes that torchrun started, or this process alone. NCCL where there are GPUs, else gloo."""
    if not distributed.is_torchelastic_launched():
        yield Group()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Group(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
