"""Task policies: the JSON that a deployment may write, and the errors for anything else."""

from __future__ import annotations

import pytest

from polytask.service.config.task_policies import PolicyError, TaskPolicy, by_task_id, parse_task_policies
from polytask.service.errors import StartupError


def test_policies_are_read_from_json() -> None:
    """A key that is not given has its default."""
    found = parse_task_policies(
        '{"intent": {"weight": 4, "max_waiting_tokens": 20000, "max_rows": 8, "mix": false}, "a": {}}'
    )
    assert found == {"intent": TaskPolicy(4, 20_000, 8, mix=False), "a": TaskPolicy()}
    assert parse_task_policies("{}") == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not valid JSON: EOF while parsing a value at line 1 column 0"),
        ("[]", 'must be an object, got []; an example is {"intent": {"weight": 4}}'),
        ('{"intent": 4}', "of task 'intent': must be an object, got 4"),
        ('{"intent": {"wieght": 4}}', "of task 'intent': wieght is none of weight, max_waiting_tokens, max_rows, mix"),
        ('{"intent": {"weight": "4"}}', "weight must be a number, got '4'"),
        ('{"intent": {"weight": true}}', "weight must be a number, got True"),
        ('{"intent": {"weight": 0}}', "weight must be at least 0.001 and at most 1000, got 0"),
        ('{"intent": {"weight": 1001}}', "weight must be at least 0.001 and at most 1000, got 1001"),
        ('{"intent": {"weight": NaN}}', "weight must be a finite number"),
        ('{"intent": {"max_rows": 1.5}}', "max_rows must be a whole number, got 1.5"),
        ('{"intent": {"max_rows": -1}}', "max_rows must be at least 0, got -1"),
        ('{"intent": {"mix": 0}}', "mix must be a valid boolean, got 0"),
    ],
)
def test_an_invalid_policy_is_an_error_that_says_where(text: str, problem: str) -> None:
    """The message has the task, the key and the value."""
    with pytest.raises(PolicyError) as refused:
        parse_task_policies(text)
    assert problem in str(refused.value)


def test_a_policy_is_for_a_task_of_the_checkpoint() -> None:
    """Task names become ids; an unknown task stops the start, and the message suggests the nearest one."""
    policies = {"mood": TaskPolicy(weight=2)}
    assert by_task_id(policies, ["topics", "mood"]) == {1: TaskPolicy(weight=2)}
    with pytest.raises(StartupError, match="no task 'mood'; did you mean 'moods'"):
        by_task_id(policies, ["moods"])
    with pytest.raises(StartupError, match="no task 'mood'; there are a, b"):
        by_task_id(policies, ["a", "b"])
