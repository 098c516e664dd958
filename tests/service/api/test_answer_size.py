"""Size of answers: the bound holds for what is sent, and is not far above it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.model.answers import AnswerOptions, answer
from polytask.model.encoding import Encoding, Input, InputEncoder, TokenCache
from polytask.model.tasks import Kind, Task
from polytask.model.truncation import Truncation
from polytask.service.api.answer_size import RequestSize, max_answers_bytes
from polytask.service.api.responses import answer_json, token_json
from polytask.service.api.schemas import from_input
from tests.support import tiny

ENCODER = InputEncoder(tiny.tokenizer())
PLAIN = Task("words", Kind.TAGGING, 32, labels=("noun", 'a "verb"'))
TEXTS = st.one_of(
    st.text(min_size=1, max_size=60), st.lists(st.sampled_from(["cat", "é", '"', "\n", "日"])).map("".join)
)


def _rendered(task: Task, item: Input, options: AnswerOptions, seed: int, *, read: bool) -> tuple[int, int]:
    """The bytes of an answer whose logits are drawn, and the bound on them."""
    cache = TokenCache(task.max_length)
    (rows,) = ENCODER.encode(task, [item], Truncation.WINDOW, cache)
    logits = [np.random.default_rng(seed).normal(0, 1000, _shape(task, row)).astype(np.float32) for row in rows]
    as_json: dict[str, Any] = answer_json(answer(task, item, rows, logits, options), rows)
    if read:
        as_json["read"] = [token_json(task, item, tokens) for tokens in ENCODER.tokens(task, item, rows, cache)]
    size = RequestSize(1, len(rows), sum(map(len, rows)), len(msgspec.json.encode(from_input(task, item))))
    return len(msgspec.json.encode(as_json)) + 1, max_answers_bytes(task, size, options.top_k, read=read)


def _shape(task: Task, row: Encoding) -> tuple[int, ...]:
    return (len(row), task.num_outputs) if task.token_level else (task.num_outputs,)


@pytest.mark.parametrize("task", [*tiny.tasks(), PLAIN], ids=lambda task: task.name)
@settings(max_examples=30)
@given(
    texts=st.tuples(TEXTS, TEXTS, TEXTS),
    top_k=st.none() | st.integers(1, 4),
    raw=st.booleans(),
    read=st.booleans(),
    seed=st.integers(0, 9),
)
def test_no_answer_is_larger_than_its_bound(
    task: Task, texts: tuple[str, str, str], top_k: int | None, *, raw: bool, read: bool, seed: int
) -> None:
    """An answer of any kind, with any options and logits, has at most as many bytes as were expected before it ran."""
    item = Input(texts[0])
    if task.kind in {Kind.RANKING, Kind.MULTIPLE_CHOICE}:
        item = replace(item, candidates=texts[1:])
    elif task.pair:
        item = replace(item, text_pair=texts[1])
    size, most = _rendered(task, item, AnswerOptions(top_k, raw), seed, read=read)
    assert size <= most


def test_the_bound_is_near() -> None:
    """For many labels the bound is within four times the answer, so that little is refused that could be sent."""
    task = Task("topic", Kind.CLASSIFICATION, 32, labels=tuple(f"a label of usual length {n}" for n in range(500)))
    size, most = _rendered(task, Input("cat"), AnswerOptions(), 0, read=False)
    assert most < 2 * size
    size, most = _rendered(PLAIN, Input("the cat sat " * 100), AnswerOptions(), 0, read=True)
    assert most < 4 * size


def test_fewer_scores_are_a_smaller_answer() -> None:
    """`top_k` lowers the bound, so that a request of many labels can be sent with it."""
    task = Task("topic", Kind.CLASSIFICATION, 32, labels=tuple(map(str, range(10_000))))
    size = RequestSize(inputs=1, rows=1, tokens=3, text_bytes=5)
    all_scores, ten_scores = (max_answers_bytes(task, size, top_k, read=False) for top_k in (None, 10))
    assert all_scores > 100 * ten_scores


def test_entities_of_given_words_are_within_their_bound() -> None:
    """An answer with an entity for every given word has at most as many bytes as were expected."""
    size, most = _rendered(PLAIN, Input.from_words(["cat"] * 2_000), AnswerOptions(raw_scores=True), 0, read=False)
    assert size <= most
