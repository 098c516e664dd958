"""Evaluation: answers in batches and scores of all tasks."""

from __future__ import annotations

import pytest
import torch

from polytask.model.answers import Answer, answer
from polytask.model.batch import collate
from polytask.model.encoding import Input, InputEncoder
from polytask.model.network import Network
from polytask.model.tasks import Kind
from polytask.training.evaluation import evaluate
from polytask.training.evaluation.evaluate import (
    answer_inputs,
    answer_tasks,
    evaluate_tasks,
    row_logits,
    score_network,
)
from polytask.training.evaluation.metrics import score_answers
from tests.support import tiny
from tests.training.conftest import Workshop
from tests.training.support import toy
from tests.training.support.answers import assert_same_answers

ENCODER = InputEncoder(tiny.tokenizer())
TASKS = {task.kind: task_id for task_id, task in enumerate(tiny.tasks())}


def _inputs(kind: Kind, count: int = 12) -> list[Input]:
    """Inputs of any length from the toy records of a kind."""
    records = toy.records(kind, count)
    match kind:
        case Kind.RANKING | Kind.MULTIPLE_CHOICE:
            texts = [record["text"] for record in toy.records(Kind.CLASSIFICATION, 4 * count)]
            return [Input(texts[i], candidates=tuple(texts[i + 1 : i + 2 + i % 3])) for i in range(count)]
        case Kind.TAGGING:
            return [Input.from_words(record["tokens"]) for record in records]
        case _:
            return [Input(record["text"] * (1 + i % 3), record.get("text_pair")) for i, record in enumerate(records)]


def _alone(network: Network, task_id: int, item: Input) -> Answer:
    """The answer from forwards of one row each."""
    task = network.tasks[task_id]
    (rows,) = ENCODER.encode(task, [item])
    logits = []
    with torch.no_grad():
        for row in rows:
            outputs = network(collate([row], [task_id], token_level=task.token_level), network.condition())
            all_logits = outputs.token[0] if task.token_level else outputs.sentence[0]
            logits.append(all_logits[..., network.output_slices[task_id]].numpy())
    return answer(task, item, rows, logits)


@pytest.mark.parametrize("kind", Kind)
def test_an_answer_does_not_depend_on_its_batch_mates(tiny_network: Network, kind: Kind) -> None:
    """An input has the same answer in a batch with inputs of other lengths as alone."""
    inputs = _inputs(kind)
    found = answer_inputs(tiny_network, ENCODER, TASKS[kind], inputs)
    assert_same_answers(found, [_alone(tiny_network, TASKS[kind], item) for item in inputs])
    assert len({str(one) for one in found}) > 5


@pytest.mark.parametrize("kind", Kind)
def test_an_answer_does_not_depend_on_the_order(
    tiny_network: Network, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs in another order, in batches of other sizes, get the same answers in that order."""
    inputs = _inputs(kind)
    found = answer_inputs(tiny_network, ENCODER, TASKS[kind], inputs)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0)).tolist()
    for rows, tokens in ((64, 8192), (5, 8192), (64, 30)):
        monkeypatch.setattr(evaluate, "_MAX_ROWS", rows)
        monkeypatch.setattr(evaluate, "_MAX_TOKENS", tokens)
        shuffled = answer_inputs(tiny_network, ENCODER, TASKS[kind], [inputs[index] for index in order])
        assert_same_answers(shuffled, [found[index] for index in order])


def test_batches_keep_to_their_limits(tiny_network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch of an evaluation exceeds the limits on rows and padded tokens."""
    monkeypatch.setattr(evaluate, "_MAX_ROWS", 7)
    monkeypatch.setattr(evaluate, "_MAX_TOKENS", 60)
    shapes: list[tuple[int, int]] = []
    tiny_network.register_forward_pre_hook(lambda _, arguments: shapes.append(tuple(arguments[0].input_ids.shape)))
    rows = [row for rows in ENCODER.encode(tiny_network.tasks[0], _inputs(Kind.CLASSIFICATION, 40)) for row in rows]
    row_logits(tiny_network, rows, 0, ENCODER.pad_id)
    assert sum(count for count, _ in shapes) == 40
    assert all(count <= 7 and (count == 1 or count * length <= 60) for count, length in shapes)
    assert len(shapes) < 20


def test_nothing_to_answer_is_no_answer(tiny_network: Network) -> None:
    """Without inputs there are no answers."""
    assert answer_inputs(tiny_network, ENCODER, 0, []) == []


def test_evaluation_runs_without_dropout_and_without_gradient(tiny_network: Network) -> None:
    """Answers are those of eval mode, whatever the network's mode, and no random number is drawn."""
    inputs = _inputs(Kind.CLASSIFICATION)
    expected = answer_inputs(tiny_network.eval(), ENCODER, 0, inputs)
    state = torch.get_rng_state()
    assert answer_inputs(tiny_network.train(), ENCODER, 0, inputs) == expected
    assert torch.equal(torch.get_rng_state(), state)


# Scores


def test_scores_are_those_of_the_answers(workshop: Workshop) -> None:
    """Every task has its metrics, computed from the answers to its validation inputs."""
    network = workshop.network()
    scores = evaluate_tasks(network, workshop.encoder, workshop.data)
    assert list(scores) == [task_data.task.name for task_data in workshop.data]
    for task_id, task_data in enumerate(workshop.data):
        answers = answer_inputs(network, workshop.encoder, task_id, [example.input for example in task_data.validation])
        expected = score_answers(task_data.task, task_data.validation, answers)
        on_text = {"text_f1": scores[task_data.task.name].get("text_f1")} if task_data.task.kind is Kind.TAGGING else {}
        assert scores[task_data.task.name] == expected | on_text
    assert evaluate_tasks(network, workshop.encoder, workshop.data) == scores


def test_the_answers_of_all_tasks_can_be_kept(workshop: Workshop) -> None:
    """Answers come task by task, and scoring them later is evaluating."""
    network = workshop.network()
    answers = dict(answer_tasks(network, workshop.encoder, workshop.data))
    assert list(answers) == [task_data.task.name for task_data in workshop.data]
    assert all(len(answers[task_data.task.name]) == len(task_data.validation) for task_data in workshop.data)
    scores = score_network(network, workshop.encoder, workshop.data, answers)
    assert scores == evaluate_tasks(network, workshop.encoder, workshop.data)
