"""Throughput: the measured speed after anything that can happen to a device, and what the queue makes of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from polytask.service.config.task_policies import TaskPolicy
from polytask.service.scheduling.queue import BatchLimits, FairQueue, Full, QuotaFull, Row, TooLarge, TooLate
from polytask.service.scheduling.throughput import ThroughputEstimator
from tests.service.scheduling.simulated_device import SimulatedDevice, rows

SPEED = 10_000.0
DEADLINE_S = 10.0
LIMITS = BatchLimits(
    max_rows=32, token_budget=1024, forward_tokens=32, max_waiting_tokens=10**6, deadline_s=DEADLINE_S, speed=SPEED
)
PATIENT = replace(LIMITS, deadline_s=math.inf)
"""Clients wait for ever, so that nothing is too large."""

QUOTA = 6000

requests = st.builds(
    lambda lengths, times: lengths * times,
    st.lists(st.sampled_from([4, 20, 100, 384]), min_size=1, max_size=3),
    st.sampled_from([1, 20, 60, 120, 240]),
)
many_rows = st.builds(
    lambda lengths, times: lengths * times,
    st.lists(st.sampled_from([20, 100, 384]), min_size=1, max_size=2),
    st.just(120),
)
load = st.tuples(st.just("request"), requests, st.integers(0, 2))
event = st.one_of(
    load,
    st.tuples(st.just("small requests"), st.integers(1, 60)),
    st.tuples(st.just("run"), st.sampled_from([0.01, 0.3, 2.0])),
    st.tuples(st.just("idle"), st.sampled_from([0.5, 5.0, 11.0, 100.0])),
)
disturbance = st.one_of(
    st.tuples(st.just("stall"), st.sampled_from([0.2, 9.0, 45.0])),
    st.tuples(st.just("slow"), st.sampled_from([0.05, 0.1, 0.5, 1.0])),
)
num_streams = st.sampled_from([1, 2, 6])


def started(streams: int, *, start_speed: float | None = SPEED, limits: BatchLimits = LIMITS) -> SimulatedDevice:
    """A device at work, whose speed was measured at the start."""
    queue: FairQueue[None] = FairQueue(limits, num_streams=streams)
    queue.start(replace(limits, speed=start_speed and start_speed / streams), now=0)
    return SimulatedDevice(queue, SPEED)


def live_through(device: SimulatedDevice, history: Sequence[tuple[object, ...]]) -> None:
    """Lets a history of events happen to a device; what its queue refuses is gone."""
    for name, *details in history:
        match name, details:
            case "request", [list() as lengths, int() as task_id]:
                ask(device, lengths, task_id)
            case "small requests", [int() as number]:
                for _ in range(number):
                    ask(device, [4])
                    device.drain()
            case "run", [float() as seconds]:
                device.run_until(device.now + seconds)
            case "idle", [float() as seconds]:
                device.drain()
                device.run_until(device.now + seconds)
            case "stall", [float() as seconds]:
                device.stall(seconds)
            case "slow", [float() as factor]:
                device.speed = factor * SPEED


def ask(device: SimulatedDevice, lengths: Sequence[int], task_id: int = 0) -> Exception | None:
    """Sends a request; returns its refusal."""
    request = rows(lengths, task_id=task_id, now=device.now, deadline_s=DEADLINE_S)
    try:
        device.queue.admit(request, device.now)
    except (Full, TooLarge) as refused:
        return refused
    return None


def seconds_alone(lengths: Sequence[int], streams: int = 1) -> float:
    """How long a request takes on a device that does nothing else."""
    device = started(streams, start_speed=None)
    device.queue.admit(rows(lengths), 0)
    device.drain()
    return device.now


@given(st.lists(event | disturbance, max_size=12), requests, num_streams)
def test_an_idle_device_refuses_nothing_that_it_could_run(
    history: Sequence[tuple[object, ...]], lengths: Sequence[int], streams: int
) -> None:
    """After any stalls, slow times and loads, a request to an idle device that fits its deadline is admitted."""
    assume(seconds_alone(lengths, streams) <= DEADLINE_S)
    device = started(streams)
    live_through(device, history)
    device.drain()
    device.queue.require_room(0, sum(lengths), 0, device.now + DEADLINE_S, device.now)
    assert ask(device, lengths) is None


@given(st.lists(event | disturbance, max_size=12), num_streams, st.sampled_from([0.1, 0.7, 1.0]))
def test_the_speed_is_right_after_twenty_batches_of_each_stream(
    history: Sequence[tuple[object, ...]], streams: int, factor: float
) -> None:
    """Whatever happened before, and with one more stall among them, twenty-one full batches a stream give the speed to a tenth."""
    device = started(streams, limits=PATIENT)
    live_through(device, history)
    device.drain()
    device.speed = factor * SPEED
    device.queue.admit(rows([1024] * 10 * streams), device.now)
    device.stall(30)
    device.drain()
    device.queue.admit(rows([1024] * 11 * streams), device.now)
    device.drain()
    assert device.queue.speed(device.now) == pytest.approx(factor * SPEED, rel=0.1)


@given(st.lists(st.sampled_from([0.5, 9.0, 45.0]), min_size=1, max_size=3), num_streams)
def test_stalls_do_not_change_the_speed(stalls: Sequence[float], streams: int) -> None:
    """Stalls with twenty batches between them leave the speed as it was, whether the batch is the first in a while or not."""
    device = started(streams, limits=PATIENT)
    for seconds in stalls:
        device.queue.admit(rows([1024] * 20 * streams), device.now)
        device.stall(seconds)
        device.drain()
        assert device.queue.speed(device.now) == pytest.approx(SPEED, rel=0.1)


@given(
    st.lists(event, max_size=8),
    st.lists(st.tuples(st.just("request"), many_rows, st.integers(0, 1)), min_size=2, max_size=5),
    many_rows,
    st.integers(0, 1),
    num_streams,
)
@example([], [("request", [100] * 120, 0)], [20, 384] * 120, 0, 1)
@example([], [("request", [100] * 120, 0)] * 4, [100] * 240, 0, 1)
def test_a_client_that_waits_as_long_as_it_was_told_is_let_in(
    history: Sequence[tuple[Any, ...]],
    at_last: Sequence[tuple[Any, ...]],
    lengths: Sequence[int],
    task_id: int,
    streams: int,
) -> None:
    """At a constant speed a refused request is admitted after the seconds of Retry-After, if nothing else has come.

    With several tasks their shares change meanwhile, and it may take two tries more.
    """
    device = started(streams, limits=replace(LIMITS, max_waiting_tokens=60_000))
    assume(sum(lengths) <= 60_000)
    live_through(device, [*history, *at_last])
    others = {details[1] for name, *details in [*history, *at_last] if name == "request"} - {task_id}
    for _ in range(3 if others else 1):
        refused = ask(device, lengths, task_id)
        if refused is None:
            return
        assert isinstance(refused, Full)
        device.run_until(device.now + max(1, math.ceil(refused.wait_s)))
    assert ask(device, lengths, task_id) is None


@given(requests, num_streams)
def test_only_what_never_fits_is_too_large(lengths: Sequence[int], streams: int) -> None:
    """What is refused as too large takes more than a deadline alone; what takes one and a half is refused, with a number that fits."""
    device, needed = started(streams, limits=replace(LIMITS, max_waiting_tokens=10**9)), seconds_alone(lengths, streams)
    refused = ask(device, lengths)
    assert refused is None or (isinstance(refused, TooLarge) and needed > DEADLINE_S)
    if needed > 1.5 * DEADLINE_S:
        assert isinstance(refused, TooLarge)
        assert refused.num_tokens == sum(lengths)
        assert ask(device, lengths[: int(len(lengths) * refused.most_tokens / refused.num_tokens)]) is None


def test_what_is_too_large_is_tried_when_nothing_has_run_for_a_minute() -> None:
    """A start on a busy machine does no lasting harm: after an idle minute a request is run that seemed too large, and mends the speed."""
    device, lengths = started(1, start_speed=SPEED / 4), [384] * 130
    assert seconds_alone(lengths) < DEADLINE_S
    assert isinstance(ask(device, lengths), TooLarge)
    device.run_until(61)
    assert ask(device, lengths) is None
    device.drain()
    assert ask(device, lengths) is None
    device.drain()
    device.run_until(device.now + 59)
    assert ask(device, lengths) is None


def test_a_slow_time_does_not_make_requests_too_large() -> None:
    """While the device is slow, what it ran in time before waits for its turn; it is not refused for good."""
    device, lengths = started(1), [384] * 200
    device.speed = SPEED / 10
    for _ in range(5):
        assert not isinstance(ask(device, lengths), TooLarge)
        device.run_until(device.now + 2)


@pytest.mark.parametrize(("length", "together"), [(4, 1), (4, 20), (30, 1), (30, 32), (1000, 1)])
def test_the_speed_depends_neither_on_the_length_nor_on_the_number_of_rows(length: int, together: int) -> None:
    """Short, long, few and many rows give the same speed, so that none of them stands in for the others' cost."""
    throughput = ThroughputEstimator()
    for now in range(50):
        cost = LIMITS.forward_tokens + together * length
        throughput.record(rows([length] * together), cost / SPEED, LIMITS, now / 10)
    assert throughput.speed(5) == pytest.approx(SPEED)


def test_the_share_of_a_task_is_that_of_the_last_batches() -> None:
    """A task's share is by tokens, and is forgotten with the batches."""
    throughput = ThroughputEstimator()
    assert (throughput.speed(0), throughput.task_share(0)) == (None, 0)
    for now in range(100):
        throughput.record(rows([300]), 1, LIMITS, now / 10)
    for now in range(100, 140):
        throughput.record([*rows([90]), *rows([10], task_id=1)], 1, LIMITS, now / 10)
    assert throughput.task_share(1) == pytest.approx(0.1)
    assert throughput.speed(20) is not None
    assert throughput.speed(30) is None
    assert throughput.task_share(1) == 0


def test_many_rows_are_let_in_after_single_ones() -> None:
    """A device that has run only single short rows is not considered too slow for two hundred long rows behind another."""
    device = started(1, start_speed=None)
    live_through(device, [("small requests", 60)])
    assert ask(device, [4]) is None
    assert ask(device, [100] * 200) is None


@dataclass
class Overload:
    """Too many requests for a device, half of them for task 0.

    `left`: time, and tokens of task 0 and of all tasks that have left the queue by then. `refused`: time, error, tokens
    in excess, and the estimated wait.
    """

    device: SimulatedDevice
    deadline_s: float = 1e9
    left: list[tuple[float, int, int]] = field(default_factory=list)
    refused: list[tuple[float, type[Full], int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._admitted: Counter[int] = Counter()

    def run(self, seconds: float, *, times: float) -> None:
        """Sends `times` as many tokens as the device can run, in requests of very different sizes."""
        generator = np.random.default_rng(0)
        while self.device.now < seconds:
            lengths = generator.lognormal(3, 0.6, generator.choice([1, 4, 30, 200])).clip(4, 384).astype(int)
            self._request([int(length) for length in lengths], int(generator.choice([0, 0, 0, 1, 2, 3])))
            self.device.run_until(self.device.now + lengths.sum() / SPEED / times)
            waiting = self.device.queue.waiting()
            left = self._admitted - Counter({task_id: found.tokens for task_id, found in waiting.items()})
            self.left.append((self.device.now, left[0], left.total()))

    def _request(self, lengths: Sequence[int], task_id: int) -> None:
        queue, now, asked = self.device.queue, self.device.now, sum(lengths)
        waiting = queue.waiting()
        try:
            queue.admit(rows(lengths, task_id=task_id, now=now, deadline_s=self.deadline_s), now)
            self._admitted[task_id] += asked
        except QuotaFull as full:
            if task_id == 0:
                self.refused.append((now, QuotaFull, waiting[0].tokens + asked - QUOTA, full.wait_s))
        except Full as full:
            excess = sum(tokens for _, tokens in waiting.values()) + asked - queue.limits.max_waiting_tokens
            self.refused.append((now, type(full), excess, full.wait_s))

    def waits(self, why: type[Full]) -> list[tuple[float, float]]:
        """Estimated and real waits after the start, without those of one or two batches."""
        column, found = (1 if why is QuotaFull else 2), []
        for now, error, excess, estimate in self.refused:
            if error is why and now > 5 and estimate > 0.25:
                before = max(entry[column] for entry in self.left if entry[0] <= now)
                then = next((entry[0] for entry in self.left if entry[column] >= before + excess), None)
                if then is not None:
                    found.append((estimate, then - now))
        return found


@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("why", [Full, QuotaFull])
def test_retry_after_is_right_within_a_factor_of_two(why: type[Full], streams: int) -> None:
    """At ten times the possible load, the queue and a quota have room again within a factor of two of the estimate."""
    quota = dict.fromkeys(range(4), TaskPolicy(weight=2, max_waiting_tokens=QUOTA)) if why is QuotaFull else {}
    limits = replace(LIMITS, max_waiting_tokens=30_000)
    overload = Overload(SimulatedDevice(FairQueue(limits, quota, streams), SPEED))
    overload.run(15, times=10)
    waits = overload.waits(why)
    assert len(waits) > 20
    right = [estimate / 2 <= real <= 2 * estimate for estimate, real in waits]
    assert sum(right) >= 0.95 * len(right)


@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("times", [1.2, 10])
def test_what_is_accepted_in_an_overload_is_run_before_its_deadline(times: float, streams: int) -> None:
    """When the queue is longer than deadlines allow, requests are refused at once instead of expiring in it."""
    overload = Overload(started(streams), deadline_s=1.5)
    overload.run(15, times=times)
    device = overload.device
    assert any(why is TooLate for _, why, _, _ in overload.refused)
    late = [row for row, done in device.ran.items() if done > row.deadline]
    assert len(device.expired) + len(late) <= 0.02 * len(device.ran)


def test_a_request_may_be_one_of_several_tasks() -> None:
    """Parts of several tasks count together towards what is too large."""
    device = started(1)
    part = [Row(task_id, 384, DEADLINE_S, None) for task_id in (0, 1) for _ in range(190)]
    with pytest.raises(TooLarge):
        device.queue.admit(part, 0)
