"""Precision: whether a run's steps are faster in bfloat16, measured before its first one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from polytask.training.data.examples import EncodedExample
from polytask.training.loop.sampling import ShuffledExamples, batch_by_length
from polytask.training.loop.shares import task_shares
from polytask.training.recipes.schema import Recipe

_NUM_DRAWN = 1_000
_REPEATS = 2
_LEAST_GAIN = 0.05
"""Share of the time that bfloat16 must save: a tie is decided for float32, which is more precise."""


def is_faster_in_bf16(
    step: Callable[[Sequence[EncodedExample], bool], None],
    examples: Sequence[Sequence[EncodedExample]],
    recipe: Recipe,
    device: torch.device,
) -> bool:
    """Whether `step` is faster in bfloat16 than in float32 on short, usual and long batches of the run.

    `step(batch, bf16)` computes the gradients of a batch. Each form sees each batch once before the clock runs, as first
    calls prepare kernels; then they take turns, and the fastest time of each batch counts.
    """
    batches = _typical_batches(examples, recipe)
    seconds = {False: [float("inf")] * len(batches), True: [float("inf")] * len(batches)}
    for repeat in range(1 + _REPEATS):
        for index, batch in enumerate(batches):
            for bf16, fastest in seconds.items():
                started = _now(device)
                step(batch, bf16)
                if repeat:
                    fastest[index] = min(fastest[index], _now(device) - started)
    return sum(seconds[True]) < (1 - _LEAST_GAIN) * sum(seconds[False])


def _typical_batches(examples: Sequence[Sequence[EncodedExample]], recipe: Recipe) -> list[list[EncodedExample]]:
    sizes = [len(own) for own in examples]
    refs = ShuffledExamples(sizes, recipe.seed).draw(_NUM_DRAWN, task_shares(sizes, recipe.sampler))
    length = recipe.length
    batches = batch_by_length(refs, lambda ref: examples[ref[0]][ref[1]], length.batch_rows, length.batch_tokens)
    chosen = [batches[len(batches) * quarter // 4] for quarter in (1, 2, 3)]
    return [[examples[task_id][index] for task_id, index in batch] for batch in chosen]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    # Processor time of all threads: on a machine that does other work, too, the clock on the wall would decide by chance.
    return time.process_time()
