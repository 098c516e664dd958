"""Calibration effect: a task's validation with and without what calibration did, for the card and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polytask.model.answers import Answer
from polytask.model.encoding import InputEncoder
from polytask.model.network import Network
from polytask.model.tasks import Kind
from polytask.training.data.examples import TaskData
from polytask.training.evaluation.diagnostics import Diagnosis, coverage, reliability
from polytask.training.evaluation.evaluate import answers_from, input_logits
from polytask.training.evaluation.metrics import score_task
from polytask.training.publishing.calibration import Calibration


@dataclass(frozen=True, slots=True)
class CalibrationEffect:
    """A task's calibration, and on validation its main metric and expected calibration error without it and with it.

    `class_bias`: what is added to each label's logit, before `temperature` divides them; empty for none. `ece`: None for a
    task without probabilities. `coverage`: of a classification, see `diagnostics.coverage`.
    """

    class_bias: dict[str, float]
    temperature: float
    score_before: float
    score: float
    ece_before: float | None
    ece: float | None
    coverage: list[Diagnosis]


def answer_with_effects(
    network: Network, encoder: InputEncoder, data: Sequence[TaskData], calibrations: Sequence[Calibration]
) -> tuple[dict[str, list[Answer]], dict[str, CalibrationEffect]]:
    """The answers to every task's validation examples, and the effect of its calibration on them, by task."""
    answers: dict[str, list[Answer]] = {}
    effects: dict[str, CalibrationEffect] = {}
    for task_id, (task_data, calibration) in enumerate(zip(data, calibrations, strict=True)):
        task, inputs = network.tasks[task_id], [example.input for example in task_data.validation]
        encodings, logits = input_logits(network, encoder, task_id, inputs)
        calibrated = before = answers_from(task, inputs, encodings, logits)
        if calibration != Calibration():
            before = answers_from(task, inputs, encodings, map(calibration.undo, logits))
        answers[task.name] = calibrated
        effects[task.name] = _effect(task_data, calibration, before, calibrated)
    return answers, effects


def _effect(
    task_data: TaskData, calibration: Calibration, before: Sequence[Answer], after: Sequence[Answer]
) -> CalibrationEffect:
    task, examples = task_data.task, task_data.validation
    scores_before = score_task(task_data, before) if calibration.class_bias else score_task(task_data, after)
    scores, (was, now) = score_task(task_data, after), [reliability(task, examples, each) for each in (before, after)]
    main = next(iter(scores))
    return CalibrationEffect(
        class_bias=dict(zip(task.labels, calibration.class_bias, strict=True)) if calibration.class_bias else {},
        temperature=calibration.temperature,
        score_before=scores_before[main],
        score=scores[main],
        ece_before=None if was is None else was["ece"],
        ece=None if now is None else now["ece"],
        coverage=coverage(task, examples, after) if task.kind is Kind.CLASSIFICATION else [],
    )
