"""Tasks: outputs, names and checks of their fields."""

from __future__ import annotations

from typing import Any

import pytest

from polytask.model.tasks import Kind, Task, check_tasks

_FIELDS: dict[Kind, dict[str, Any]] = {
    Kind.CLASSIFICATION: {"labels": ("a", "b", "c")},
    Kind.MULTILABEL: {"labels": ("a", "b"), "thresholds": (0.5, 0.1)},
    Kind.REGRESSION: {"value_range": (0.0, 5.0)},
    Kind.RANKING: {"pair": True},
    Kind.MULTIPLE_CHOICE: {"pair": True},
    Kind.TAGGING: {"labels": ("O", "B-x", "I-x")},
    Kind.SPAN: {"pair": True},
}


def _task(kind: Kind = Kind.CLASSIFICATION, name: str = "task", max_length: int = 32, **changes: Any) -> Task:
    return Task(name, kind, max_length, **{**_FIELDS[kind], **changes})


@pytest.mark.parametrize(
    ("kind", "num_outputs", "token_level"),
    [
        (Kind.CLASSIFICATION, 3, False),
        (Kind.MULTILABEL, 2, False),
        (Kind.REGRESSION, 1, False),
        (Kind.RANKING, 1, False),
        (Kind.MULTIPLE_CHOICE, 1, False),
        (Kind.TAGGING, 3, True),
        (Kind.SPAN, 2, True),
    ],
)
def test_width_and_level_follow_from_the_kind(kind: Kind, num_outputs: int, token_level: bool) -> None:
    """A labelled kind has an output for each label, a span a start and an end, the others one output."""
    assert (_task(kind).num_outputs, _task(kind).token_level) == (num_outputs, token_level)


def test_every_kind_is_covered() -> None:
    """The cases of this file cover all kinds."""
    assert set(_FIELDS) == set(Kind)


@pytest.mark.parametrize("name", ["a", "7", "intent", "wnut-17_v2", "x" * 63])
def test_good_names_are_accepted(name: str) -> None:
    """A name is lower-case letters, digits, hyphens and underscores."""
    assert _task(name=name).name == name


@pytest.mark.parametrize("name", ["", "-a", "_a", "Intent", "a b", "a/b", "a.b", "ä", "a\n", "x" * 64])
def test_bad_names_are_refused(name: str) -> None:
    """A name that cannot be part of a URL is refused."""
    with pytest.raises(ValueError, match="a name is"):
        _task(name=name)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (Kind.CLASSIFICATION, {"labels": ("a",)}, "at least two labels, got 1"),
        (Kind.TAGGING, {"labels": ()}, "at least two labels, got 0"),
        (Kind.REGRESSION, {"labels": ("a", "b")}, "has no labels"),
        (Kind.SPAN, {"labels": ("a", "b")}, "has no labels"),
        (Kind.CLASSIFICATION, {"labels": ("a", "b", "a")}, "listed twice"),
        (Kind.REGRESSION, {"value_range": None}, "needs value_range"),
        (Kind.RANKING, {"value_range": (0.0, 1.0)}, "only regression has one"),
        (Kind.CLASSIFICATION, {"labels": ("a", "b"), "raw_output": True}, "only regression has one, or raw_output"),
        (Kind.REGRESSION, {"value_range": (1.0, 1.0)}, "must rise"),
        (Kind.REGRESSION, {"value_range": (0.0, float("nan"))}, "must rise"),
        (Kind.MULTILABEL, {"thresholds": (0.5,)}, "one threshold per label"),
        (Kind.CLASSIFICATION, {"thresholds": (0.5, 0.5, 0.5)}, "only multilabel has thresholds"),
        (Kind.SPAN, {"thresholds": (0.5, 0.5)}, "span may have one"),
        (Kind.SPAN, {"max_answer_tokens": 0}, "max_answer_tokens must be at least 1"),
        (Kind.TAGGING, {"max_answer_tokens": 9}, "only span has it"),
        (Kind.CLASSIFICATION, {"min_confidence": 1.5}, "min_confidence must be a probability from 0 to 1"),
        (Kind.MULTILABEL, {"min_confidence": 0.5}, "only classification has it"),
        (Kind.RANKING, {"pair": False}, "always reads pairs"),
        (Kind.MULTIPLE_CHOICE, {"pair": False}, "always reads pairs"),
        (Kind.SPAN, {"pair": False}, "always reads pairs"),
        (Kind.CLASSIFICATION, {"max_length": 7}, "at least 8, got 7"),
    ],
)
def test_fields_must_fit_the_kind(kind: Kind, changes: dict[str, Any], message: str) -> None:
    """A field that does not fit the kind is refused, and the message names the task and the field."""
    with pytest.raises(ValueError, match=f"task 'task': .*{message}"):
        _task(kind, **changes)


@pytest.mark.parametrize(
    ("labels", "bio"),
    [
        (("O", "B-x", "I-x"), True),
        (("B-x", "I-x"), True),
        (("noun", "verb"), False),
        (("O", "B-x", "verb"), False),
        (("O", "B"), False),
    ],
)
def test_bio_labels_are_recognised(labels: tuple[str, ...], bio: bool) -> None:
    """Tags are BIO when each is O, B-something or I-something."""
    assert _task(Kind.TAGGING, labels=labels).bio is bio


def test_order_is_kept() -> None:
    """Tasks of any iterable become a tuple in the same order."""
    tasks = [_task(name=name) for name in "cab"]
    assert check_tasks(iter(tasks), 32) == tuple(tasks)


def test_no_tasks_are_refused() -> None:
    """A network without tasks is refused."""
    with pytest.raises(ValueError, match="at least one task"):
        check_tasks([], 32)


def test_a_repeated_name_is_refused() -> None:
    """Two tasks of one name are refused by that name."""
    with pytest.raises(ValueError, match="'b' is listed twice"):
        check_tasks([_task(name="a"), _task(name="b"), _task(Kind.SPAN, name="b")], 32)


def test_a_task_longer_than_the_network_is_refused() -> None:
    """A task may be as long as the network and no longer."""
    assert check_tasks([_task(max_length=32)], 32)
    with pytest.raises(ValueError, match="max_length 33 is over the network's 32"):
        check_tasks([_task(max_length=33)], 32)
