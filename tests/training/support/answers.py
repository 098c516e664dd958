"""Answers of a loaded version, one input at a time, and comparison of answers with a tolerance for numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from polytask.model.answers import Answer
from polytask.model.encoding import Input, InputEncoder
from polytask.model_store.load import load
from polytask.training.evaluation.evaluate import answer_inputs


def answer_alone(version: Path, inputs: Mapping[str, Sequence[Input]]) -> dict[str, list[Answer]]:
    """Loads the version and answers each input in a batch by itself. By task."""
    torch.set_num_threads(1)
    checkpoint = load(version)
    encoder = InputEncoder(checkpoint.tokenizer)
    task_ids = {task.name: task_id for task_id, task in enumerate(checkpoint.network.tasks)}
    return {
        name: [answer for item in own for answer in answer_inputs(checkpoint.network, encoder, task_ids[name], [item])]
        for name, own in inputs.items()
    }


def assert_same_answers(found: Sequence[Answer], expected: Sequence[Answer], tolerance: float = 1e-5) -> None:
    """Asserts that answers have the same kinds and contents, with probabilities and values within `tolerance`."""
    assert [type(answer) for answer in found] == [type(answer) for answer in expected]
    assert_same_fields([asdict(answer) for answer in found], [asdict(answer) for answer in expected], tolerance)


def assert_same_fields(found: object, expected: object, tolerance: float = 1e-5) -> None:
    """Asserts the same for answers as plain fields."""
    for ours, theirs in zip(_leaves(found), _leaves(expected), strict=True):
        assert ours == (pytest.approx(theirs, abs=tolerance) if isinstance(theirs, float) else theirs)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, entry in sorted(value.items()):  # what is as good as equal may stand in another order
            yield key
            yield from _leaves(entry)
    elif isinstance(value, list | tuple):
        yield len(value)
        for entry in value:
            yield from _leaves(entry)
    else:
        yield value
