"""Records to examples: tasks with their labels, inputs with targets, and rows that are ready to be batched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from model.encoding import Encoding, Input, InputEncoder
from model.tasks import CANDIDATE_KINDS, LABELLED_KINDS, Kind, Task
from training.config import RecipeError, TaskConfig
from training.records import DataError, Located, Problems, read_all, read_records

_THRESHOLD = 0.5
_TEXT_KINDS = frozenset({Kind.CLASSIFICATION, Kind.MULTILABEL, Kind.REGRESSION})


@dataclass(frozen=True, slots=True)
class Example:
    """An input and its right answer.

    `target`, by kind. Classification, multiple choice: an index. Multilabel: 0 or 1 per label. Regression: the
    value. Ranking: 0 or 1 per candidate. Tagging: a label index per word. Span: (start, end) characters of each
    right answer.
    """

    input: Input
    target: Any


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """An example of the task with id `task_id` as rows for the network.

    `target` as in Example, but in terms of the rows. Tagging: a label index per word that has a token.
    Span: the first and last index into the encoding's places of one right answer.
    """

    task_id: int
    encodings: tuple[Encoding, ...]
    target: Any

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(len(encoding) for encoding in self.encodings)


@dataclass(frozen=True, slots=True)
class TaskData:
    """A task with its training and validation examples."""

    task: Task
    config: TaskConfig
    train: tuple[Example, ...]
    validation: tuple[Example, ...]


def load_task(config: TaskConfig, folder: Path) -> TaskData:
    """Reads and checks one task's files.

    Raises DataError naming file and line of all that is wrong, or RecipeError if no task can be what the recipe says.
    """
    names = (config.train, config.validation)
    train, validation = read_all(partial(read_records, folder / name, config.kind) for name in names)
    task = _task(config, train)
    problems = Problems()
    _check_shown(task, config, problems)
    examples = [tuple(_examples(task, config, records, problems)) for records in (train, validation)]
    problems.raise_if_any()
    return TaskData(task, config, *examples)


def load_validation(task: Task, config: TaskConfig, folder: Path) -> TaskData:
    """Reads and checks the validation file of a task that has its labels already; `train` stays empty.

    Raises DataError naming file and line of all that is wrong.
    """
    problems = Problems()
    records = read_records(folder / config.validation, config.kind)
    examples = tuple(_examples(task, config, records, problems))
    problems.raise_if_any()
    return TaskData(task, config, (), examples)


def encode_examples(
    encoder: InputEncoder, task: Task, task_id: int, examples: Sequence[Example]
) -> list[EncodedExample]:
    """The examples as rows. Left out: span examples whose every answer was truncated away, and wordless tagging."""
    encoded = []
    for example, encodings in zip(examples, encoder.encode(task, [e.input for e in examples]), strict=True):
        target = example.target
        if task.kind is Kind.SPAN:
            target = _token_span(encodings[0], example.target)
        elif task.kind is Kind.TAGGING:
            labels = dict(zip(example.input.words or (), example.target, strict=True))
            target = tuple(labels[word] for word in encodings[0].offsets)
        if target is not None and target != ():
            encoded.append(EncodedExample(task_id, encodings, target))
    return encoded


def _token_span(encoding: Encoding, answers: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """First and last context token of the first answer that truncation left whole."""
    for start, end in answers:
        touching = [i for i, (left, right) in enumerate(encoding.offsets) if left < end and right > start]
        # An answer may end in blanks, which no token holds; it is whole if nothing is missing or more is there.
        if touching and (not encoding.dropped_tokens or encoding.offsets[-1][1] >= end):
            return touching[0], touching[-1]
    return None


def _check_shown(task: Task, config: TaskConfig, problems: Problems) -> None:
    """The recipe's own examples have the fields of the task's inputs, or publishing would fail after training."""
    second = {"candidates"} if task.kind in CANDIDATE_KINDS else {"text_pair"} if task.pair else set()
    for example in config.examples:
        given = {name for name, value in example if value}
        if given != {"text"} | second:
            fields = ", ".join(sorted({"text"} | second))
            problems.add(f"task {task.name!r}, example {example.text!r}", f"needs the fields {fields} and no other")
        elif not all(text.strip() for text in (example.text, example.text_pair or example.text, *example.candidates)):
            problems.add(f"task {task.name!r}, example {example.text!r}", "must not have a blank text")


def _task(config: TaskConfig, train: Sequence[Located]) -> Task:
    labels: tuple[str, ...] = ()
    value_range = config.value_range
    from_data = not (config.labels or value_range)
    if config.kind in LABELLED_KINDS:
        labels = config.labels or tuple(sorted({label for located in train for label in _labels(config, located)}))
    if config.kind is Kind.REGRESSION and value_range is None:
        values = [located.record.label for located in train]
        value_range = (min(values), max(values))
    try:
        return Task(
            name=config.name,
            kind=config.kind,
            max_length=config.max_length,
            labels=labels,
            pair=train[0].record.text_pair is not None
            if config.kind in _TEXT_KINDS
            else config.kind is not Kind.TAGGING,
            value_range=value_range,
            thresholds=(_THRESHOLD,) * len(labels) if config.kind is Kind.MULTILABEL else (),
        )
    except ValueError as error:
        raise DataError(f"{config.train}: {error}") if from_data else RecipeError(str(error)) from error


def _labels(config: TaskConfig, located: Located) -> list[str]:
    record = located.record
    if config.kind is Kind.TAGGING:
        return list(record.tags)
    return list(record.labels) if config.kind is Kind.MULTILABEL else [record.label]


def _examples(task: Task, config: TaskConfig, records: Sequence[Located], problems: Problems) -> Iterator[Example]:
    if task.kind is Kind.RANKING:
        yield from _ranking_examples(config, records, problems)
        return
    label_ids = {label: i for i, label in enumerate(task.labels)}
    for located in records:
        problem = _problem(task, config, located)
        if problem:
            problems.add(located.place, problem)
        else:
            yield _example(task, config, located.record, label_ids)


def _problem(task: Task, config: TaskConfig, located: Located) -> str | None:
    record = located.record
    if task.kind in _TEXT_KINDS and (record.text_pair is not None) != task.pair:
        return f"text_pair: {'missing' if task.pair else 'unexpected'}; a task's records all have it or none has"
    if task.kind in LABELLED_KINDS:
        unknown = [label for label in _labels(config, located) if label not in task.labels]
        if unknown:
            return f"label {unknown[0]!r} is not one of the task's {len(task.labels)} labels"
    if task.kind is Kind.REGRESSION:
        low, high = task.value_range or (0.0, 0.0)
        if not low <= record.label <= high:
            return f"label {record.label} is outside the task's range {low} to {high}"
    return None


def _example(task: Task, config: TaskConfig, record: Any, label_ids: dict[str, int]) -> Example:
    match task.kind:
        case Kind.CLASSIFICATION:
            return Example(Input(record.text, record.text_pair), label_ids[record.label])
        case Kind.MULTILABEL:
            return Example(Input(record.text, record.text_pair), tuple(int(x in record.labels) for x in task.labels))
        case Kind.REGRESSION:
            return Example(Input(record.text, record.text_pair), record.label)
        case Kind.MULTIPLE_CHOICE:
            text = f"{record.text} {record.question}".strip() if config.use_question else record.text
            return Example(Input(text, candidates=tuple(record.choices)), record.label)
        case Kind.TAGGING:
            return Example(Input.from_words(record.tokens), tuple(label_ids[tag] for tag in record.tags))
        case Kind.SPAN:
            spans = tuple((answer.start, answer.start + len(answer.text)) for answer in record.answers)
            return Example(Input(record.text, record.text_pair), spans)
        case Kind.RANKING:
            raise AssertionError("ranking records are grouped first")


def _ranking_examples(config: TaskConfig, records: Sequence[Located], problems: Problems) -> Iterator[Example]:
    """One example per query: its candidates in file order."""
    groups: dict[Any, list[Any]] = defaultdict(list)
    for located in records:
        group = getattr(located.record, config.group_by, None)
        if not isinstance(group, str | int):
            problems.add(located.place, f"{config.group_by}: no text or number; the recipe groups candidates by it")
            continue
        groups[group].append(located.record)
        if located.record.text != groups[group][0].text:
            problems.add(located.place, f"text: differs from the query of its group {group!r}")
    if all(located.record.label != config.positive for located in records):
        file, _, _ = records[0].place.rpartition(":")
        problems.add(file, f"label: no record of the file has the recipe's positive {config.positive!r}")
    for members in groups.values():
        candidates = tuple(record.text_pair for record in members)
        relevant = tuple(int(record.label == config.positive) for record in members)
        yield Example(Input(members[0].text, candidates=candidates), relevant)
