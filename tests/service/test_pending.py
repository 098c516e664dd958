"""Tickets: the future that a request brings is done once, from whichever thread."""

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
from polytask.service.pending import PendingRequest, mailbox_of_requests

pytestmark = pytest.mark.anyio


def logits(value: float) -> Logits:
    """The logits of a row with one output."""
    return np.array([value], np.float32)


def in_thread(*calls: Callable[[], None]) -> None:
    """Makes the calls from a thread of their own, as the worker does."""
    thread = threading.Thread(target=lambda: [call() for call in calls])
    thread.start()
    thread.join()


def _ticket(num_rows: int) -> PendingRequest:
    """A ticket of the running loop."""
    return PendingRequest(num_rows, mailbox_of_requests(asyncio.get_running_loop()))


async def test_the_results_come_in_the_order_of_the_rows() -> None:
    """Whatever order rows finish in, the future gets all results in the request's order, and the last batch's times."""
    ticket = _ticket(2)
    in_thread(lambda: ticket.answer(1, logits(1.0), 1.0, 2.0))
    await asyncio.sleep(0)
    assert not ticket.future.done()
    in_thread(lambda: ticket.answer(0, logits(0.0), 3.0, 4.0))
    results = await ticket.future
    assert [row.tolist() for row in results.logits] == [[0.0], [1.0]]
    assert (results.started, results.ended) == (3.0, 4.0)


async def test_a_loop_is_woken_once_not_once_a_row_or_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows requests have that end together, the event loop is woken once."""
    loop = asyncio.get_running_loop()
    woken = 0
    call_soon = loop.call_soon_threadsafe

    def counted(*arguments: Any) -> asyncio.Handle:
        nonlocal woken
        woken += 1
        return call_soon(*arguments)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    ends = mailbox_of_requests(loop)
    tickets = [PendingRequest(50, ends) for _ in range(3)]
    in_thread(*(partial(ticket.answer, place, logits(0), 0, 0) for ticket in tickets for place in range(50)))
    await asyncio.gather(*(ticket.future for ticket in tickets))
    assert woken == 1


async def test_the_first_end_counts() -> None:
    """After a failure neither a second failure nor results change anything."""
    ticket = _ticket(1)
    in_thread(ticket.expire, lambda: ticket.fail(RuntimeError()), lambda: ticket.answer(0, logits(0), 0, 0))
    with pytest.raises(DeadlineExceeded):
        await ticket.future


async def test_a_failure_of_the_device_is_an_internal_error() -> None:
    """What is not meant for clients is wrapped; what is goes through."""
    ticket = _ticket(1)
    cause = RuntimeError("out of luck")
    ticket.fail(cause)
    with pytest.raises(InternalError) as raised:
        await ticket.future
    assert raised.value.__cause__ is cause
    gone = _ticket(1)
    gone.fail(ClientGone("gone"))
    with pytest.raises(ClientGone):
        await gone.future


def test_a_loop_that_is_closed_is_no_failure_of_the_worker() -> None:
    """The worker may finish a row when the server has already gone."""
    loop = asyncio.new_event_loop()
    ticket = PendingRequest(1, mailbox_of_requests(loop))
    loop.close()
    ticket.answer(0, logits(0), 0, 0)
    ticket.fail(RuntimeError())
