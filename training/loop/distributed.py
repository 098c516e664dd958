"""Distributed training: all processes draw the same batches, compute a part of each, and add up the gradients."""

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

# While the main process evaluates or publishes the others wait; torchrun ends them if it dies.
_TIMEOUT = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a run. `rank` is the number of this process, 0 for the main one."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints, writes, evaluates and publishes."""
        return self.rank == 0

    def slice_of(self, count: int) -> tuple[int, int]:
        """Start and end of this process's contiguous part of `count` items; the part may be empty."""
        return count * self.rank // self.size, count * (self.rank + 1) // self.size

    def all_reduce_gradients(self, parameters: Sequence[Tensor], values: Tensor) -> Tensor:
        """Sums the gradients of all processes in place, and their `values` [n]. Returns the sums of the values.

        A parameter for which no process has a gradient has none afterwards, as in a single process.
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
        flags = torch.tensor([int(flag)])  # on the CPU, so that no GPU spins while it waits
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return bool(flags.item())

    def broadcast(self, value: Value) -> Value:
        """The main process's `value`."""
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
    """The processes that torchrun started, or this process alone. Uses NCCL if there are GPUs, otherwise gloo."""
    if not distributed.is_torchelastic_launched():
        yield Group()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=_TIMEOUT)
    try:
        yield Group(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
