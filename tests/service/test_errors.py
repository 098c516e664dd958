"""Errors: the problems that clients receive, and how metrics count them."""

from __future__ import annotations

import pytest

from polytask.service import errors
from polytask.service.errors import FieldError, InternalError, InvalidInput, QueueFull, ServiceError, UnknownTask
from polytask.service.observability.metrics import Metrics
from polytask.service.observability.request_metrics import UNKNOWN_TASK


def causes(base: type[ServiceError] = ServiceError) -> list[type[ServiceError]]:
    """All classes of errors."""
    return [each for child in base.__subclasses__() for each in (child, *causes(child))]


@pytest.mark.parametrize("cause", causes())
def test_every_cause_is_counted_by_its_outcome_and_its_reason(cause: type[ServiceError]) -> None:
    """An error increments one counter of requests, and one of rejections exactly if its outcome is `rejected`."""
    metrics = Metrics([])
    before = metrics.page().decode().splitlines()
    metrics.requests.failed(UNKNOWN_TASK, cause.restored("detail", retry_after_s=None), 0.1)
    changed = set(metrics.page().decode().splitlines()) - set(before)
    counters = {line for line in changed if line.startswith(("polytask_requests_total", "polytask_rejections_total"))}
    expected = {f'polytask_requests_total{{outcome="{cause.outcome}",task="_unknown"}} 1.0'}
    if cause.outcome == "rejected":
        expected.add(f'polytask_rejections_total{{reason="{cause.rejection}",task="_unknown"}} 1.0')
    assert counters == expected


def test_causes_share_a_type_only_with_their_subclasses() -> None:
    """A version that is not served has the type of an unknown task, answers that are too large that of too many inputs, a slow body that of a passed deadline; all others differ."""
    by_title: dict[str, set[type[ServiceError]]] = {}
    for cause in causes():
        by_title.setdefault(cause.title, set()).add(cause)
    assert [shared for shared in by_title.values() if len(shared) > 1] == [
        {errors.UnknownTask, errors.UnknownVersion},
        {errors.TooManyInputs, errors.AnswersTooLarge},
        {errors.DeadlineExceeded, errors.BodyTooSlow},
    ]
    assert all(len({cause.status for cause in shared}) == 1 for shared in by_title.values())


@pytest.mark.parametrize("cause", causes())
def test_an_error_of_another_process_is_restored(cause: type[ServiceError]) -> None:
    """An error that was sent as class name, detail and Retry-After becomes the same problem again."""
    problem = cause.restored("the detail", retry_after_s=3).problem()
    assert (problem.status, problem.title, problem.detail, problem.retry_after_s) == (
        cause.status,
        cause.title,
        "the detail",
        3,
    )


def test_an_unknown_task_suggests_the_nearest_and_lists_all() -> None:
    """The detail of an unknown task names a similar one and all that are served; a long name is shortened."""
    assert UnknownTask("intnet", ["intent", "mood"]).detail == (
        "there is no task 'intnet'; did you mean 'intent'? Tasks: intent, mood"
    )
    assert UnknownTask("x" * 999, ["intent"]).detail == f"there is no task '{'x' * 80}'. Tasks: intent"


def test_an_invalid_input_lists_all_fields_and_shows_the_first() -> None:
    """The detail shows the first wrong field and the number of others; `errors` has all of them."""
    error = InvalidInput([FieldError("inputs[2].text_pair", "is required"), FieldError("inputs[3]", "is odd")])
    assert error.detail == "inputs[2].text_pair: is required (and 1 more)"
    assert error.problem().errors == (
        FieldError("inputs[2].text_pair", "is required"),
        FieldError("inputs[3]", "is odd"),
    )


@pytest.mark.parametrize(("wait_s", "header"), [(0, 1), (0.2, 1), (1.2, 2), (7, 7)])
def test_retry_after_is_rounded_up(wait_s: float, header: int) -> None:
    """Retry-After is in whole seconds, rounded up, and at least 1."""
    assert QueueFull("full", retry_after_s=wait_s).problem().retry_after_s == header


def test_an_internal_error_does_not_show_its_cause() -> None:
    """The cause is kept for the log, and the detail refers the client to the request id."""
    cause = RuntimeError("secret")
    error = InternalError(cause)
    assert error.__cause__ is cause
    assert "request_id" in error.detail
    assert "secret" not in error.detail
