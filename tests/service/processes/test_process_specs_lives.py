"""When a process that has died is started again."""

from __future__ import annotations

from itertools import pairwise

from polytask.service.processes.process_specs import RestartPolicy


def test_the_first_death_is_made_good_at_once_and_each_further_one_later() -> None:
    """Pauses double up to half a minute, so that a process that dies again and again does no harm."""
    lives = RestartPolicy()
    pauses = [lives.died(ready=True, lived_s=5) or 0.0 for _ in range(20)]
    assert pauses[0] == 0.1
    assert all(later in {2 * sooner, 30.0} for sooner, later in pairwise(pauses))
    assert pauses[-1] == 30.0


def test_a_long_life_is_a_new_beginning() -> None:
    """Who has worked for a minute is started again at once."""
    lives = RestartPolicy()
    for _ in range(10):
        lives.died(ready=True, lived_s=5)
    lives.died(ready=True, lived_s=60)
    assert lives.died(ready=True, lived_s=5) == 0.1


def test_who_never_gets_ready_is_given_up() -> None:
    """Five lives in a row that end before the process is ready are enough; one that gets there starts the count anew."""
    lives = RestartPolicy()
    for ready in (False, False, False, False, True, False, False, False, False):
        assert lives.died(ready=ready, lived_s=1) is not None
    assert lives.died(ready=False, lived_s=1) is None
