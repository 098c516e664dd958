"""Timing on a shared machine: cases run in turns, and ratios are taken within a round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from polytask.model.batch import Batch
from polytask.service.backends.contract import Backend

_MATMUL = 8192
_IN_A_ROW = 3


def in_turns(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each case in each round, after one warm-up round. Every other round runs in reverse order."""
    for case in cases.values():
        case()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds):
        for name in sorted(cases, key=list(cases).index, reverse=bool(number % 2)):
            started = time.perf_counter()
            cases[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(seconds: Sequence[float], base: Sequence[float]) -> float:
    """How many times as long as `base`: the median of the rounds' ratios."""
    return statistics.median(own / other for own, other in zip(seconds, base, strict=True))


def run_all(backend: Backend, batches: Sequence[Batch]) -> None:
    """Runs the batches as the service would: in parallel, or each started while the one before runs, where the backend allows it."""
    if backend.num_streams > 1:
        with ThreadPoolExecutor(backend.num_streams) as threads:
            list(threads.map(backend.run, batches))
        return
    waiting: Callable[[], object] | None = None
    for batch in batches:
        following = backend.start(batch)
        if waiting is not None:
            waiting()
        waiting = following
    if waiting is not None:
        waiting()


def matmul_flops(device: torch.device) -> float:
    """Floating-point operations a second of a large matrix product in the type that the backend computes in, the best of several."""
    kind, side = (torch.bfloat16, _MATMUL) if device.type == "cuda" else (torch.float32, _MATMUL // 8)
    left, right = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))

    def product() -> None:
        for _ in range(_IN_A_ROW):
            torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return _IN_A_ROW * 2 * side**3 / min(in_turns({"product": product}, 5)["product"])
