"""Simple models: what linear models reach on a task in seconds, as references for the network that is trained.

TF-IDF: `tfidf_features`. Frozen: `frozen_features`. Each with a linear head by scikit-learn, see `linear_heads`. They
learn from the training examples, choose on the selection examples and answer the validation examples as the network
does. A span is no linear function of such features, so neither has a score there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from polytask.model.tasks import Kind
from polytask.training.data.examples import Example, TaskData
from polytask.training.data.splits import shuffled
from polytask.training.evaluation.frozen_features import FrozenBackbone, FrozenFeatures
from polytask.training.evaluation.linear_heads import linear_answers, num_rows_of
from polytask.training.evaluation.metrics import Scores, score_task
from polytask.training.evaluation.tfidf_features import TfidfFeatures

TFIDF, FROZEN = "TF-IDF", "frozen"

References = dict[str, dict[str, Scores]]
"""Name of a simple model -> task -> metrics, without the tasks that it cannot answer."""

_MOST_ROWS = {TFIDF: 20_000, FROZEN: 10_000}
_WORDS_IN_ROW = 5
"""Words to tag that count as one text."""


@dataclass(frozen=True, slots=True)
class SimpleModel:
    """A simple model of one task, not trained yet. `train`: the examples that it learns from."""

    name: str
    task_data: TaskData
    train: Sequence[Example]

    @property
    def num_rows(self) -> int:
        """The number of texts, candidates or words that it reads to be trained and scored."""
        examples = (*self.train, *self.task_data.selection, *self.task_data.validation)
        return sum(num_rows_of(self.task_data.task, example.input) for example in examples)

    def score(self, backbone: FrozenBackbone) -> Scores:
        """Trains it and measures it on validation, as `score_task`."""
        features = TfidfFeatures() if self.name == TFIDF else FrozenFeatures(backbone)
        return score_task(self.task_data, linear_answers(self.task_data, self.train, features))


def simple_models(data: Sequence[TaskData]) -> Iterator[SimpleModel]:
    """The simple models of all tasks. Of large tasks they learn from a part: 20,000 texts or candidates, frozen 10,000."""
    for task_data in data:
        if task_data.task.kind is not Kind.SPAN:
            for name, most in _MOST_ROWS.items():
                yield SimpleModel(name, task_data, _part(task_data, most))


def _part(task_data: TaskData, most: int) -> list[Example]:
    """Training examples with at most so many rows, drawn at random; at least one."""
    task = task_data.task
    left = most * (_WORDS_IN_ROW if task.kind is Kind.TAGGING else 1)
    drawn = list[int]()
    for index in shuffled(len(task_data.train)):
        left -= num_rows_of(task, task_data.train[index].input)
        if left < 0 and drawn:
            break
        drawn.append(index)
    return [task_data.train[index] for index in sorted(drawn)]


def behind_warnings(
    data: Sequence[TaskData], scores: Mapping[str, Scores], references: Mapping[str, Mapping[str, Scores]]
) -> dict[str, str]:
    """What to say of each task whose main score is more than a standard error below the better simple model's."""
    warnings = {}
    for task_data in data:
        task = task_data.task.name
        metric, score = next(iter(scores[task].items()))
        rivals = {name: own[task][metric] for name, own in references.items() if metric in own.get(task, {})}
        best = max(rivals, key=lambda name: rivals[name], default="")
        error = max(standard_error(task_data, value) for value in (score, rivals.get(best, score)))
        if rivals and score < rivals[best] - error:
            warnings[task] = (
                f"is behind a linear model ({best}): {metric} {score:.4f}, not {rivals[best]:.4f} (standard error "
                f"{error:.4f})"
            )
    return warnings


def standard_error(task_data: TaskData, score: float) -> float:
    """About how far chance moves a main score that is measured on so many validation examples.

    As of a share of right answers, sqrt(s (1 - s) / n), or of a correlation, (1 - s²) / sqrt(n).
    """
    size = next(iter(task_data.splits.values()))  # the main score is over the first split
    if task_data.task.kind is Kind.REGRESSION:
        return (1 - score**2) / sqrt(size)
    return sqrt(max(0.0, score * (1 - score)) / size)
