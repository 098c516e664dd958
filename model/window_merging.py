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
    found = [
        _stitched(*zip(*windows, strict=True)) if task.token_level else _averaged(*zip(*windows, strict=True))
        for _, windows in groupby(zip(rows, logits, strict=True), key=lambda pair: pair[0].parts[-1].text)
    ]
    return [row for row, _ in found], [own for _, own in found]


def _averaged(rows: Sequence[Encoding], logits: Sequence[_Logits]) -> tuple[Encoding, _Logits]:
    return rows[0], logits[0] if len(logits) == 1 else np.mean(logits, axis=0)


def _stitched(rows: Sequence[Encoding], logits: Sequence[_Logits]) -> tuple[Encoding, _Logits]:
    if len(rows) == 1 or not any(row.places for row in rows):
        return rows[0], logits[0]
    best: dict[int, tuple[int, tuple[int, int], _Logits]] = {}
    for row, own in zip(rows, logits, strict=True):
        _, start, stop, begin = row.parts[-1]
        for place, characters in zip(row.places, row.offsets, strict=True):
            token = start + place - begin
            around = min(token - start, stop - 1 - token)
            if token not in best or around > best[token][0]:
                best[token] = around, characters, own[place]
    tokens = [best[token] for token in sorted(best)]
    places, offsets = tuple(range(len(tokens))), tuple(characters for _, characters, _ in tokens)
    return replace(rows[0], places=places, offsets=offsets), np.stack([own for *_, own in tokens])
