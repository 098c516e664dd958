"""Truncation of texts that are too long for a row, and overlapping windows over them."""

from __future__ import annotations

from enum import StrEnum

TokenRange = tuple[int, int]
"""Tokens of a text: index of the first one, and index after the last one."""


class Truncation(StrEnum):
    """What becomes of texts that do not fit into a row.

    LONGEST_FIRST: the longer of two texts loses tokens from its end until both fit; one text loses its end. RIGHT is
    another name for it. LEFT: the same from the beginning. ERROR cuts as LONGEST_FIRST does, for a caller that looks at
    `dropped_tokens` and refuses. WINDOW: the longer text is read in several rows, nothing of it is cut off.
    """

    LONGEST_FIRST = "longest_first"
    RIGHT = "right"
    LEFT = "left"
    ERROR = "error"
    WINDOW = "window"


def truncate_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """Numbers of tokens to keep of two texts so that both fit into `room`.

    The longer text loses tokens until both fit; on a tie the second one does.
    """
    excess = max(0, first + second - room)
    longer_loses = min(excess, abs(first - second))
    both_lose = excess - longer_loses
    if first > second:
        first -= longer_loses
    else:
        second -= longer_loses
    return first - both_lose // 2, second - (both_lose - both_lose // 2)


def windows(length: int, room: int) -> list[TokenRange]:
    """The fewest ranges of `room` tokens that cover a text of `length` and overlap by at least a quarter of the room.

    They are spaced evenly, so every one is full: each has as much context as a row can hold, and all weigh the same.
    """
    if length <= room:
        return [(0, length)]
    last = length - room
    steps = -(-last // (room - room // 4))
    return [(start := last * step // steps, start + room) for step in range(steps + 1)]


def truncate_one(length: int, room: int, rule: Truncation) -> list[TokenRange]:
    """The tokens to read of one text of `length` tokens: one range for each row."""
    if length <= room:
        return [(0, length)]
    if rule is Truncation.WINDOW:
        return windows(length, room)
    return [_kept(length, room, rule)]


def truncate_two(
    first: int, second: int, room: int, rule: Truncation, *, second_is_context: bool
) -> list[tuple[TokenRange, TokenRange]]:
    """The tokens to read of two texts: a range of each for each row.

    Windows cover the longer text, or the second one on a tie or if `second_is_context`. The other text keeps its
    beginning, up to half the room.
    """
    if first + second > room and rule is Truncation.WINDOW:
        if first <= second or second_is_context:
            kept = (0, min(first, room // 2))
            return [(kept, window) for window in windows(second, room - kept[1])]
        kept = (0, min(second, room // 2))
        return [(window, kept) for window in windows(first, room - kept[1])]
    keep_first, keep_second = truncate_pair(first, second, room)
    return [(_kept(first, keep_first, rule), _kept(second, keep_second, rule))]


def _kept(length: int, keep: int, rule: Truncation) -> TokenRange:
    return (length - keep, length) if rule is Truncation.LEFT else (0, keep)
