"""Windows over a text to one row: their results as if the text had been read at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from polytask.model.encoding import Encoding
from polytask.model.tasks import Task

_Logits = NDArray[np.float32]


def merge_windows(
    task: Task, rows: Sequence[Encoding], logits: Sequence[_Logits]
) -> tuple[list[Encoding], list[_Logits]]:
    """A row and its logits for each text that the rows, in order, are windows over; a row alone stays as it is.

    Of windows the logits are the mean, as all are full; or, at the level of tokens, each token's own from the window
    that shows most around it. What follows from all tokens at once, a softmax over a context, is then taken once over
    the whole text, so that its scores can be compared. A row of several windows is good for its places alone.
    """
    merged = [
        _stitch(*zip(*windows, strict=True)) if task.token_level else _average(*zip(*windows, strict=True))
        for _, windows in groupby(zip(rows, logits, strict=True), key=lambda pair: pair[0].parts[-1].text)
    ]
    return [row for row, _ in merged], [row_logits for _, row_logits in merged]


def _average(rows: Sequence[Encoding], logits: Sequence[_Logits]) -> tuple[Encoding, _Logits]:
    return rows[0], logits[0] if len(logits) == 1 else np.mean(logits, axis=0)


def _stitch(rows: Sequence[Encoding], logits: Sequence[_Logits]) -> tuple[Encoding, _Logits]:
    if len(rows) == 1 or not any(row.positions for row in rows):
        return rows[0], logits[0]
    best: dict[int, tuple[int, tuple[int, int], _Logits]] = {}
    for row, row_logits in zip(rows, logits, strict=True):
        _, start, stop, first_position = row.parts[-1]
        for position, characters in zip(row.positions, row.offsets, strict=True):
            token = start + position - first_position
            around = min(token - start, stop - 1 - token)
            if token not in best or around > best[token][0]:
                best[token] = around, characters, row_logits[position]
    tokens = [best[token] for token in sorted(best)]
    positions, offsets = tuple(range(len(tokens))), tuple(characters for _, characters, _ in tokens)
    return replace(rows[0], positions=positions, offsets=offsets), np.stack([row_logits for *_, row_logits in tokens])
