"""Thresholds: the best ones on the examples that they are chosen on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from polytask.model.encoding import Input, InputEncoder
from polytask.model.network import Network
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import Example
from polytask.training.evaluation.evaluate import answer_inputs
from polytask.training.evaluation.metrics import score_answers
from polytask.training.publishing.thresholds import choose_thresholds
from tests.support import tiny
from tests.training.support import toy

ENCODER = InputEncoder(tiny.tokenizer())
TASKS = {task.kind: task_id for task_id, task in enumerate(tiny.tasks())}


def _multilabel(targets: Sequence[Sequence[int]]) -> list[Example]:
    records = toy.records(Kind.MULTILABEL, len(targets))
    inputs = [Input(record["text"] * (1 + index % 3)) for index, record in enumerate(records)]
    return [Example(item, tuple(target)) for item, target in zip(inputs, targets, strict=True)]


def _f1(network: Network, examples: list[Example]) -> list[float]:
    """F1 of each label on the examples."""
    task_id = TASKS[Kind.MULTILABEL]
    answers: list[Any] = list(answer_inputs(network, ENCODER, task_id, [example.input for example in examples]))
    found = []
    for index, label in enumerate(network.tasks[task_id].labels):
        given = np.array([label in {entry.label for entry in one.labels} for one in answers])
        right = np.array([bool(example.target[index]) for example in examples])
        found.append(2 * (given & right).sum() / max(1, given.sum() + right.sum()))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_calibrated_thresholds_are_the_best_on_their_examples(tiny_network: Network, seed: int) -> None:
    """No other threshold, such as 0.5, gives a label a better F1 on the examples."""
    task_id, generator = TASKS[Kind.MULTILABEL], np.random.default_rng(seed)
    examples = _multilabel((generator.random((60, 3)) < (0.35, 0.5, 0.8)).astype(int).tolist())
    calibrated = choose_thresholds(tiny_network, ENCODER, task_id, examples)
    original = tiny_network.tasks

    def with_thresholds(*thresholds: float) -> list[float]:
        task = replace(calibrated, thresholds=thresholds)
        tiny_network.tasks = (*original[:task_id], task, *original[task_id + 1 :])
        return _f1(tiny_network, examples)

    best = with_thresholds(*calibrated.thresholds)
    for fixed in (0.5, *np.linspace(0.02, 0.98, 25).tolist()):
        assert all(own >= other - 1e-9 for own, other in zip(best, with_thresholds(fixed, fixed, fixed), strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_a_calibrated_threshold_of_no_answer_is_the_best_on_its_examples(tiny_network: Network, seed: int) -> None:
    """No other threshold of questions without an answer gives a better F1 on the examples."""
    task_id, generator = TASKS[Kind.SPAN], np.random.default_rng(seed)
    inputs = [Input("the cat?", "the cat sat . " * length) for length in generator.integers(1, 5, 30)]
    examples = [Example(item, ((4, 7),) if generator.random() < 0.5 else ()) for item in inputs]
    original = tiny_network.tasks

    def f1(task: Task) -> float:
        tiny_network.tasks = (*original[:task_id], task, *original[task_id + 1 :])
        answers = answer_inputs(tiny_network, ENCODER, task_id, inputs)
        return score_answers(task, examples, answers)["f1"]

    f1(replace(original[task_id], thresholds=(0.5,)))
    calibrated = choose_thresholds(tiny_network, ENCODER, task_id, examples)
    best = f1(calibrated)
    for fixed in (0.5, *np.linspace(0, 1, 41).tolist()):
        assert best >= f1(replace(calibrated, thresholds=(fixed,))) - 1e-9


def test_rare_labels_share_a_threshold(tiny_network: Network) -> None:
    """A label of fewer than ten examples has the threshold of all labels together, and too few of all change nothing."""
    task_id = TASKS[Kind.MULTILABEL]
    before = tiny_network.tasks[task_id]
    targets = [(index % 2, 0, int(index < 9)) for index in range(40)]
    chosen = choose_thresholds(tiny_network, ENCODER, task_id, _multilabel(targets))
    assert chosen.thresholds[1] == chosen.thresholds[2] != chosen.thresholds[0]
    assert all(0 < threshold < 1 for threshold in chosen.thresholds)
    assert (chosen.name, chosen.labels) == (before.name, before.labels)
    assert tiny_network.tasks[task_id] is before
    assert choose_thresholds(tiny_network, ENCODER, task_id, _multilabel(targets[:6])) == before
