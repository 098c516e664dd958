"""Baselines: the score of a trivial answer for each kind of task, learned from the training targets alone."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from polytask.model.answers import (
    Answer,
    ClassificationAnswer,
    Entity,
    LabelScore,
    MultilabelAnswer,
    MultipleChoiceAnswer,
    RankedCandidate,
    RankingAnswer,
    RegressionAnswer,
    SpanAnswer,
    TaggingAnswer,
    tagged_ranges,
)
from polytask.model.encoding import Input
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import Example, TaskData
from polytask.training.evaluation.metrics import Scores, score_task

_ORDERS = 20

DESCRIPTIONS = {
    Kind.CLASSIFICATION: "the most frequent label",
    Kind.MULTILABEL: "the most frequent label",
    Kind.REGRESSION: "the mean value",
    Kind.RANKING: "random order",
    Kind.MULTIPLE_CHOICE: "the most frequent place",
    Kind.TAGGING: "each word's most frequent tag",
    Kind.SPAN: "the first sentence, or no answer if most questions have none",
}


def score_baseline(task_data: TaskData) -> Scores:
    """The metrics of the task's trivial answer on its validation examples."""
    if task_data.task.kind is Kind.RANKING:  # the mean of a few random orders estimates their expectation
        runs = [score_task(task_data, _random_orders(task_data.validation, seed)) for seed in range(_ORDERS)]
        return {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
    answer = _trivial_answer(task_data.task, task_data.train)
    return score_task(task_data, [answer(example.input) for example in task_data.validation])


def _random_orders(examples: Sequence[Example], seed: int) -> list[Answer]:
    generator = random.Random(seed)  # noqa: S311 - sampling, not cryptography
    answers: list[Answer] = []
    for example in examples:
        candidates = example.input.candidates
        order = generator.sample(range(len(candidates)), len(candidates))
        answers.append(RankingAnswer(tuple(RankedCandidate(i, candidates[i], 0.0) for i in order)))
    return answers


def _trivial_answer(task: Task, train: Sequence[Example]) -> Callable[[Input], Answer]:
    match task.kind:
        case Kind.CLASSIFICATION:
            label = task.labels[_most_frequent(train)]
            return lambda _: ClassificationAnswer(label, 1.0, {})
        case Kind.MULTILABEL:
            label = task.labels[int(np.sum([example.target for example in train], axis=0).argmax())]
            return lambda _: MultilabelAnswer((LabelScore(label, 1.0),), {})
        case Kind.REGRESSION:
            mean = float(np.mean([example.target for example in train]))
            return lambda _: RegressionAnswer(mean)
        case Kind.MULTIPLE_CHOICE:
            return _same_index(_most_frequent(train))
        case Kind.TAGGING:
            return _lexicon(task, train)
        case Kind.SPAN:
            unanswered = sum(not example.target for example in train)
            return _no_answer if unanswered > len(train) / 2 else _first_sentence
        case Kind.RANKING:
            raise AssertionError("ranking is scored over random orders")


def _most_frequent(train: Sequence[Example]) -> int:
    return int(Counter(example.target for example in train).most_common(1)[0][0])


def _same_index(index: int) -> Callable[[Input], Answer]:
    def answer(item: Input) -> Answer:
        choice = min(index, len(item.candidates) - 1)
        return MultipleChoiceAnswer(choice, item.candidates[choice], ())

    return answer


def _lexicon(task: Task, train: Sequence[Example]) -> Callable[[Input], Answer]:
    seen: dict[str, Counter[int]] = defaultdict(Counter)
    for example in train:
        for (start, end), label in zip(example.input.words or (), example.target, strict=True):
            seen[example.input.text[start:end]][label] += 1
    fallback = sum(seen.values(), Counter()).most_common(1)[0][0]

    def answer(item: Input) -> Answer:
        words = item.words or ()
        labels = [seen.get(item.text[start:end], Counter({fallback: 1})).most_common(1)[0][0] for start, end in words]
        ranges = tagged_ranges(words, [task.labels[label] for label in labels], bio=task.bio)
        return TaggingAnswer(tuple(Entity(item.text[s:e], label, s, e, 1.0) for label, s, e in ranges))

    return answer


def _no_answer(_: Input) -> Answer:
    return SpanAnswer("", 0, 0, 1.0)


def _first_sentence(item: Input) -> Answer:
    context = item.text_pair or ""
    end = context.find(". ") % (len(context) + 1)
    return SpanAnswer(context[:end], 0, end, 1.0)
