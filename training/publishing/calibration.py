"""Calibration: what is chosen for a task after training, on examples that no update has seen, and stored with its head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from polytask.model.answers import Logits
from polytask.model.encoding import InputEncoder
from polytask.model.network import Network
from polytask.model.tasks import Kind
from polytask.training.data.examples import EncodedExample, Example, TaskData, encode_examples
from polytask.training.evaluation.evaluate import row_logits
from polytask.training.evaluation.metrics import score_labels
from polytask.training.publishing.class_bias import choose_class_bias
from polytask.training.publishing.tag_transitions import learn_transitions
from polytask.training.publishing.temperature import fit_temperature
from polytask.training.publishing.thresholds import choose_thresholds
from polytask.training.recipes.schema import METRICS
from polytask.training.runs.progress import num_rows

_MOST_TRAINING_EXAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was done to a task's logits: (logits + `class_bias`) / `temperature`. `class_bias`: by label; empty for none."""

    class_bias: tuple[float, ...] = ()
    temperature: float = 1.0

    def undo(self, logits: Logits) -> Logits:
        """The logits as they were, from those of the calibrated network."""
        before = logits * np.float32(self.temperature)
        return before - np.array(self.class_bias, np.float32) if self.class_bias else before


def calibrate_task(
    network: Network, encoder: InputEncoder, task_id: int, task_data: TaskData, precision: torch.dtype = torch.float32
) -> Calibration:
    """Chooses the task's class bias, then its temperature, then its thresholds or transitions, on `task_data.selection`.

    Changes in place, and nothing else: the task's slice of its head's weight and bias, rounded to `precision`, and its
    entry in `network.tasks`. Leaves the network in eval mode. Without `selection` bias and temperature stay as they are, and
    thresholds are set on training examples.
    """
    task = network.tasks[task_id]
    calibration = Calibration()
    if task_data.selection and task.kind is not Kind.REGRESSION:
        examples = encode_examples(encoder, task, task_id, task_data.selection)
        logits = _logits_by_example(network, encoder, task_id, examples)
        bias = _class_bias(task_data, examples, logits) if task.kind is Kind.CLASSIFICATION else np.zeros(0, np.float32)
        if bias.any():
            logits = [[row + bias for row in rows] for rows in logits]
        class_bias = tuple(bias.tolist()) if bias.any() else ()
        calibration = Calibration(class_bias, fit_temperature(task, examples, logits))
        _fold_in(network, task_id, calibration, precision)
    # After the temperature, as both depend on the scale of the logits.
    if task.thresholds:
        task = choose_thresholds(network, encoder, task_id, _threshold_examples(task_data))
    elif task.kind is Kind.TAGGING:
        task = learn_transitions(network, encoder, task_id, task_data.selection)
    network.tasks = (*network.tasks[:task_id], task, *network.tasks[task_id + 1 :])
    return calibration


def num_calibration_rows(task_data: TaskData) -> int:
    """The number of rows that `calibrate_task` reads, about."""
    rows = num_rows(each.input for each in task_data.selection)
    if task_data.task.thresholds:
        return rows + num_rows(each.input for each in _threshold_examples(task_data))
    return {Kind.REGRESSION: 0, Kind.TAGGING: 2 * rows}.get(task_data.task.kind, rows)


def _threshold_examples(task_data: TaskData) -> Sequence[Example]:
    return task_data.selection or task_data.train[:_MOST_TRAINING_EXAMPLES]


def _logits_by_example(
    network: Network, encoder: InputEncoder, task_id: int, examples: Sequence[EncodedExample]
) -> list[list[Logits]]:
    rows = [row for example in examples for row in example.encodings]
    remaining = iter(row_logits(network, rows, task_id, encoder.pad_id))
    return [[next(remaining) for _ in example.encodings] for example in examples]


def _class_bias(task_data: TaskData, examples: Sequence[EncodedExample], logits: Sequence[Sequence[Logits]]) -> Logits:
    task, config = task_data.task, task_data.config
    metric = config.metric or METRICS[task.kind][0]
    positive = None if config.positive_label is None else task.labels.index(config.positive_label)
    seen = Counter(example.target for example in (*task_data.train, *task_data.selection))
    bias = choose_class_bias(
        np.array([row for (row,) in logits], dtype=np.float64),
        np.array([example.target for example in examples], dtype=np.int64),
        np.array([seen[label] for label in range(len(task.labels))], dtype=np.int64),
        lambda right, given: score_labels(metric, right, given, positive),
    )
    return bias.astype(np.float32)


def _fold_in(network: Network, task_id: int, calibration: Calibration, precision: torch.dtype) -> None:
    """Gives the head the logits of the calibration: no format and no forward knows of it."""
    if calibration == Calibration():
        return
    head, columns = network.head_of(task_id), network.output_slices[task_id]
    with torch.no_grad():
        weight, bias = head.weight[columns], head.bias[columns]
        if calibration.class_bias:
            bias = bias + torch.tensor(calibration.class_bias, dtype=bias.dtype, device=bias.device)
        head.weight[columns] = (weight / calibration.temperature).to(precision).to(weight.dtype)
        head.bias[columns] = (bias / calibration.temperature).to(precision).to(bias.dtype)
