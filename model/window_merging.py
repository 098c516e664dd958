"""Merging of windows: the logits of several rows over one text as if it had been read at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from polytask.model.encoding import Encoding
from polytask.model.tasks import Kind, Task

_Logits = NDArray[np.float32]


class WindowScore(StrEnum):
    """What the windows over a text score together: the mean of their logits, or the highest of each output."""

    MEAN = "mean"
    BEST = "best"


def merge_windows(
    task: Task, rows: Sequence[Encoding], logits: Sequence[_Logits], score: WindowScore | None = None
) -> tuple[list[Encoding], list[_Logits]]:
    """One row and its logits for each text; `rows` are windows over the texts, in order. A single row is unchanged.

    Sentence logits are those of the `score`: by default the mean, as all windows are full; of a ranking the best, as a
    candidate is relevant that answers in one place. Token logits are taken, for each token, from
    the window with the most context around it. A softmax over a context is then taken once over the whole text, so that
    its scores can be compared. That a question has no answer is as likely as in the window where it is least likely, as
    one window with an answer is enough. Of a merged row only `positions` and `offsets` are meaningful.
    """
    score = score or (WindowScore.BEST if task.kind is Kind.RANKING else WindowScore.MEAN)
    merged = [
        _stitch(*zip(*windows, strict=True), no_answer=task.may_lack_answer)
        if task.token_level
        else _combine(*zip(*windows, strict=True), score=score)
        for _, windows in groupby(zip(rows, logits, strict=True), key=lambda pair: pair[0].parts[-1].text)
    ]
    return [row for row, _ in merged], [row_logits for _, row_logits in merged]


def _combine(rows: Sequence[Encoding], logits: Sequence[_Logits], *, score: WindowScore) -> tuple[Encoding, _Logits]:
    if len(logits) == 1:
        return rows[0], logits[0]
    return rows[0], np.max(logits, axis=0) if score is WindowScore.BEST else np.mean(logits, axis=0)


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
