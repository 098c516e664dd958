"""Tag decoding against a search through all sequences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.model.tag_decoding import decode_tags
from polytask.model.tasks import Kind, Task

BIO = ("O", "B-x", "I-x", "I-y", "B-z")
PLAIN = ("noun", "verb", "O")
# In quarters, which sum without rounding.
SCORE = st.integers(-40, 40).map(lambda quarters: quarters / 4)


def _task(labels: Sequence[str], transitions: Sequence[Sequence[float]] = ()) -> Task:
    return Task("task", Kind.TAGGING, 64, labels=tuple(labels), transitions=tuple(map(tuple, transitions)))


def _matrix(rows: st.SearchStrategy[int], num_labels: int) -> st.SearchStrategy[list[list[float]]]:
    row = st.lists(SCORE, min_size=num_labels, max_size=num_labels)
    return rows.flatmap(lambda count: st.lists(row, min_size=count, max_size=count))


def _is_valid(task: Task, tags: Sequence[int]) -> bool:
    names = ["O", *(task.labels[tag] for tag in tags)]
    return not task.bio or all(
        name[0] != "I" or f"B-{name[2:]}" not in task.labels or before[2:] == name[2:] != ""
        for before, name in pairwise(names)
    )


def _score(task: Task, logits: Sequence[Sequence[float]], tags: Sequence[int]) -> float:
    rows = [0, *(tag + 1 for tag in tags[:-1])]
    learnt = sum(task.transitions[row][tag] for row, tag in zip(rows, tags, strict=True)) if task.transitions else 0
    return learnt + sum(word[tag] for word, tag in zip(logits, tags, strict=True))


@pytest.mark.parametrize("labels", [BIO, PLAIN])
@pytest.mark.parametrize("learnt", [True, False])
@given(data=st.data())
def test_the_best_valid_sequence_is_found(data: st.DataObject, labels: tuple[str, ...], learnt: bool) -> None:
    """The tags are a valid sequence, and none of all valid sequences has a higher sum of logits and transitions."""
    size = len(labels)
    task = _task(labels, data.draw(_matrix(st.just(size + 1), size)) if learnt else ())
    logits = data.draw(_matrix(st.integers(1, 4), size))
    tags = decode_tags(task, np.array(logits, dtype=np.float32))
    assert _is_valid(task, tags)
    every = product(range(size), repeat=len(logits))
    assert _score(task, logits, tags) == max(_score(task, logits, each) for each in every if _is_valid(task, each))


@given(_matrix(st.integers(1, 30), len(BIO)))
def test_a_valid_sequence_of_likeliest_tags_stays(logits: list[list[float]]) -> None:
    """Without learnt transitions only sequences change that are not valid."""
    task = _task(BIO)
    likeliest = [row.index(max(row)) for row in logits]
    tags = decode_tags(task, np.array(logits, dtype=np.float32))
    assert _is_valid(task, likeliest) <= (tags == likeliest)


def test_no_words_have_no_tags() -> None:
    """A text without words has no tags, with or without transitions."""
    nothing = np.zeros((0, 2), dtype=np.float32)
    assert decode_tags(_task(("a", "b")), nothing) == []
    assert decode_tags(_task(("a", "b"), [(0.0, 1.0)] * 3), nothing) == []


def test_an_entity_goes_on_where_its_words_are_undecided() -> None:
    """Learnt transitions join "New" and "York", which the likeliest tag of each word parts."""
    labels = ("O", "B-location", "I-location")
    logits = np.log(np.array([[0.1, 0.86, 0.04], [0.13, 0.48, 0.39]], dtype=np.float32))
    apart = [(0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, -2.0, 1.0), (0.0, -2.0, 1.0)]
    assert [labels[tag] for tag in decode_tags(_task(labels), logits)] == ["B-location", "B-location"]
    assert [labels[tag] for tag in decode_tags(_task(labels, apart), logits)] == ["B-location", "I-location"]


def test_an_entity_that_opens_with_i_is_kept() -> None:
    """An `I-x` at the beginning becomes a `B-x` if the words together say so, and no entity is lost."""
    labels = ("O", "B-x", "I-x")
    logits = np.log(np.array([[0.1, 0.3, 0.6], [0.1, 0.1, 0.8]], dtype=np.float32))
    assert [labels[tag] for tag in decode_tags(_task(labels), logits)] == ["B-x", "I-x"]


def test_transitions_fit_their_task() -> None:
    """Transitions of another kind of task or of another size are refused."""
    with pytest.raises(ValueError, match="only tagging has transitions"):
        Task("task", Kind.CLASSIFICATION, 64, labels=("a", "b"), transitions=((0.0, 0.0),) * 3)
    with pytest.raises(ValueError, match="transitions need 3 rows of 2 scores"):
        _task(("a", "b"), [(0.0, 0.0)] * 2)
