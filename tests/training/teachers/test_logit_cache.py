"""Logit cache: what is written is read again, and only for what it was made from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polytask.training.data.examples import EncodedExample
from polytask.training.runs.checkpoints import RunError
from polytask.training.teachers.logit_cache import cache_path, read_logits, write_logits
from tests.training.conftest import Workshop


def test_logits_are_read_as_they_were_written(workshop: Workshop, tmp_path: Path) -> None:
    """The logits of each example of any kind come back to the bit."""
    for own, examples in zip(workshop.data, workshop.examples, strict=True):
        logits = [
            np.random.default_rng(index)
            .normal(size=(len(each.encodings[0].positions) or len(each.encodings), own.task.num_outputs))
            .astype(np.float32)
            for index, each in enumerate(examples)
        ]
        path = tmp_path / f"{own.task.name}.safetensors"
        write_logits(path, logits)
        found = read_logits(path, own.task, examples)
        assert len(found) == len(logits)
        assert all(np.array_equal(one, other) for one, other in zip(found, logits, strict=True))


def test_whatever_changes_the_logits_changes_the_file(workshop: Workshop, tmp_path: Path) -> None:
    """Another setting, task, order, text or right answer leads to another file; nothing else does."""
    task, examples = workshop.data[0].task, workshop.examples[0]

    def path(own: list[EncodedExample], seed: int = 0) -> Path:
        return cache_path(tmp_path, task, {"seed": seed}, own)

    expected = path(examples)
    assert expected == path(list(examples)) == path([replace(each, weight=3.0, task_id=5) for each in examples])
    other_text = [replace(examples[0], encodings=examples[1].encodings), *examples[1:]]
    other_target = [replace(examples[0], target=1 - examples[0].target), *examples[1:]]
    others = [path(examples[::-1]), path(examples[1:]), path(other_text), path(other_target), path(examples, seed=1)]
    others.append(cache_path(tmp_path, replace(task, labels=("a", "b", "c")), {"seed": 0}, examples))
    assert len({expected, *others}) == 7


def test_a_broken_file_is_named(workshop: Workshop, tmp_path: Path) -> None:
    """A file that holds no logits is an error with its path."""
    path = tmp_path / "mood.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(RunError, match=str(path)):
        read_logits(path, workshop.data[0].task, workshop.examples[0])
