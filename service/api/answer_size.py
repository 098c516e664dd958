"""Size of answers: how many bytes of JSON a request may be answered with at most, known before any of it is run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from polytask.model.answers import AnswerOptions
from polytask.model.encoding import Encoding, Input
from polytask.model.tasks import CANDIDATE_KINDS, Kind, Task, answer_labels

_NUMBER = 25
"""Bytes of any score: `-3.4028234663852886e+38`, and a comma."""

_INDEX = 8
"""Bytes of a position or count in a text, or of a place in a list, and a comma."""

_FRAME = 250
"""Bytes of an answer beside its labels, texts and numbers in lists: names of fields, token counts, brackets."""

_TOKEN_FRAME = 90
"""Bytes of an entry of `read` beside its token: `{"token":"","field":"candidates[127]","start":…,"end":…},`."""

_ENTITY_FRAME = len('{"text":"","label":"","start":,"end":,"score":},') + 2 * _INDEX + _NUMBER
_LABEL_FRAME = len('{"label":,"score":},') + _NUMBER
_CANDIDATE_FRAME = len('{"index":,"text":"","score":},') + _INDEX + _NUMBER

_ECHOING = CANDIDATE_KINDS | {Kind.TAGGING, Kind.SPAN}

_ENCODER = msgspec.json.Encoder()


def max_answers_bytes(
    task: Task, inputs: Sequence[Input], rows: Sequence[Sequence[Encoding]], options: AnswerOptions, *, read: bool
) -> int:
    """The most bytes that the answers to inputs of a task may have. `rows`: of each. `read`: whether they list tokens."""
    size = len(inputs) * (_FRAME + _labels_bytes(task.kind, task.labels, options.top_k))
    if task.kind is Kind.TAGGING:
        words = sum(len(row.positions) for its_rows in rows for row in its_rows)
        size += words * (_ENTITY_FRAME + max(map(_json_bytes, answer_labels(task)), default=0))
    if task.kind in CANDIDATE_KINDS:
        size += _CANDIDATE_FRAME * sum(len(item.candidates) for item in inputs)
    if task.kind in _ECHOING or read:
        # Of tokens: windows have a text up to twice, and a vocabulary of bytes writes two signs for some characters.
        size += sum(map(_text_bytes, inputs)) * (5 if read else 1)
    if read:
        size += _TOKEN_FRAME * sum(len(row) for its_rows in rows for row in its_rows)
    return size


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


def _text_bytes(item: Input) -> int:
    return sum(map(_json_bytes, (item.text, item.text_pair or "", *item.candidates)))


def _json_bytes(text: str) -> int:
    return len(_ENCODER.encode(text))
