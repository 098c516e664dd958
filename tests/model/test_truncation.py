"""Truncation and windows: which tokens are read of texts that are too long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.model.truncation import TokenRange, Truncation, truncate_one, truncate_pair, truncate_two, windows

LENGTHS = st.integers(0, 700)
ROOMS = st.integers(4, 64)


def covered(stretches: list[TokenRange]) -> set[int]:
    """The tokens in any of the ranges."""
    return {token for start, stop in stretches for token in range(start, stop)}


@given(LENGTHS, ROOMS)
def test_windows_cover_every_token_and_are_full(length: int, room: int) -> None:
    """Windows are full unless there is only one, neighbours overlap by a quarter of the room, and none could be left out."""
    found = windows(length, room)
    assert covered(found) == set(range(length))
    if length <= room:
        assert found == [(0, length)]
        return
    assert {stop - start for start, stop in found} == {room}
    assert all(stop - start >= room // 4 for (start, _), (_, stop) in zip(found[1:], found, strict=False))
    step = room - room // 4
    assert (len(found) - 2) * step + room < length <= (len(found) - 1) * step + room


@given(LENGTHS, ROOMS, st.sampled_from(Truncation))
def test_a_text_that_fits_is_read_whole(length: int, room: int, rule: Truncation) -> None:
    """A text that fits is one row under every rule; a longer one keeps the end that the rule names."""
    found = truncate_one(length, room, rule)
    if length <= room:
        assert found == [(0, length)]
    elif rule is Truncation.LEFT:
        assert found == [(length - room, length)]
    elif rule is not Truncation.WINDOW:
        assert found == [(0, room)]


@given(LENGTHS, LENGTHS, ROOMS, st.sampled_from(Truncation), st.booleans())
def test_two_texts_fit_into_each_row(
    first: int, second: int, room: int, rule: Truncation, second_is_context: bool
) -> None:
    """No row is over the room; without windows each text keeps as many tokens as under longest first."""
    found = truncate_two(first, second, room, rule, second_is_context=second_is_context)
    sizes = [tuple(stop - start for start, stop in pair) for pair in found]
    assert all(sum(pair) <= room for pair in sizes)
    if rule is not Truncation.WINDOW:
        assert sizes == [truncate_pair(first, second, room)]
    if first + second <= room:
        assert found == [((0, first), (0, second))]


@given(LENGTHS, LENGTHS, ROOMS, st.booleans())
def test_windows_lie_over_the_longer_text(first: int, second: int, room: int, second_is_context: bool) -> None:
    """All of the longer text or of a context is read; the other text keeps its beginning, up to half the room."""
    found = truncate_two(first, second, room, Truncation.WINDOW, second_is_context=second_is_context)
    sides = [[pair[side] for pair in found] for side in (0, 1)]
    over = 1 if second_is_context or second >= first else 0
    assert covered(sides[over]) == set(range((first, second)[over]))
    other = (second, first)[over]
    assert other <= room // 2 or len(covered(sides[1 - over])) >= room // 2
    if first + second > room:
        assert set(sides[1 - over]) == {(0, min(other, room // 2))}


@pytest.mark.parametrize("rule", [Truncation.RIGHT, Truncation.LONGEST_FIRST, Truncation.ERROR])
def test_right_is_another_name_of_the_default(rule: Truncation) -> None:
    """RIGHT and ERROR keep the same tokens as LONGEST_FIRST."""
    assert truncate_two(30, 10, 20, rule, second_is_context=False) == [((0, 10), (0, 10))]
    assert truncate_two(30, 10, 20, Truncation.LEFT, second_is_context=False) == [((20, 30), (0, 10))]
