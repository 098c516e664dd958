"""What is predicted, for those who watch for drift: labels and confidence by task, as metrics, where a deployment asks."""

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
from polytask.service.observability.metric_storage import Values
from polytask.service.observability.task_metrics import TaskMetrics

_CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class PredictionMetrics:
    """Counts labels and confidence. Labels are those of the checkpoint, so clients cannot add any."""

    def __init__(self, values: Values, tasks: Sequence[Task]) -> None:
        series = TaskMetrics(values)
        self.remove, self.page = series.remove, series.page
        self._predicted = series.counter("polytask_predictions_total", "Labels in answers.", "label")
        self._confidence = series.histogram(
            "polytask_prediction_confidence_ratio", "Probabilities of what was answered.", _CONFIDENCE
        )
        for task in tasks:
            self.register(task)

    def register(self, task: Task) -> None:
        """The series of a task are there from now on."""
        if task.kind is not Kind.REGRESSION:
            self._confidence.register(task.name)
        for label in answer_labels(task):
            self._predicted.register(task.name, label)

    def observe(self, task: Task, answer: Answer, *, raw_scores: bool) -> None:
        """Counts an answer; `raw_scores`: its scores are no probabilities, and only its labels count."""
        labels, scores = _labels_and_scores(answer)
        for label in labels:
            self._predicted(task.name, label).inc()
        for score in () if raw_scores else scores:
            self._confidence(task.name).observe(score)


def _labels_and_scores(answer: Answer) -> tuple[list[str], list[float]]:
    """The labels of an answer, and the probability of each thing in it that was chosen."""
    match answer:
        case ClassificationAnswer(label, score):
            return [label], [score]
        case MultilabelAnswer(labels):
            return [found.label for found in labels], [found.score for found in labels]
        case TaggingAnswer(entities):
            return [found.label for found in entities], [found.score for found in entities]
        case RankingAnswer(ranking):
            return [], [best.score for best in ranking[:1]]
        case MultipleChoiceAnswer(choice, _, scores):
            return [], [scores[choice]]
        case SpanAnswer(score=score):
            return [], [score]
        case RegressionAnswer():
            return [], []
