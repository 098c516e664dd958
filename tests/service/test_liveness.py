"""Liveness: how long a count has stood still."""

from __future__ import annotations

from polytask.service.liveness import TICK_S, ProgressWatch


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_seconds_of_standing_still_are_counted() -> None:
    """They grow with the looks that find the same count, and begin anew with another one."""
    clock = Clock()
    watch = ProgressWatch(clock)
    found = []
    for count in (0, 0, 0, 1, 1):
        clock.now += TICK_S
        found.append(watch.look(count))
    assert found == [0, TICK_S, 2 * TICK_S, 0, TICK_S]


def test_time_in_which_nobody_looked_does_not_count() -> None:
    """After an hour in which the watcher was stopped, too, a count has stood still for one second more, and no longer."""
    clock = Clock()
    watch = ProgressWatch(clock)
    watch.look(0)
    clock.now += 3600
    assert watch.look(0) == 1
    clock.now += TICK_S
    assert watch.look(1) == 0
