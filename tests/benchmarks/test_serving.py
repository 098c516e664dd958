"""Serving benchmarks: percentiles, schedules, parsing and ratios."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serving.load import LOST, Outcome, Request, Sample, arrivals, closed_loop, open_loop, parse, percentile
from benchmarks.serving.overload import Promise
from benchmarks.serving.servers import free_port, means
from benchmarks.serving.synthetic import SIZES, conditioned, encoder_flops, lengths, plain
from benchmarks.serving.systems import ALL, find
from benchmarks.serving.timing import in_turns, ratio
from benchmarks.serving.workload import Row, groups
from polytask.model.encoding import Input
from polytask.model.tasks import Task
from tests.support import tiny

BODY = b'{"texts": ["a"]}'
REQUEST = Request.post("mood", 1, "/mood", BODY)
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_the_least_value_that_covers_its_share(values: list[float], share: float) -> None:
    """A percentile is the smallest value that at least the share of the values do not exceed."""
    found = percentile(values, share)
    assert found in values
    covered = [sum(other <= value for other in values) >= share * len(values) for value in values]
    assert found == min(value for value, enough in zip(values, covered, strict=True) if enough)


def test_a_percentile_of_nothing_is_no_number() -> None:
    """The percentile of no values is NaN."""
    assert math.isnan(percentile([], 0.5))


def test_arrivals_are_a_poisson_process() -> None:
    """Arrival times rise within the time, match the rate, and their gaps have a standard deviation equal to their mean."""
    times = list(arrivals(200, 100, seed=1))
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert min(gaps) > 0
    assert times[-1] < 100
    assert mean == pytest.approx(1 / 200, rel=0.05)
    assert spread == pytest.approx(mean, rel=0.05)
    assert times == list(arrivals(200, 100, seed=1))


_HEAD = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3\r\n"


@pytest.mark.parametrize(
    "wire",
    [
        _HEAD + b"Content-Length: 5\r\n\r\nhello",
        _HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ],
)
def test_a_response_is_read_once_it_is_whole(wire: bytes) -> None:
    """A partial response is not parsed; a whole one gives status, body and Retry-After."""
    assert all(parse(wire[:end]) is None for end in range(len(wire)))
    response = parse(wire)
    assert response is not None
    assert response == (429, b"hello", 3.0)


def test_only_what_was_due_in_time_counts() -> None:
    """Latencies leave out requests of the warm-up, and throughput leaves out answers after the end."""

    def sample(due: float, done: float, status: int = 200) -> Sample:
        return Sample("mood", 4, status, due, due, done)

    samples = [sample(9, 9.5), sample(9.9, 10.5), sample(10, 11), sample(19, 21), sample(12, 13, 429)]
    outcome = Outcome(10.0, 20.0, samples)
    assert outcome.texts_per_s == pytest.approx((4 + 4) / 10)
    assert outcome.statuses == {200: 2, 429: 1}
    assert outcome.latency_ms(1.0) == pytest.approx(2000)
    assert outcome.latency_ms(1.0, 429) == pytest.approx(1000)


async def serve(answer: Answer, load: Callable[[int], Awaitable[Outcome]]) -> Outcome:
    """The outcome of a load on a keep-alive server whose answers `answer` writes."""
    handlers: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(len(BODY))
                await answer(writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.ensure_future(handle(reader, writer)))

    port = free_port()
    async with await asyncio.start_server(connected, "127.0.0.1", port):
        outcome = await load(port)
        await asyncio.gather(*handlers)
        return outcome


async def say_yes(writer: asyncio.StreamWriter) -> None:
    """A 200 without a body."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()


def test_an_open_loop_does_not_wait_for_answers() -> None:
    """An open loop sends ten requests to a server that answers none before the tenth has arrived."""
    arrived = 0
    enough = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == 10:
            enough.set()
        await enough.wait()
        await say_yes(writer)

    expected = len(list(arrivals(200, 0.2)))
    outcome = asyncio.run(serve(answer, lambda port: open_loop(port, [REQUEST], 200, 0.2)))
    assert expected > 10
    assert outcome.statuses == {200: expected}
    assert all(sample.due <= sample.sent <= sample.done for sample in outcome.samples)


def test_a_client_of_a_closed_loop_waits() -> None:
    """A closed loop never has more requests in flight than clients."""
    in_air, most = 0, 0

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal in_air, most
        in_air += 1
        most = max(most, in_air)
        await asyncio.sleep(0.001)
        in_air -= 1
        await say_yes(writer)

    outcome = asyncio.run(serve(answer, lambda port: closed_loop(port, [REQUEST], 3, 0.1)))
    assert most == 3
    assert set(outcome.statuses) == {200}


def test_a_broken_connection_is_a_lost_request() -> None:
    """A request whose connection breaks counts as lost, and the client continues on a new connection."""
    seen = 0

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            writer.close()
        else:
            await say_yes(writer)

    outcome = asyncio.run(serve(answer, lambda port: closed_loop(port, [REQUEST], 1, 0.2)))
    assert outcome.statuses[LOST] == 1
    assert outcome.statuses[200] >= 1


@pytest.mark.parametrize(
    ("said_s", "taken_s", "kept"),
    [(4, 4, True), (4, 2, True), (4, 8, True), (4, 1.9, False), (4, 8.1, False), (1, 0.01, True), (1, 2.1, False)],
)
def test_a_promise_is_kept_within_a_factor_of_two(said_s: float, taken_s: float, kept: bool) -> None:
    """A Retry-After is right within a factor of two; one second, the smallest value, may also mean at once."""
    assert Promise(64, said_s, taken_s).kept is kept


def test_ratios_are_of_the_same_round() -> None:
    """Ratios are taken within a round, so a slow round changes none; each case also runs once for warm-up."""
    assert ratio([2.0, 4.0, 2.2], [1.0, 2.0, 1.0]) == pytest.approx(2.0)
    ran: list[str] = []
    seconds = in_turns({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, 2)
    assert "".join(ran) == "ab" + "ab" + "ba"
    assert [len(own) for own in seconds.values()] == [2, 2]


def test_means_are_of_the_batches() -> None:
    """Milliseconds and rows are per batch, and padding is a share of all tokens; without batches there are no means."""
    counted = {"batches": 4.0, "rows": 32.0, "tasks": 8.0, "seconds": 0.2, "real": 90.0, "padding": 10.0}
    assert means(counted) == pytest.approx({"forward_ms": 50, "rows": 8, "tasks": 2, "padding": 0.1})
    assert means(dict.fromkeys(counted, 0.0)) == {}


def _row(task: Task, text: str) -> Row:
    return Row(task, Input(text))


def test_groups_have_one_task() -> None:
    """Each group has rows of one task in order, and incomplete groups are left out."""
    first, second, *_ = tiny.tasks()
    rows = [_row(task, str(place)) for place, task in enumerate([first, second, first, first, first, second])]
    found = [[row.item.text for row in group] for group in groups(rows, 2)]
    assert found == [["0", "2"], ["3", "4"], ["1", "5"]]


def test_every_system_is_asked_about_the_same_texts() -> None:
    """The request of every system has all texts, pairs included, and their number."""
    task = tiny.tasks()[2]
    rows = [Row(task, Input("first text", "its pair")), Row(task, Input("other text", "another pair"))]
    for system in ALL:
        request = system.request(rows)
        assert request.texts == 2
        for text in ("first text", "its pair", "other text", "another pair"):
            assert text.encode() in request.wire


def test_systems_are_found_by_name_and_engine() -> None:
    """A system is found by name and optional engine; an unknown one is refused by name."""
    assert find("litserve:int8").engine == "int8"
    assert find("polytask").environment is None
    for wrong in ("torchserve", "litserve:magic", "polytask:int8"):
        with pytest.raises(ValueError, match=wrong.partition(":")[0]):
            find(wrong)


def test_the_plain_encoder_is_the_same_without_conditioning() -> None:
    """The plain encoder equals the conditioned one except for the conditioning."""
    config = conditioned(SIZES["tiny"])
    assert config.conditional_alignment
    assert config.conditional_attention == (0, 1)
    assert plain(config) == replace(SIZES["tiny"], conditional_alignment=False, attention_blocks=3, bottleneck_size=21)
    without = plain(config)
    assert not any((without.conditional_alignment, without.conditional_attention, without.conditional_bottleneck))
    assert encoder_flops(config, 2, 16) == encoder_flops(without, 2, 16)


def test_lengths_are_like_those_of_texts() -> None:
    """The drawn lengths have the stated mean."""
    drawn = lengths(20_000)
    assert sum(drawn) / len(drawn) == pytest.approx(31, abs=1)
