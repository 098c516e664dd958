"""Policies of lanes: what a deployment may write, and what it is told when it writes something else."""

from __future__ import annotations

import pytest

from polytask.service.config.task_policies import PolicyError, TaskPolicy, by_task_id, parse_task_policies
from polytask.service.errors import StartupError


def test_policies_are_read_from_json() -> None:
    """What is not said is as by default."""
    found = parse_task_policies(
        '{"intent": {"weight": 4, "max_waiting_tokens": 20000, "max_rows": 8, "mix": false}, "a": {}}'
    )
    assert found == {"intent": TaskPolicy(4, 20_000, 8, mix=False), "a": TaskPolicy()}
    assert parse_task_policies("{}") == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must be JSON"),
        ("[]", "must be an object by task"),
        ('{"intent": 4}', "task 'intent': must be an object"),
        ('{"intent": {"wieght": 4}}', "task 'intent': 'wieght' is none of weight, max_waiting_tokens, max_rows, mix"),
        ('{"intent": {"weight": "4"}}', "weight must be a number, got '4'"),
        ('{"intent": {"weight": true}}', "weight must be a number, got True"),
        ('{"intent": {"weight": 0}}', "weight must be from 0.001 to 1000, got 0"),
        ('{"intent": {"weight": NaN}}', "weight must be from"),
        ('{"intent": {"max_rows": 1.5}}', "max_rows must be a whole number, got 1.5"),
        ('{"intent": {"max_rows": -1}}', "max_rows must be at least 0, got -1"),
        ('{"intent": {"mix": 0}}', "mix must be a boolean, got 0"),
    ],
)
def test_a_policy_that_cannot_be_is_an_error_that_says_where(text: str, problem: str) -> None:
    """The message has the task, the key and the value."""
    with pytest.raises(PolicyError) as refused:
        parse_task_policies(text)
    assert problem in str(refused.value)


def test_a_policy_is_for_a_task_of_the_checkpoint() -> None:
    """Names become ids; an unknown one stops the start, with the nearest that there is."""
    policies = {"mood": TaskPolicy(weight=2)}
    assert by_task_id(policies, ["topics", "mood"]) == {1: TaskPolicy(weight=2)}
    with pytest.raises(StartupError, match="no task 'mood'; did you mean 'moods'"):
        by_task_id(policies, ["moods"])
    with pytest.raises(StartupError, match="no task 'mood'; there are a, b"):
        by_task_id(policies, ["a", "b"])
