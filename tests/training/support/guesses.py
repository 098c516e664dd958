"""Examples of every kind with answers of any skill, and run folders made of them, for diagnostics and reports."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    word_runs,
)
from polytask.model.encoding import Input
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import Example
from polytask.training.evaluation.diagnostics import diagnose
from polytask.training.evaluation.metrics import score_answers
from tests.support import tiny

_WORDS = ("river", "stone", "cloud", "letter", "garden", "window", "train", "market", "winter", "music")


def task_of(kind: Kind, name: str = "", labels: int = 0) -> Task:
    """The tiny task of a kind under a name. With `labels`, a classification or plain tagging with that many."""
    own = next(task for task in tiny.tasks() if task.kind is kind)
    return Task(
        name=name or own.name,
        kind=kind,
        max_length=own.max_length,
        labels=tuple(f"label_{index}" for index in range(labels)) or own.labels,
        pair=own.pair,
        value_range=own.value_range,
        thresholds=own.thresholds,
    )


def examples_of(task: Task, count: int, seed: int = 0) -> list[Example]:
    """`count` examples of the task, the same ones for the same seed."""
    generator = random.Random(f"{task.name} {seed}")  # noqa: S311 - sampling, not cryptography
    return [_example(task, generator) for _ in range(count)]


def _example(task: Task, generator: random.Random) -> Example:
    words = generator.choices(_WORDS, k=12)
    text, other = " ".join(words[:6]), " ".join(words[6:])
    candidates = tuple(" ".join(generator.choices(_WORDS, k=3)) for _ in range(4))
    match task.kind:
        case Kind.CLASSIFICATION:
            return Example(Input(text), generator.randrange(len(task.labels)))
        case Kind.MULTILABEL:
            return Example(Input(text), tuple(int(generator.random() < 0.3) for _ in task.labels))
        case Kind.REGRESSION:
            low, high = task.value_range or (0.0, 1.0)
            return Example(Input(text, other), generator.uniform(low, high))
        case Kind.RANKING:
            return Example(Input(text, candidates=candidates), tuple(generator.choices((0, 1), (3, 2), k=4)))
        case Kind.MULTIPLE_CHOICE:
            return Example(Input(text, candidates=candidates), generator.randrange(4))
        case Kind.TAGGING:
            return Example(Input.from_words(words[:6]), tuple(generator.randrange(len(task.labels)) for _ in range(6)))
        case Kind.SPAN:
            first = generator.randrange(6)
            start = len(" ".join(words[6 : 6 + first])) + (first > 0)
            end = len(" ".join(words[6 : 7 + first + generator.randrange(6 - first)]))
            return Example(Input(text, other), ((start, end),))


def answers_to(task: Task, examples: Sequence[Example], skill: float = 0.8, seed: int = 0) -> list[Answer]:
    """An answer to each example. `skill`: how often it is right; with 1.0 always, and with probability 1."""
    generator = random.Random(f"{task.name} {seed}")  # noqa: S311 - sampling, not cryptography
    return [_answer(task, example, skill, generator) for example in examples]


def _answer(task: Task, example: Example, skill: float, generator: random.Random) -> Answer:
    right = generator.random() < skill
    sure = 1.0 if skill == 1 else generator.uniform(0.5, 0.99)
    item, target = example.input, example.target
    match task.kind:
        case Kind.CLASSIFICATION:
            chosen = target if right else generator.randrange(len(task.labels))
            scores = dict.fromkeys(task.labels, (1 - sure) / (len(task.labels) - 1)) | {task.labels[chosen]: sure}
            return ClassificationAnswer(task.labels[chosen], sure, scores)
        case Kind.MULTILABEL:
            return _multilabel(task, target, skill, generator)
        case Kind.REGRESSION:
            low, high = task.value_range or (0.0, 1.0)
            return RegressionAnswer(min(high, max(low, target + generator.gauss(0, (high - low) * (1 - skill)))))
        case Kind.RANKING:
            chances = [sure if bool(own) == right else 1 - sure for own in target]
            order = sorted(range(len(chances)), key=lambda index: -chances[index])
            return RankingAnswer(tuple(RankedCandidate(i, item.candidates[i], chances[i]) for i in order))
        case Kind.MULTIPLE_CHOICE:
            chosen = target if right else generator.randrange(4)
            probabilities = tuple(sure if index == chosen else (1 - sure) / 3 for index in range(4))
            return MultipleChoiceAnswer(chosen, item.candidates[chosen], probabilities)
        case Kind.TAGGING:
            return _tagging(task, example, skill, sure, generator)
        case Kind.SPAN:
            start, end = target[0]
            context = item.text_pair or ""
            end = end if right else min(len(context), end + generator.randrange(1, 9))
            return SpanAnswer(context[start:end], start, end, sure)


def _multilabel(task: Task, target: Sequence[int], skill: float, generator: random.Random) -> Answer:
    scores = {}
    for label, has, threshold in zip(task.labels, target, task.thresholds, strict=True):
        given = bool(has) == (generator.random() < skill)
        scores[label] = (
            float(given) if skill == 1 else generator.uniform(*((threshold, 1) if given else (0, threshold)))
        )
    over = [LabelScore(x, scores[x]) for x, t in zip(task.labels, task.thresholds, strict=True) if scores[x] >= t]
    return MultilabelAnswer(tuple(over), scores)


def _tagging(task: Task, example: Example, skill: float, sure: float, generator: random.Random) -> Answer:
    item = example.input
    labels = [own if generator.random() < skill else generator.randrange(len(task.labels)) for own in example.target]
    words = item.words or ()
    entities = []
    for label, first, stop in word_runs([task.labels[own] for own in labels], bio=task.bio):
        start, end = words[first][0], words[stop - 1][1]
        entities.append(Entity(item.text[start:end], label, start, end, sure))
    return TaggingAnswer(tuple(entities))


# Run folders


def write_run(
    folder: Path, tasks: Sequence[Task], *, intervals: int = 12, finished: bool = True, count: int = 40
) -> dict[str, Any]:
    """Writes the folder of a run of the tasks, finished or killed. Returns its results."""
    generator = random.Random(0)  # noqa: S311 - sampling, not cryptography
    folder.mkdir(parents=True, exist_ok=True)
    results = _results(tasks, count)
    total = 3000 * len(tasks)
    listed = [{"name": task.name, "kind": str(task.kind)} for task in tasks]
    start = {"event": "start", "time": "2026-01-05T10:00:00+00:00", "recipe": "sample", "tasks": listed}
    parameters = {"backbone": 22_713_216, "conditional": 2_410_312, "heads": 83_400, "trainable": 12_990_100}
    events: list[dict[str, Any]] = [start | {"total_examples": total, "parameters": parameters}]
    done = intervals if finished else intervals * 2 // 3
    for index in range(1, done + 1):
        at = total * index // intervals
        events.append(_progress(tasks, index, intervals, at, total // intervals, generator))
        if index % max(1, intervals // 12) == 0:
            scores = {task.name: _growing(results, task.name, index / intervals, generator) for task in tasks}
            events.append({"event": "evaluation", "examples": at, "scores": scores})
    if finished:
        events.append({"event": "finish", "examples": total, "seconds": total / 71.5, "version": "sample/1"})
        (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (folder / "history.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    return results


def _results(tasks: Sequence[Task], count: int) -> dict[str, Any]:
    scores, baselines, diagnostics = {}, {}, {}
    for index, task in enumerate(tasks):
        examples = examples_of(task, count)
        answers = answers_to(task, examples, skill=0.55 + 0.4 * ((index * 7) % 10) / 10)
        scores[task.name] = score_answers(task, examples, answers)
        baselines[task.name] = score_answers(task, examples, answers_to(task, examples, skill=0.2, seed=1))
        diagnostics[task.name] = diagnose(task, examples, answers)
    references: dict[str, dict[str, dict[str, float]]] = {"TF-IDF": {}, "frozen": {}}
    for index, (name, own) in enumerate(scores.items()):
        references["TF-IDF"][name] = {metric: value - 0.05 + 0.02 * (index % 4) for metric, value in own.items()}
        if index % 3:
            references["frozen"][name] = {metric: value - 0.03 for metric, value in own.items()}
    measured = {"scores": scores, "baselines": baselines, "references": references}
    return measured | {"warnings": {"mood": "is behind"}, "diagnostics": diagnostics}


def _progress(
    tasks: Sequence[Task], index: int, intervals: int, at: int, each: int, generator: random.Random
) -> dict[str, Any]:
    weights = [1 + 0.8 * math.sin(number * 1.7 + 3 * index / intervals) for number, _ in enumerate(tasks)]
    own = {}
    for number, task in enumerate(tasks):
        loss = (0.3 + 0.1 * (number % 6)) * (1 + 3 * math.exp(-4 * index / intervals)) * generator.uniform(0.9, 1.1)
        own[task.name] = {"examples": round(each * weights[number] / sum(weights)), "loss": loss}
    rate = 2e-4 * min(1.0, 10 * index / intervals) * (1 - index / (intervals + 1))
    mean = sum(one["loss"] for one in own.values()) / len(own)
    done = {"examples": at, "updates": at // 32, "seconds": at / 71.5}
    return {"event": "progress", **done, "learning_rate": rate, "loss": mean, "tasks": own}


def _growing(results: dict[str, Any], task: str, progress: float, generator: random.Random) -> dict[str, float]:
    """Scores between the trivial baseline and those of the results."""
    far = (1 - math.exp(-4 * progress)) * generator.uniform(0.95, 1.05)
    baseline = results["baselines"][task]
    return {name: baseline[name] + far * (value - baseline[name]) for name, value in results["scores"][task].items()}
