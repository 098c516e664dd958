"""The options of a request: which there are, for which tasks, and what is said of those that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from polytask.model.answers import DEFAULT_OPTIONS, AnswerOptions
from polytask.service.api.options import Options, answer_options
from polytask.service.errors import InvalidInput
from tests.support import tiny

TASKS = {task.name: task for task in tiny.tasks()}


def meant(*tasks: str, **options: Any) -> list[AnswerOptions]:
    """What the options mean to the tasks."""
    return answer_options(Options(**options), [TASKS[task] for task in tasks])


def test_no_options_are_the_usual() -> None:
    """Neither none nor null nor false changes anything, whatever the task."""
    tasks = list(TASKS.values())
    assert answer_options(None, tasks) == [DEFAULT_OPTIONS] * 7
    assert meant(*TASKS, top_k=None, raw_scores=False, thresholds=None) == [DEFAULT_OPTIONS] * 7


@pytest.mark.parametrize(
    ("option", "value", "tasks"),
    [
        ("top_k", 2, {"mood", "topics", "relevance"}),
        ("raw_scores", True, set(TASKS) - {"closeness"}),
        ("thresholds", {"cats": 0.5}, {"topics"}),
    ],
)
def test_an_option_is_for_some_kinds(option: str, value: Any, tasks: set[str]) -> None:
    """The others refuse it by its name, and say which kinds it is for."""
    for task in TASKS:
        if task in tasks:
            assert meant(task, **{option: value}) != [DEFAULT_OPTIONS]
        else:
            with pytest.raises(
                InvalidInput, match=f"options.{option}: means nothing to '{task}'.*: it is for tasks of"
            ):
                meant(task, **{option: value})


def test_of_several_tasks_one_suffices() -> None:
    """An option goes to the tasks that it means something to; it is refused if there is none."""
    mood, closeness = meant("mood", "closeness", top_k=2)
    assert mood.top_k == 2
    assert closeness.thresholds is None
    with pytest.raises(
        InvalidInput, match=r"means nothing to 'choice' \(multiple_choice\) and 'closeness' \(regression\)"
    ):
        meant("choice", "closeness", top_k=2)


def test_thresholds_replace_those_of_their_labels() -> None:
    """The other labels keep theirs; a label that is none is named, with the one that may be meant."""
    (topics,) = meant("topics", thresholds={"food": 0.9})
    assert topics.thresholds == (0.5, 0.4, 0.9)
    with pytest.raises(InvalidInput, match=r"options\.thresholds\.citys: is no label; did you mean 'cities'"):
        meant("topics", thresholds={"citys": 0.5})
    with pytest.raises(InvalidInput, match="is no label; labels: cats, cities, food"):
        meant("topics", thresholds={"xyz": 0.5})
    with pytest.raises(InvalidInput) as refused:
        meant("topics", thresholds={f"label {place}": 0.5 for place in range(5000)})
    assert len(refused.value.errors) == 20, "the first so many"
