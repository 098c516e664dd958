"""Tasks: name, kind, labels and limits. A task's id is its index in the list of tasks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from polytask.model.words import WordRule

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""Names of tasks and checkpoints, which appear in paths and URLs."""


class Kind(StrEnum):
    """The seven kinds of task."""

    CLASSIFICATION = "classification"
    MULTILABEL = "multilabel"
    REGRESSION = "regression"
    RANKING = "ranking"
    MULTIPLE_CHOICE = "multiple_choice"
    TAGGING = "tagging"
    SPAN = "span"


LABELLED_KINDS = frozenset({Kind.CLASSIFICATION, Kind.MULTILABEL, Kind.TAGGING})
CANDIDATE_KINDS = frozenset({Kind.RANKING, Kind.MULTIPLE_CHOICE})
_TOKEN_LEVEL = frozenset({Kind.TAGGING, Kind.SPAN})
_DEFAULT_WORDS = WordRule()
_ALWAYS_PAIRED = frozenset({Kind.RANKING, Kind.MULTIPLE_CHOICE, Kind.SPAN})

NO_ANSWER = "no_answer"
"""The name of the threshold of a span task whose questions may have no answer."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a checkpoint.

    `labels`: of classification, multilabel and tagging. `value_range`: lowest and highest value of a regression.
    `raw_output`: the output of a regression is the value itself, else its sigmoid is the position in the range.
    `thresholds`: probabilities by `threshold_names`: of multilabel, one per label; of a span task whose questions may have
    no answer, the one from which it says so. `pair`: the task reads two texts. `max_length`: tokens of a row, special
    tokens included. `max_answer_tokens`: of span, tokens of the longest answer; None for any length. `words`: of tagging,
    how raw text is split; None as by `WordRule()`. `min_confidence`: of classification, the probability below which an
    answer has no label; None for always one. `transitions`: of tagging, learnt scores of a tag behind another, one per
    label in a row of the first word and in a row behind each label, see `polytask.model.tag_decoding`; none if empty.
    `word_shapes`: of tagging, the network reads the shape of each word, see `polytask.model.word_shapes`.
    Raises ValueError if these do not fit the kind.
    """

    name: str
    kind: Kind
    max_length: int
    labels: tuple[str, ...] = ()
    pair: bool = False
    value_range: tuple[float, float] | None = None
    thresholds: tuple[float, ...] = ()
    raw_output: bool = False
    max_answer_tokens: int | None = None
    words: WordRule | None = None
    min_confidence: float | None = None
    transitions: tuple[tuple[float, ...], ...] = ()
    word_shapes: bool = False

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise ValueError(f"task {self.name!r}: {problem}")

    @property
    def word_rule(self) -> WordRule:
        """How the raw texts of a tagging task are split into words."""
        return self.words or _DEFAULT_WORDS

    @property
    def token_level(self) -> bool:
        """Whether the task has outputs for every token instead of one for the whole text."""
        return self.kind in _TOKEN_LEVEL

    @property
    def num_outputs(self) -> int:
        """Number of outputs in the task's slice of the heads."""
        if self.kind in LABELLED_KINDS:
            return len(self.labels)
        return 2 if self.kind is Kind.SPAN else 1

    @property
    def threshold_names(self) -> tuple[str, ...]:
        """What each threshold is of."""
        return self.labels if self.kind is Kind.MULTILABEL else (NO_ANSWER,) * len(self.thresholds)

    @property
    def may_lack_answer(self) -> bool:
        """Whether it is a span task whose questions may have no answer."""
        return self.kind is Kind.SPAN and bool(self.thresholds)

    @property
    def bio(self) -> bool:
        """Whether a tagging task's labels are BIO tags (`O`, `B-x`, `I-x`) instead of plain ones."""
        return all(label == "O" or label[:2] in {"B-", "I-"} for label in self.labels)


def _problem(task: Task) -> str | None:
    if not NAME.fullmatch(task.name):
        return "a name is 1 to 63 of a-z, 0-9, - and _, and starts with a letter or digit"
    if task.kind in LABELLED_KINDS and len(task.labels) < 2:
        return f"{task.kind} needs at least two labels, got {len(task.labels)}"
    if task.kind not in LABELLED_KINDS and task.labels:
        return f"{task.kind} has no labels"
    if len(set(task.labels)) != len(task.labels):
        return "a label is listed twice"
    if (task.kind is Kind.REGRESSION) != (task.value_range is not None) or (task.raw_output and not task.value_range):
        return "regression needs value_range, and only regression has one, or raw_output"
    if task.value_range is not None and not 0 < task.value_range[1] - task.value_range[0] < math.inf:
        return f"value_range must rise, and be finite, got {task.value_range}"
    if task.kind in _ALWAYS_PAIRED and not task.pair:
        return f"{task.kind} always reads pairs"
    if task.max_length < 8:
        return f"max_length must be at least 8, got {task.max_length}"
    return _misplaced_key(task)


def _misplaced_key(task: Task) -> str | None:
    """What is wrong with the keys that only some kinds have."""
    if task.kind is Kind.MULTILABEL and len(task.thresholds) != len(task.labels):
        return "multilabel needs one threshold per label"
    if task.kind is not Kind.MULTILABEL and len(task.thresholds) > (task.kind is Kind.SPAN):
        return "only multilabel has thresholds; span may have one, of questions without an answer"
    if not all(0 <= threshold <= 1 for threshold in task.thresholds):
        return f"a threshold is a probability from 0 to 1, got {task.thresholds}"
    if task.max_answer_tokens is not None and (task.kind is not Kind.SPAN or task.max_answer_tokens < 1):
        return "max_answer_tokens must be at least 1, and only span has it"
    if task.words is not None and task.kind is not Kind.TAGGING:
        return "only tagging splits texts into words"
    if task.word_shapes and task.kind is not Kind.TAGGING:
        return "only tagging reads the shapes of words"
    if task.min_confidence is not None and (task.kind is not Kind.CLASSIFICATION or not 0 <= task.min_confidence <= 1):
        return "min_confidence must be a probability from 0 to 1, and only classification has it"
    return _misplaced_transitions(task)


def _misplaced_transitions(task: Task) -> str | None:
    size = len(task.labels)
    if task.transitions and task.kind is not Kind.TAGGING:
        return "only tagging has transitions between labels"
    if task.transitions and [len(row) for row in task.transitions] != [size] * (size + 1):
        return f"transitions need {size + 1} rows of {size} scores"
    return None


def answer_labels(task: Task) -> tuple[str, ...]:
    """The labels that answers may have. For BIO tags, `B-person` and `I-person` both give `person`."""
    if task.kind is not Kind.TAGGING or not task.bio:
        return task.labels
    return tuple(dict.fromkeys(label[2:] for label in task.labels if label != "O"))


def check_tasks(tasks: Iterable[Task], max_length: int) -> tuple[Task, ...]:
    """The tasks as a tuple, in id order. Raises ValueError for no task, a repeated name or too large a `max_length`."""
    tasks = tuple(tasks)
    if not tasks:
        raise ValueError("at least one task is needed")
    names = [task.name for task in tasks]
    for task in tasks:
        if names.count(task.name) > 1:
            raise ValueError(f"task {task.name!r} is listed twice")
        if task.max_length > max_length:
            raise ValueError(f"task {task.name!r}: max_length {task.max_length} is over the network's {max_length}")
    return tasks
