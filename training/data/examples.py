"""Examples: tasks with their labels, inputs with targets, and their rows, made from records."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from polytask.model.encoding import Encoding, Input, InputEncoder
from polytask.model.tasks import CANDIDATE_KINDS, LABELLED_KINDS, Kind, Task
from polytask.model.words import WordRule, WordSplit
from polytask.training.data.issues import DataError, DataIssues, read_all
from polytask.training.data.records import SourcedRecord, read_records
from polytask.training.data.running_text import running_text
from polytask.training.data.splits import hold_out, subsample
from polytask.training.data.word_rules import choose_word_rule
from polytask.training.recipes.schema import RecipeError, RegressionLoss, TaskConfig

_THRESHOLD = 0.5
_TEXT_KINDS = frozenset({Kind.CLASSIFICATION, Kind.MULTILABEL, Kind.REGRESSION})


@dataclass(frozen=True, slots=True)
class Example:
    """An input and its right answer.

    `target`, by kind. Classification, multiple choice: an index. Multilabel: 0 or 1 per label. Regression: the
    value. Ranking: 0 or 1 per candidate. Tagging: a label index per word. Span: (start, end) of each right answer, in
    characters; none if the context has no answer.
    """

    input: Input
    target: Any


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """An example of the task with id `task_id` as rows for the network.

    `target` as in Example, but in terms of the rows. Tagging: a label index per word that has a token. Span: the first
    and last index into the encoding's positions of one right answer. `weight`: factor of its loss, 1 on average over the
    task.
    """

    task_id: int
    encodings: tuple[Encoding, ...]
    target: Any
    weight: float = 1.0

    @property
    def longest(self) -> int:
        """Number of tokens of the longest row."""
        return max(len(encoding) for encoding in self.encodings)


@dataclass(frozen=True, slots=True)
class TaskData:
    """A task with its training and validation examples.

    `validation` holds all validation splits, one after the other. `splits`: their numbers of examples by name.
    """

    task: Task
    config: TaskConfig
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    splits: Mapping[str, int]


def load_task(config: TaskConfig, folder: Path) -> TaskData:
    """Reads and checks one task's files. Labels and ranges come from all training records, also from unused ones.

    Raises DataError with the file and line of every error, or RecipeError if the recipe's task is not possible.
    """
    train, *splits = read_all(partial(_read, config, folder, files) for files in _files_of_splits(config))
    task = _task(config, train)
    issues = DataIssues()
    _check_recipe_examples(task, config, issues)
    examples, *validation = [list(_examples(task, config, records, issues)) for records in (train, *splits)]
    issues.raise_if_any()
    if config.holdout:
        examples, held_out = _split_holdout(config, train, examples)
        validation = [held_out]
    return _task_data(task, config, subsample(examples, config.cap, config.cap_seed), validation)


def load_validation(task: Task, config: TaskConfig, folder: Path) -> TaskData:
    """Reads and checks the validation files of a task with known labels. `train` is empty.

    Raises DataError with the file and line of every error.
    """
    files = [config.train] if config.holdout else _files_of_splits(config)[1:]
    splits = read_all(partial(_read, config, folder, names) for names in files)
    issues = DataIssues()
    validation = [list(_examples(task, config, records, issues)) for records in splits]
    issues.raise_if_any()
    if config.holdout:
        validation = [_split_holdout(config, splits[0], validation[0])[1]]
    return _task_data(task, config, (), validation)


def _files_of_splits(config: TaskConfig) -> list[tuple[str, ...]]:
    """The files of train and of each validation split."""
    return [config.train, *((name,) for name in config.validation.values())]


def _read(config: TaskConfig, folder: Path, names: Sequence[str]) -> list[SourcedRecord]:
    files = [partial(read_records, folder, name, config.kind, config.columns, config.group_by) for name in names]
    return [record for records in read_all(files) for record in records]


def _split_holdout(
    config: TaskConfig, records: Sequence[SourcedRecord], examples: Sequence[Example]
) -> tuple[list[Example], list[Example]]:
    """The examples to train on, and those held out. Records with the same group stay together; a ranking is a group."""
    groups: Sequence[Any] = range(len(examples))
    if config.kind is not Kind.RANKING:
        groups = [(index,) if record.group is None else record.group for index, record in enumerate(records)]
    kept, held_out = hold_out(examples, groups, config.holdout)
    if not kept:
        raise DataError(f"{config.train[0]}: holdout = {config.holdout} leaves nothing to train on")
    return kept, held_out


def _is_grouped(config: TaskConfig) -> bool:
    """Whether every record needs a group: candidates of a ranking do, others if the recipe names the field."""
    return config.kind is Kind.RANKING or "group_by" in config.model_fields_set


def _task_data(
    task: Task, config: TaskConfig, train: Sequence[Example], validation: Sequence[Sequence[Example]]
) -> TaskData:
    names = tuple(config.validation) or ("held-out",)
    splits = {name: len(examples) for name, examples in zip(names, validation, strict=True)}
    return TaskData(task, config, tuple(train), tuple(chain(*validation)), splits)


def encode_examples(
    encoder: InputEncoder, task: Task, task_id: int, examples: Sequence[Example]
) -> list[EncodedExample]:
    """The examples as rows, without span examples that lost all answers by truncation and tagging examples without words."""
    encoded = []
    for example, encodings in zip(examples, encoder.encode(task, [e.input for e in examples]), strict=True):
        target = example.target
        if task.kind is Kind.SPAN:
            # A question without an answer starts and ends at the first position.
            target = _token_span(encodings[0], example.target) if example.target else (0, 0)
        elif task.kind is Kind.TAGGING:
            labels = dict(zip(example.input.words or (), example.target, strict=True))
            target = tuple(labels[word] for word in encodings[0].offsets)
        if target is not None and target != ():
            encoded.append(EncodedExample(task_id, encodings, target))
    return encoded


def weigh_labels_equally(examples: Sequence[EncodedExample]) -> list[EncodedExample]:
    """Classification examples with weight n / (number of labels * examples of the label), so that labels weigh the same."""
    counts = Counter(example.target for example in examples)
    return [replace(example, weight=len(examples) / (len(counts) * counts[example.target])) for example in examples]


def _token_span(encoding: Encoding, answers: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """First and last context token of the first answer that is complete after truncation."""
    for start, end in answers:
        touching = [i for i, (left, right) in enumerate(encoding.offsets) if left < end and right > start]
        # An answer may end in blanks, which are in no token. It is complete if no token was dropped, or one follows it.
        if touching and (not encoding.dropped_tokens or encoding.offsets[-1][1] >= end):
            return touching[0], touching[-1]
    return None


def _check_recipe_examples(task: Task, config: TaskConfig, issues: DataIssues) -> None:
    """Checks the recipe's examples for the fields of the task's inputs; otherwise publishing would fail after training."""
    second = {"candidates"} if task.kind in CANDIDATE_KINDS else {"text_pair"} if task.pair else set()
    for example in config.examples:
        present = {name for name, value in example if value}
        if present != {"text"} | second:
            fields = ", ".join(sorted({"text"} | second))
            issues.add(f"task {task.name!r}, example {example.text!r}", f"needs the fields {fields} and no other")
        elif not all(text.strip() for text in (example.text, example.text_pair or example.text, *example.candidates)):
            issues.add(f"task {task.name!r}, example {example.text!r}", "must not have a blank text")


def _task(config: TaskConfig, train: Sequence[SourcedRecord]) -> Task:
    labels: tuple[str, ...] = ()
    value_range = config.value_range
    from_data = not (config.labels or value_range)
    if config.kind in LABELLED_KINDS:
        labels = config.labels or tuple(sorted({label for sourced in train for label in _labels(config, sourced)}))
    if config.kind is Kind.REGRESSION and value_range is None:
        values = [sourced.record.label for sourced in train]
        value_range = (min(values), max(values))
    try:
        task = Task(
            name=config.name,
            kind=config.kind,
            max_length=config.max_length,
            labels=labels,
            pair=train[0].record.text_pair is not None
            if config.kind in _TEXT_KINDS
            else config.kind is not Kind.TAGGING,
            value_range=value_range,
            thresholds=(_THRESHOLD,) * _num_thresholds(config, labels, train),
            raw_output=config.regression is RegressionLoss.MSE,
            max_answer_tokens=config.max_answer_tokens,
            words=_word_rule(config, train) if config.kind is Kind.TAGGING else None,
        )
    except ValueError as error:
        message = f"{', '.join(config.train)}: {error}"
        raise DataError(message) if from_data else RecipeError(str(error)) from error
    _check_measurable(task, config)
    return task


def _num_thresholds(config: TaskConfig, labels: Sequence[str], train: Sequence[SourcedRecord]) -> int:
    if config.kind is Kind.SPAN:
        return int(any(not sourced.record.answers for sourced in train))
    return len(labels) if config.kind is Kind.MULTILABEL else 0


def _word_rule(config: TaskConfig, train: Sequence[SourcedRecord]) -> WordRule:
    """The rule for raw text that makes the words of the training records."""
    texts = [running_text(sourced.record.tokens) for sourced in train]
    return choose_word_rule(texts, tuple(WordSplit) if config.words is None else (config.words,))


def _check_measurable(task: Task, config: TaskConfig) -> None:
    """Checks that the labels, which may come from the data, allow the recipe's metric. Raises RecipeError."""
    if config.positive_label is not None and config.positive_label not in task.labels:
        labels = ", ".join(task.labels)
        raise RecipeError(
            f"task {task.name!r}: positive_label: {config.positive_label!r} is not among its labels: {labels}"
        )
    if config.metric == "span_f1" and not task.bio:
        raise RecipeError(f"task {task.name!r}: metric: 'span_f1' needs BIO tags; use 'token_accuracy'")


def _labels(config: TaskConfig, sourced: SourcedRecord) -> list[str]:
    record = sourced.record
    if config.kind is Kind.TAGGING:
        return list(record.tags)
    return list(record.labels) if config.kind is Kind.MULTILABEL else [record.label]


def _examples(
    task: Task, config: TaskConfig, records: Sequence[SourcedRecord], issues: DataIssues
) -> Iterator[Example]:
    """The examples of a split: one per record, for rankings one per group. Records that do not fit become issues."""
    label_ids = {label: i for i, label in enumerate(task.labels)}
    fitting = []
    for sourced in records:
        misfit = _misfit(task, config, sourced)
        if misfit:
            issues.add(sourced.location, *misfit)
        else:
            fitting.append(sourced)
    if task.kind is Kind.RANKING:
        yield from _ranking_examples(config, fitting, issues)
    else:
        for sourced in fitting:
            yield _example(task, config, sourced.record, label_ids)


def _misfit(task: Task, config: TaskConfig, sourced: SourcedRecord) -> tuple[str, str] | None:
    """How a record contradicts its task, as message and category; None if it fits."""
    record = sourced.record
    if _is_grouped(config) and sourced.group is None:
        return f"{config.group_by}: no text or number; the recipe groups records by it", "no group"
    if task.kind in _TEXT_KINDS and (record.text_pair is not None) != task.pair:
        how = "missing" if task.pair else "unexpected"
        return f"text_pair: {how}; a task's records all have it or none has", f"text_pair {how}"
    if task.kind in LABELLED_KINDS:
        unknown = [label for label in _labels(config, sourced) if label not in task.labels]
        if unknown:
            return f"label {unknown[0]!r} is not one of the task's {len(task.labels)} labels", "unknown label"
    if task.kind is Kind.SPAN and not (record.answers or task.may_lack_answer):
        return "answers: none, but every question of train has one, so that there is none to learn it from", "no answer"
    if task.kind is Kind.REGRESSION:
        low, high = task.value_range or (0.0, 0.0)
        if not low <= record.label <= high:
            return f"label {record.label} is outside the task's range {low} to {high}", "outside the range"
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


def _ranking_examples(config: TaskConfig, records: Sequence[SourcedRecord], issues: DataIssues) -> Iterator[Example]:
    """One example per query: its candidates in file order."""
    groups: dict[str | int | None, list[Any]] = defaultdict(list)
    for sourced in records:
        members = groups[sourced.group]
        members.append(sourced.record)
        if sourced.record.text != members[0].text:
            message = f"text: differs from the query of its group {sourced.group!r}"
            issues.add(sourced.location, message, category="text differs from the query of its group")
    # As text, because CSV has no numbers.
    positive = str(config.positive)
    if records and all(str(sourced.record.label) != positive for sourced in records):
        file, _, _ = records[0].location.rpartition(":")
        issues.add(file, f"label: no record of the file has the recipe's positive {config.positive!r}")
    for members in groups.values():
        candidates = tuple(record.text_pair for record in members)
        relevant = tuple(int(str(record.label) == positive) for record in members)
        yield Example(Input(members[0].text, candidates=candidates), relevant)
