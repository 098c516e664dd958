"""Merging of windows over a text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.model.answers import AnswerOptions, Logits, OptionalSpanAnswer, SpanAnswer, TaggingAnswer, answer
from polytask.model.encoding import Encoding, Input, InputEncoder
from polytask.model.tasks import Kind, Task
from polytask.model.truncation import Truncation
from polytask.model.window_merging import WindowScore, merge_windows
from tests.support import tiny

ENCODER = InputEncoder(tiny.tokenizer())
TASKS = {task.name: task for task in tiny.tasks()}
WORDS = st.lists(st.sampled_from(["cat", "paris", "xyz", "good,", "sat."]), min_size=1, max_size=120).map(" ".join)


def logits_of(task: Task, rows: tuple[Encoding, ...], seed: int = 0) -> list[Logits]:
    """Random logits for the rows."""
    random = np.random.default_rng(seed)
    return [
        random.normal(size=(len(row), task.num_outputs) if task.token_level else task.num_outputs).astype(np.float32)
        for row in rows
    ]


def windows(task: Task, item: Input) -> tuple[Encoding, ...]:
    """The rows of an input in windows."""
    (rows,) = ENCODER.encode(task, [item], Truncation.WINDOW)
    return rows


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_text_that_fits_is_answered_to_the_bit_as_without_windows(task: Task) -> None:
    """A text that fits has the same rows and answers with windows as without."""
    item = tiny.inputs()[task.name]
    (usual,) = ENCODER.encode(task, [item])
    assert windows(task, item) == usual
    logits = logits_of(task, usual)
    rows, merged = merge_windows(task, usual, logits)
    assert rows == list(usual)
    assert all(one is other for one, other in zip(merged, logits, strict=True))


@given(WORDS)
def test_every_word_has_the_logits_of_the_window_that_shows_most_around_it(text: str) -> None:
    """Each word is there once, in order, with the logits of the window that has the most context on its poorer side."""
    task, item = TASKS["entities"], Input(text)
    rows = windows(task, item)
    logits = [np.full((len(row), 5), number, np.float32) for number, row in enumerate(rows)]
    ((row,), (merged,)) = merge_windows(task, rows, logits)
    (whole,) = ENCODER.encode(Task("all", Kind.TAGGING, 2000, labels=task.labels), [item])[0]
    assert row.offsets == whole.offsets
    for position, token in zip(row.positions, whole.positions, strict=True):
        chosen = rows[int(merged[position, 0])].parts[0]
        around = [min(token - 1 - part.start, part.stop - token) for part in (row.parts[0] for row in rows)]
        assert min(token - 1 - chosen.start, chosen.stop - token) == max(around)


@pytest.mark.parametrize(("score", "expected_of"), [(None, max), (WindowScore.BEST, max), (WindowScore.MEAN, fmean)])
def test_each_candidate_has_the_best_or_the_mean_of_its_own_windows(
    score: WindowScore | None, expected_of: Callable[[list[float]], float]
) -> None:
    """A candidate scores as its best window, or the mean of its windows if that is asked for."""
    item = Input("Which cat?", candidates=("paris " * 100, "cat", "good " * 60))
    task = TASKS["relevance"]
    rows = windows(task, item)
    texts = [row.parts[1].text for row in rows]
    assert texts == sorted(texts)
    assert texts.count(2) == 1
    scores = [float(-((position - 2) ** 2)) for position in range(len(rows))]
    _, merged = merge_windows(task, rows, [np.array([one], np.float32) for one in scores], score)
    expected = [
        expected_of([one for one, text in zip(scores, texts, strict=True) if text == number]) for number in (1, 2, 3)
    ]
    assert [float(one[0]) for one in merged] == expected


@pytest.mark.parametrize("name", ["mood", "topics", "closeness", "choice"])
def test_other_kinds_have_the_mean_of_their_windows(name: str) -> None:
    """Labels, values and choices score as the mean of the windows, and labels of a multilabel as the best if asked for."""
    task, long = TASKS[name], "cat " * 200
    item = (
        Input(long, candidates=("a",)) if task.kind is Kind.MULTIPLE_CHOICE else Input(long, "a" if task.pair else None)
    )
    rows = windows(task, item)
    assert len(rows) > 1
    logits = list(np.random.default_rng(0).normal(size=(len(rows), task.num_outputs)).astype(np.float32))
    for score, expected in ((None, np.mean(logits, axis=0)), (WindowScore.BEST, np.max(logits, axis=0))):
        _, (merged,) = merge_windows(task, rows, logits, score)
        np.testing.assert_array_equal(merged, expected)


def test_a_span_is_found_in_any_window_and_counted_in_the_clients_text() -> None:
    """The best span of the whole context wins in any window, with offsets in the context and one softmax over it."""
    task, item = TASKS["answer"], Input("Who?", "the cat sat. " * 60 + "paris" + " a bad cat." * 20)
    rows = windows(task, item)
    assert len(rows) > 3
    logits = [np.zeros((len(row), 2), np.float32) for row in rows]
    start = item.text_pair.index("paris") if item.text_pair else 0
    for row, row_logits in zip(rows, logits, strict=True):
        for position, characters in zip(row.positions, row.offsets, strict=True):
            if characters == (start, start + 5):
                row_logits[position] = 20
    found = answer(task, item, rows, logits)
    assert isinstance(found, SpanAnswer)
    assert (found.text, found.start, found.end) == ("paris", start, start + 5)
    assert found.score == pytest.approx(1, abs=1e-4)


def test_one_window_with_an_answer_is_enough() -> None:
    """That a question has no answer counts as in the window where it is least likely, whatever the other windows say."""
    task, item = replace(TASKS["answer"], thresholds=(0.5,)), Input("Who?", "the cat sat. " * 60)
    rows = windows(task, item)
    logits = [np.zeros((len(row), 2), np.float32) for row in rows]
    for row_logits in logits:
        row_logits[0] = 9
    empty = answer(task, item, rows, logits)
    assert isinstance(empty, OptionalSpanAnswer)
    assert (empty.text, empty.start, empty.end) == ("", 0, 0)
    middle = len(rows[1].positions) // 2  # where this window has the most context
    logits[1][0], logits[1][rows[1].positions[middle]] = -9, 7
    found = answer(task, item, rows, logits)
    assert isinstance(found, OptionalSpanAnswer)
    assert (found.start, found.end) == rows[1].offsets[middle]
    assert found.no_answer < 0.01


def test_entities_across_the_edge_of_a_window_are_whole() -> None:
    """An entity whose words come from two windows is one entity."""
    task, item = TASKS["entities"], Input("cat " * 80)
    rows = windows(task, item)
    b_tag, inside = task.labels.index("B-animal"), task.labels.index("I-animal")
    logits = [np.zeros((len(row), 5), np.float32) for row in rows]
    for row, row_logits in zip(rows, logits, strict=True):
        row_logits[:, inside] = 9
        if row.parts[0].start == 0:
            row_logits[1, b_tag] = 99
    found = answer(task, item, rows, logits, AnswerOptions())
    assert isinstance(found, TaggingAnswer)
    assert [asdict(entity) | {"score": 0} for entity in found.entities] == [
        {"text": item.text.strip(), "label": "animal", "start": 0, "end": 4 * 80 - 1, "score": 0}
    ]


def test_windows_without_words_are_no_error() -> None:
    """A text whose tokens have no characters has no token-level answer."""
    row = Encoding((1, 2), (0, 0), parts=windows(TASKS["entities"], Input("cat"))[0].parts)
    rows, _ = merge_windows(TASKS["entities"], [row, row], [np.zeros((2, 5), np.float32)] * 2)
    assert rows == [row]
