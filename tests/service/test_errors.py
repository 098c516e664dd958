"""Problems: what a client is told when it gets no answer."""

from __future__ import annotations

import pytest

from polytask.service import errors
from polytask.service.errors import FieldError, InternalError, InvalidInput, QueueFull, ServiceError, UnknownTask


@pytest.mark.parametrize(
    ("leaf", "status", "outcome"),
    [
        (errors.UnknownTask, 404, "invalid"),
        (errors.InvalidInput, 422, "invalid"),
        (errors.TooManyInputs, 413, "rejected"),
        (errors.BodyTooLarge, 413, "rejected"),
        (errors.QueueFull, 429, "rejected"),
        (errors.DeadlineExceeded, 504, "expired"),
        (errors.Unauthorized, 401, "rejected"),
        (errors.Forbidden, 403, "rejected"),
        (errors.RateLimited, 429, "rejected"),
        (errors.ConcurrencyLimited, 429, "rejected"),
        (errors.NotReady, 503, "rejected"),
        (errors.Draining, 503, "rejected"),
        (errors.ClientGone, 499, "cancelled"),
        (errors.InternalError, 500, "error"),
    ],
)
def test_every_cause_has_its_status_and_outcome(leaf: type[ServiceError], status: int, outcome: str) -> None:
    """Statuses are an interface, outcomes label a metric."""
    assert (leaf.status, leaf.outcome) == (status, outcome)


def test_no_two_causes_share_a_type() -> None:
    """A program can tell all problems apart by their type."""
    titles = [leaf.title for leaf in ServiceError.__subclasses__()]
    assert len(set(titles)) == len(titles) == 17


def test_an_unknown_task_suggests_the_nearest_and_lists_all() -> None:
    """The detail is enough to correct the request."""
    assert UnknownTask("intnet", ["intent", "mood"]).detail == (
        "there is no task 'intnet'; did you mean 'intent'? Tasks: intent, mood"
    )
    assert UnknownTask("x" * 999, ["intent"]).detail == f"there is no task '{'x' * 80}'. Tasks: intent"


def test_an_invalid_input_lists_all_fields_and_shows_the_first() -> None:
    """The detail is for people, the list for programs."""
    error = InvalidInput([FieldError("inputs[2].text_pair", "is required"), FieldError("inputs[3]", "is odd")])
    assert error.detail == "inputs[2].text_pair: is required (and 1 more)"
    assert error.problem().errors == (
        FieldError("inputs[2].text_pair", "is required"),
        FieldError("inputs[3]", "is odd"),
    )


@pytest.mark.parametrize(("wait_s", "header"), [(0, 1), (0.2, 1), (1.2, 2), (7, 7)])
def test_retry_after_is_rounded_up(wait_s: float, header: int) -> None:
    """Whole seconds, never earlier than there is room, never at once."""
    assert QueueFull("full", retry_after_s=wait_s).problem().retry_after_s == header


def test_an_internal_error_keeps_its_reason_to_itself() -> None:
    """The log gets the cause, the client is told where to look."""
    cause = RuntimeError("secret")
    error = InternalError(cause)
    assert error.__cause__ is cause
    assert "request_id" in error.detail
    assert "secret" not in error.detail
