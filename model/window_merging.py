"""Merging of windows: the logits of several rows over one text as if it had been read at once."""

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
    """One row and its logits for each text; `rows` are windows over the texts, in order. A single row is unchanged.

    Sentence logits are the mean over the windows, as all windows are full. Token logits are taken, for each token, from
    the window with the most context around it. A softmax over a context is then taken once over the whole text, so that
    its scores can be compared. That a question has no answer is as likely as in the window where it is least likely, as
    one window with an answer is enough. Of a merged row only `positions` and `offsets` are meaningful.
    """
    merged = [
        _stitch(*zip(*windows, strict=True), no_answer=task.may_lack_answer)
        if task.token_level
        else _average(*zip(*windows, strict=True))
        for _, windows in groupby(zip(rows, logits, strict=True), key=lambda pair: pair[0].parts[-1].text)
    ]
    return [row for row, _ in merged], [row_logits for _, row_logits in merged]


def _average(rows: Sequence[Encoding], logits: Sequence[_Logits]) -> tuple[Encoding, _Logits]:
    return rows[0], logits[0] if len(logits) == 1 else np.mean(logits, axis=0)


def _stitch(rows: Sequence[Encoding], logits: Sequence[_Logits], *, no_answer: bool) -> tuple[Encoding, _Logits]:
    if len(rows) == 1 or not any(row.positions for row in rows):
        return rows[0], logits[0]
    best: dict[int, tuple[int, tuple[int, int], _Logits]] = {}
    for row, row_logits in zip(rows, logits, strict=True):
        _, start, stop, first_position = row.parts[-1]
        own = list(zip(row.positions, row.offsets, strict=True))
        for position, characters in own[1:] if no_answer else own:
            token = start + position - first_position
            context = min(token - start, stop - 1 - token)
            if token not in best or context > best[token][0]:
                best[token] = context, characters, row_logits[position]
    tokens = [best[token] for token in sorted(best)]
    if no_answer:
        least = min((row_logits[0] for row_logits in logits), key=lambda both: float(both.sum()))
        tokens.insert(0, (0, (0, 0), least))
    positions, offsets = tuple(range(len(tokens))), tuple(characters for _, characters, _ in tokens)
    return replace(rows[0], positions=positions, offsets=offsets), np.stack([row_logits for *_, row_logits in tokens])
