"""Size of answers: how many bytes of JSON a request may be answered with at most, known before any of it is run."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import msgspec

from polytask.model.tasks import CANDIDATE_KINDS, Kind, Task, answer_labels

_NUMBER = 25
"""Bytes of any score: `-3.4028234663852886e+38`, and a comma."""

_INDEX = 8
"""Bytes of a position or count in a text, or of a place in a list, and a comma."""

_FRAME = 250
"""Bytes of an answer beside its labels, texts and numbers in lists: names of fields, token counts, brackets."""

_TOKEN_FRAME = 90
"""Bytes of an entry of `read` beside its token: `{"token":"","field":"candidates[127]","start":…,"end":…},`."""

_ENTITY_FRAME = len('{"text":"","label":"","start":,"end":,"score":,"start_word":,"end_word":},') + 4 * _INDEX + _NUMBER
_LABEL_FRAME = len('{"label":,"score":},') + _NUMBER
_CANDIDATE_FRAME = len('{"index":,"text":"","score":},') + _INDEX + _NUMBER

_ENCODER = msgspec.json.Encoder()


class RequestSize(NamedTuple):
    """What is known of one task's part of a request: its inputs, rows and tokens, and the bytes of its texts as JSON."""

    inputs: int
    rows: int
    tokens: int
    text_bytes: int


def max_answers_bytes(task: Task, size: RequestSize, top_k: int | None, *, read: bool) -> int:
    """The most bytes that the answers of a task may have. `read`: whether they list the tokens.

    From numbers only, as it is computed for every request: a text may come once in each answer, a word has a token, and a
    candidate a row.
    """
    most = size.inputs * (_FRAME + _labels_bytes(task.kind, task.labels, top_k)) + size.text_bytes
    if task.kind is Kind.TAGGING:
        most += size.tokens * (_ENTITY_FRAME + _longest_label(task))
    if task.kind in CANDIDATE_KINDS:
        most += size.rows * _CANDIDATE_FRAME
    if read:
        # Windows have a text up to twice, and a vocabulary of bytes writes two signs for some characters.
        most += size.tokens * _TOKEN_FRAME + 4 * size.text_bytes
    return most


@lru_cache(maxsize=1024)
def _longest_label(task: Task) -> int:
    return max(map(_json_bytes, answer_labels(task)), default=0)


@lru_cache(maxsize=1024)
def _labels_bytes(kind: Kind, labels: tuple[str, ...], top_k: int | None) -> int:
    """Bytes of the labels and scores in an answer."""
    sizes = sorted(map(_json_bytes, labels), reverse=True)
    scores = sum(sizes[:top_k]) + len(sizes[:top_k]) * (_NUMBER + 1)
    match kind:
        case Kind.CLASSIFICATION:
            return scores + sizes[0]
        case Kind.MULTILABEL:
            return scores + sum(sizes) + len(sizes) * _LABEL_FRAME
    return 0


def _json_bytes(text: str) -> int:
    return len(_ENCODER.encode(text))
