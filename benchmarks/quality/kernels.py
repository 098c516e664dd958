"""CPU kernels of training compared with torch's own, forward and backward, in turns within one run.

`python -m benchmarks.quality.kernels`. Sizes are those of a batch of 32 rows of 32 tokens in all-MiniLM-L6-v2, bfloat16.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from polytask.model.kernels import Dropout, attend

_ROWS, _LENGTH, _HEADS, _SIZE = 32, 32, 12, 384
_CALLS, _TURNS = 20, 7


def main() -> None:
    """Prints the median milliseconds of each pair, and their ratio."""
    torch.manual_seed(0)
    states = torch.randn(_ROWS, _LENGTH, _SIZE, dtype=torch.bfloat16, requires_grad=True)
    heads = torch.randn(3, _ROWS, _HEADS, _LENGTH, _SIZE // _HEADS, dtype=torch.bfloat16)
    query, key, value = (own.clone().requires_grad_() for own in heads)
    mask = torch.zeros(_ROWS, 1, _LENGTH, _LENGTH, dtype=torch.bfloat16)
    ours, torchs = Dropout(0.1), nn.Dropout(0.1)
    print("| kernel | torch ms | ours ms | torch / ours |")
    print("|---|---:|---:|---:|")
    _compare(
        "attention",
        lambda: functional.scaled_dot_product_attention(query, key, value, attn_mask=mask),
        lambda: attend(query, key, value, mask, dropout=0.0),
    )
    _compare("dropout", lambda: torchs(states), lambda: ours(states))


def _compare(name: str, theirs: Callable[[], Tensor], ours: Callable[[], Tensor]) -> None:
    times: dict[str, list[float]] = {"theirs": [], "ours": []}
    for _ in range(_TURNS):
        for key, forward in (("theirs", theirs), ("ours", ours)):
            started = time.perf_counter()
            for _ in range(_CALLS):
                torch.autograd.backward(forward().sum())
            times[key].append((time.perf_counter() - started) / _CALLS * 1000)
    first, second = (statistics.median(own) for own in times.values())
    print(f"| {name} | {first:.2f} | {second:.2f} | {first / second:.1f} |")


if __name__ == "__main__":
    main()
