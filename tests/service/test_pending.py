"""Pending requests: the future of a request is done once, from any thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from polytask.model.answers import Logits
from polytask.service.errors import ClientGone, DeadlineExceeded, InternalError
from polytask.service.pending import PendingRequest, completion_mailbox

pytestmark = pytest.mark.anyio


def logits(value: float) -> Logits:
    """The logits of a row with one output."""
    return np.array([value], np.float32)


def in_thread(*calls: Callable[[], None]) -> None:
    """Makes the calls from a thread of their own, as the worker does."""
    thread = threading.Thread(target=lambda: [call() for call in calls])
    thread.start()
    thread.join()


def _pending(num_rows: int) -> PendingRequest:
    """A pending request of the running loop."""
    return PendingRequest(num_rows, completion_mailbox(asyncio.get_running_loop()))


async def test_the_results_come_in_the_order_of_the_rows() -> None:
    """The future gets all results in the request's order, whatever order rows finish in, and the times of the last batch."""
    pending = _pending(2)
    in_thread(lambda: pending.answer(1, logits(1.0), 1.0, 2.0))
    await asyncio.sleep(0)
    assert not pending.future.done()
    in_thread(lambda: pending.answer(0, logits(0.0), 3.0, 4.0))
    results = await pending.future
    assert [row.tolist() for row in results.logits] == [[0.0], [1.0]]
    assert (results.started, results.ended) == (3.0, 4.0)


async def test_a_loop_is_woken_once_not_once_a_row_or_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop is woken once for all requests that end together, however many rows they have."""
    loop = asyncio.get_running_loop()
    woken = 0
    call_soon = loop.call_soon_threadsafe

    def counted(*arguments: Any) -> asyncio.Handle:
        nonlocal woken
        woken += 1
        return call_soon(*arguments)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    ends = completion_mailbox(loop)
    requests = [PendingRequest(50, ends) for _ in range(3)]
    in_thread(*(partial(pending.answer, index, logits(0), 0, 0) for pending in requests for index in range(50)))
    await asyncio.gather(*(pending.future for pending in requests))
    assert woken == 1


async def test_the_first_end_counts() -> None:
    """After a failure, later failures and results have no effect."""
    pending = _pending(1)
    in_thread(pending.expire, lambda: pending.fail(RuntimeError()), lambda: pending.answer(0, logits(0), 0, 0))
    with pytest.raises(DeadlineExceeded):
        await pending.future


async def test_a_failure_of_the_device_is_an_internal_error() -> None:
    """An error that is not meant for clients becomes InternalError; others stay unchanged."""
    pending = _pending(1)
    cause = RuntimeError("out of luck")
    pending.fail(cause)
    with pytest.raises(InternalError) as raised:
        await pending.future
    assert raised.value.__cause__ is cause
    gone = _pending(1)
    gone.fail(ClientGone("gone"))
    with pytest.raises(ClientGone):
        await gone.future


def test_a_loop_that_is_closed_is_no_failure_of_the_worker() -> None:
    """A worker that finishes a row after the event loop was closed does not fail."""
    loop = asyncio.new_event_loop()
    pending = PendingRequest(1, completion_mailbox(loop))
    loop.close()
    pending.answer(0, logits(0), 0, 0)
    pending.fail(RuntimeError())
