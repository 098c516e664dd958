"""Options of a request: the kinds of task that each applies to, and the errors for the others."""

from __future__ import annotations

from typing import Any

import pytest

from polytask.model.answers import DEFAULT_OPTIONS, AnswerOptions
from polytask.service.api.options import Options, answer_options
from polytask.service.errors import InvalidInput
from tests.support import tiny

TASKS = {task.name: task for task in tiny.tasks()}


def options_of(*tasks: str, **options: Any) -> list[AnswerOptions]:
    """The answer options of these tasks."""
    return answer_options(Options(**options), [TASKS[task] for task in tasks])


def test_no_options_are_the_defaults() -> None:
    """Options that are missing, null or false change nothing for any task."""
    tasks = list(TASKS.values())
    assert answer_options(None, tasks) == [DEFAULT_OPTIONS] * 7
    assert options_of(*TASKS, top_k=None, raw_scores=False, thresholds=None) == [DEFAULT_OPTIONS] * 7


@pytest.mark.parametrize(
    ("option", "value", "tasks"),
    [
        ("top_k", 2, {"mood", "topics", "relevance"}),
        ("raw_scores", True, set(TASKS) - {"closeness"}),
        ("thresholds", {"cats": 0.5}, {"topics"}),
        ("min_confidence", 0.5, {"mood"}),
        ("windows", "mean", {"topics", "relevance"}),
    ],
)
def test_an_option_is_for_some_kinds(option: str, value: Any, tasks: set[str]) -> None:
    """A task of another kind refuses an option by its name, and lists the kinds that it applies to."""
    for task in TASKS:
        if task in tasks:
            assert options_of(task, **{option: value}, truncation="window") != [DEFAULT_OPTIONS]
        else:
            with pytest.raises(
                InvalidInput, match=f"options.{option}: means nothing to '{task}'.*: it is for tasks of"
            ):
                options_of(task, **{option: value})


def test_an_option_must_apply_to_one_of_several_tasks() -> None:
    """An option is used by the tasks that it applies to, and refused if there is none."""
    mood, closeness = options_of("mood", "closeness", top_k=2)
    assert mood.top_k == 2
    assert closeness.thresholds is None
    with pytest.raises(
        InvalidInput, match=r"means nothing to 'choice' \(multiple_choice\) and 'closeness' \(regression\)"
    ):
        options_of("choice", "closeness", top_k=2)


def test_windows_need_windows() -> None:
    """What windows score together is asked for with windows only; of several tasks those of other kinds keep their way."""
    with pytest.raises(InvalidInput, match=r"options\.windows: has an effect only with 'truncation': 'window'"):
        options_of("relevance", windows="mean")
    topics, mood = options_of("topics", "mood", windows="best", truncation="window")
    assert (topics.windows, mood.windows) == ("best", None)


def test_thresholds_replace_those_of_their_labels() -> None:
    """Other labels keep their stored threshold; an unknown label is named with a similar one."""
    (topics,) = options_of("topics", thresholds={"food": 0.9})
    assert topics.thresholds == (0.5, 0.4, 0.9)
    with pytest.raises(InvalidInput, match=r"options\.thresholds\.citys: is no label; did you mean 'cities'"):
        options_of("topics", thresholds={"citys": 0.5})
    with pytest.raises(InvalidInput, match="is no label; labels: cats, cities, food"):
        options_of("topics", thresholds={"xyz": 0.5})
    with pytest.raises(InvalidInput) as refused:
        options_of("topics", thresholds={f"label {index}": 0.5 for index in range(5000)})
    assert len(refused.value.errors) == 20, "the first so many"
