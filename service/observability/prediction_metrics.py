"""Prediction metrics: predicted labels and confidence by task, to watch for drift. Off by default."""

from __future__ import annotations

from collections.abc import Sequence

from polytask.model.answers import (
    Answer,
    ClassificationAnswer,
    MultilabelAnswer,
    MultipleChoiceAnswer,
    RankingAnswer,
    RegressionAnswer,
    SpanAnswer,
    TaggingAnswer,
)
from polytask.model.tasks import Kind, Task, answer_labels
from polytask.service.observability.metric_storage import Cells
from polytask.service.observability.task_metrics import TaskMetrics

_CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class PredictionMetrics:
    """Counts labels and confidence. Labels are those of the checkpoint, so clients cannot add any."""

    def __init__(self, cells: Cells, tasks: Sequence[Task]) -> None:
        self._by_task = TaskMetrics(cells)
        self._labels = self._by_task.counter("polytask_predictions_total", "Labels in answers.", "label")
        self._confidence = self._by_task.histogram(
            "polytask_prediction_confidence_ratio", "Probabilities of the answers.", _CONFIDENCE
        )
        for task in tasks:
            self.register(task)

    def register(self, task: Task) -> None:
        """Adds all series of a task, at 0 where they are new."""
        if task.kind is not Kind.REGRESSION:
            self._confidence.register(task.name)
        for label in answer_labels(task):
            self._labels.register(task.name, label)

    def observe(self, task: Task, answer: Answer, *, raw_scores: bool) -> None:
        """Counts an answer. `raw_scores`: its scores are not probabilities, so only its labels count."""
        labels, scores = _labels_and_scores(answer)
        for label in labels:
            self._labels(task.name, label).inc()
        for score in () if raw_scores else scores:
            self._confidence(task.name).observe(score)

    def remove(self, task: str) -> None:
        """Removes all series of a task."""
        self._by_task.remove(task)

    def page(self) -> str:
        """All series in Prometheus' text format."""
        return self._by_task.page()


def _labels_and_scores(answer: Answer) -> tuple[list[str], list[float]]:
    """The labels of an answer, and the probability of each chosen label, candidate, choice or span."""
    match answer:
        case ClassificationAnswer(label, score):
            return [] if label is None else [label], [score]
        case MultilabelAnswer(labels):
            return [chosen.label for chosen in labels], [chosen.score for chosen in labels]
        case TaggingAnswer(entities):
            return [entity.label for entity in entities], [entity.score for entity in entities]
        case RankingAnswer(ranking):
            return [], [best.score for best in ranking[:1]]
        case MultipleChoiceAnswer(choice, _, scores):
            return [], [scores[choice]]
        case SpanAnswer(score=score):
            return [], [score]
        case RegressionAnswer():
            return [], []
