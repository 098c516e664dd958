"""Examples: tasks with their labels, inputs with targets, and their rows, made from records."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polytask.model.encoding import Encoding, Input, InputEncoder
from polytask.model.tasks import CANDIDATE_KINDS, LABELLED_KINDS, Kind, Task, answer_labels
from polytask.model.words import WordRule, WordSplit
from polytask.training.data.holdout import choose_held_out
from polytask.training.data.issues import DataError, DataIssues, read_all
from polytask.training.data.labels import LabelReading, labels_of, lookalikes
from polytask.training.data.records import SourcedRecord, read_records, whole_queries
from polytask.training.data.relevance import Relevance, read_relevance
from polytask.training.data.running_text import running_text
from polytask.training.data.splits import subsample
from polytask.training.data.tag_schemes import iob2_labels
from polytask.training.data.word_rules import choose_word_rule
from polytask.training.recipes.schema import OnBadRow, RecipeError, RegressionLoss, TaskConfig
from polytask.training.recipes.validation_errors import did_you_mean

READING = 3
"""The rules by which files become examples, numbered: another number may give other examples of the same recipe and files.

1: `holdout` drew groups at random; tags were read as they are. 2: `holdout` keeps labels equally frequent and equal texts
together; labels and tags are put right, see `polytask.training.data.labels`. 3: `selection` keeps training examples.
"""

_THRESHOLD = 0.5
_FEWEST_TO_SELECT_FROM = 100
"""Training examples; of fewer, a tenth would decide nothing."""
_MOST_SELECTION = 1_000
_TEXT_KINDS = frozenset({Kind.CLASSIFICATION, Kind.MULTILABEL, Kind.REGRESSION})


@dataclass(frozen=True, slots=True)
class Example:
    """An input and its right answer.

    `target`, by kind. Classification, multiple choice: an index. Multilabel: 0 or 1 per label. Regression: the
    value. Ranking: the relevance of each candidate, 0 to 1. Tagging: a label index per word. Span: (start, end) of each
    right answer, in characters; none if the context has no answer.
    """

    input: Input
    target: Any


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """An example of the task with id `task_id` as rows for the network.

    `target` as in Example, but in terms of the rows. Tagging: a label index per word that has a token. Span: the first
    and last index into the encoding's positions of one right answer, (0, 0) if there is none. `weight`: factor of its loss,
    1 on average over the task. `taught`: what its teachers answer, if it has any, in the shape of its logits, [rows, or
    words or tokens, outputs]: probabilities, or the value of a regression whose output is that.
    """

    task_id: int
    encodings: tuple[Encoding, ...]
    target: Any
    weight: float = 1.0
    taught: NDArray[np.floating[Any]] | None = field(default=None, compare=False)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest row."""
        return max(len(encoding) for encoding in self.encodings)


@dataclass(frozen=True, slots=True)
class TaskData:
    """A task with its training and validation examples.

    `validation` holds all validation splits, one after the other. `splits`: their numbers of examples by name.
    `selection`: training examples that no update sees; what is chosen while training and after it, such as the best state
    and thresholds, is chosen on them. `notes`: what was recognised in the data, and warnings, for people. `bad_rows`:
    number of rows that were left out.
    """

    task: Task
    config: TaskConfig
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    splits: Mapping[str, int]
    selection: tuple[Example, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)
    bad_rows: int = field(default=0, compare=False)


def load_task(config: TaskConfig, folder: Path) -> TaskData:
    """Reads and checks one task's files. Labels and ranges come from all training records, also from unused ones.

    Raises DataError with the file and line of every error, or RecipeError if the recipe's task is not possible.
    """
    bad_rows = DataIssues()
    files = _files_of_splits(config)
    splits = _read_splits(config, folder, files, bad_rows)
    if config.kind in LABELLED_KINDS:
        labels = LabelReading(config.kind, splits, config.labels, bad_rows, entities=config.entities)
        _require_records(labels.splits, files, bad_rows)
        task = _task(config, labels.splits[0], entities=labels.entities)
        data = _make_examples(task, config, files, labels.splits, bad_rows, labels.notes)
    else:
        data = _make_examples(_task(config, splits[0]), config, files, splits, bad_rows)
    return data


def load_known_task(task: Task, config: TaskConfig, folder: Path) -> TaskData:
    """Reads and checks the files of a task whose labels and ranges are known, those of a version.

    Raises DataError with the file and line of every error.
    """
    return _load_known(task, config, folder, _files_of_splits(config))


def load_validation(task: Task, config: TaskConfig, folder: Path) -> TaskData:
    """Reads and checks the validation files of a task with known labels. `train` is empty.

    Raises DataError with the file and line of every error.
    """
    files = [config.train] if config.holdout else [(), *_files_of_splits(config)[1:]]
    return replace(_load_known(task, config, folder, files), train=(), selection=())


def _load_known(task: Task, config: TaskConfig, folder: Path, files: Sequence[tuple[str, ...]]) -> TaskData:
    """The task from the files of each split, of which the training split may have none."""
    bad_rows = DataIssues()
    named = [names for names in files if names]
    splits: Sequence[Sequence[SourcedRecord]] = _read_splits(config, folder, named, bad_rows)
    notes: list[str] = []
    if task.kind in LABELLED_KINDS:
        entities = task.bio if task.kind is Kind.TAGGING else None
        labels = LabelReading(task.kind, splits, task.labels, bad_rows, entities=entities)
        splits, notes = labels.splits, labels.notes
        _require_records(splits, named, bad_rows)
    return _make_examples(task, config, files, splits, bad_rows, notes)


def _make_examples(
    task: Task,
    config: TaskConfig,
    files: Sequence[tuple[str, ...]],
    splits: Sequence[Sequence[SourcedRecord]],
    bad_rows: DataIssues,
    notes: Sequence[str] = (),
) -> TaskData:
    """The examples of all splits, with what is to be said about them. Raises DataError."""
    faults, notes = DataIssues(), list(notes)
    _check_recipe_examples(task, config, faults)
    if task.kind is Kind.RANKING:
        relevance = read_relevance(config, chain(*splits))
        if relevance.grades:
            config = config.model_copy(update={"metric": config.metric or "ndcg"})
            grades = ", ".join(map(str, relevance.grades))
            notes.append(f"labels are grades of relevance, {grades}: learnt as shares of {relevance.grades[-1]}")
    records = [_fitting(task, config, split, bad_rows) for split in splits]
    num_rows = sum(map(len, records)) + bad_rows.count
    if task.kind is Kind.RANKING:
        examples = [_ranking_examples(relevance, split, faults) for split in records]
    else:
        label_ids = {label: i for i, label in enumerate(task.labels)}
        examples = [[_example(task, config, sourced.record, label_ids) for sourced in split] for split in records]
    if config.on_bad_row is OnBadRow.STOP or bad_rows.count > config.bad_row_limit * num_rows:
        if config.on_bad_row is OnBadRow.SKIP:
            limit = f"{bad_rows.count:,} of {num_rows:,} rows are bad, more than bad_row_limit = {config.bad_row_limit}"
            faults.add(f"task {task.name!r}", limit)
        faults.extend(bad_rows)
    faults.raise_if_any()
    _require_records(records, files[-len(records) :], bad_rows)
    if bad_rows.count:
        notes.append(f"warning: {bad_rows.count:,} of {num_rows:,} rows are left out:\n{bad_rows}")
    train, *validation = examples if len(examples) == len(files) else [[], *examples]
    train_records = records[0]
    if config.holdout:
        train, held_out, train_records = _hold_out(config, train, train_records, config.holdout, notes)
        validation = [held_out]
    train, selection = _keep_selection(config, train, train_records)
    if task.kind is Kind.RANKING:
        _check_rankings(config, validation, notes)
    notes += [
        f"warning: the labels {' and '.join(map(repr, names))} are almost the same"
        for names in lookalikes(answer_labels(task))
    ]
    return _task_data(task, config, train, selection, validation, notes, bad_rows.count)


def _keep_selection(
    config: TaskConfig, train: Sequence[Example], records: Sequence[SourcedRecord]
) -> tuple[list[Example], list[Example]]:
    """The examples to train on, `cap` at most, and those to choose by. None are kept where all are in one group."""
    kept = subsample(range(len(train)), config.cap, config.cap_seed)
    train = [train[index] for index in kept]
    if not config.selection or len(train) < _FEWEST_TO_SELECT_FROM:
        return train, []
    if config.kind is not Kind.RANKING:
        records = [records[index] for index in kept]
    try:
        train, selection, _ = _hold_out(config, train, records, min(config.selection, _MOST_SELECTION / len(train)), [])
    except DataError:
        return train, []
    return train, selection


def _hold_out(
    config: TaskConfig, examples: Sequence[Example], records: Sequence[SourcedRecord], share: float, notes: list[str]
) -> tuple[list[Example], list[Example], list[SourcedRecord]]:
    """The examples to go on with, those held out, and the records of the former (of a ranking: all)."""
    split = choose_held_out(config, records, [e.input for e in examples], [e.target for e in examples], share)
    notes += split.notes
    sides: tuple[list[Example], list[Example]] = [], []
    for example, is_held in zip(examples, split.held_out, strict=True):
        sides[is_held].append(example)
    if config.kind is Kind.RANKING:
        return *sides, list(records)
    return *sides, [record for record, is_held in zip(records, split.held_out, strict=True) if not is_held]


def _files_of_splits(config: TaskConfig) -> list[tuple[str, ...]]:
    """The files of train and of each validation split."""
    return [config.train, *((name,) for name in config.validation.values())]


def _read_splits(
    config: TaskConfig, folder: Path, files: Sequence[tuple[str, ...]], bad_rows: DataIssues
) -> list[list[SourcedRecord]]:
    return read_all(partial(_read, config, folder, names, bad_rows) for names in files)


def _read(config: TaskConfig, folder: Path, names: Sequence[str], bad_rows: DataIssues) -> list[SourcedRecord]:
    skipped = bad_rows if config.on_bad_row is OnBadRow.SKIP else None
    options: dict[str, Any] = {"columns": config.columns, "group_by": config.group_by, "grouped": _is_grouped(config)}
    files = [partial(read_records, folder, name, config.kind, bad_rows=skipped, **options) for name in names]
    return [record for records in read_all(files) for record in records]


def _require_records(
    splits: Sequence[Sequence[SourcedRecord]], files: Sequence[tuple[str, ...]], bad_rows: DataIssues
) -> None:
    """Raises DataError if no record of a split is left."""
    for split, names in zip(splits, files, strict=True):
        if not split:
            bad_rows.raise_if_any()
            raise DataError(f"{', '.join(names)}: no records")


def _check_rankings(config: TaskConfig, validation: Sequence[Sequence[Example]], notes: list[str]) -> None:
    """Notes what cannot be measured: queries of which no order is better than another, and MAP and MRR without a wrong one.

    Raises DataError if a split has no others.
    """
    for name, examples in zip(config.validation.values() or config.train, validation, strict=False):
        useless = sum(len(set(example.target)) == 1 for example in examples)
        if useless == len(examples):
            raise DataError(
                f"{name}: nothing can be measured: in no query of the validation data is one candidate more relevant than "
                "another; give queries with both"
            )
        if useless:
            notes.append(
                f"{useless:,} of {len(examples):,} queries of {name} are not measured: any order of their candidates is right"
            )
        if not any(0 in example.target for example in examples):
            notes.append(
                f"warning: map and mrr of {name} are 0, as no candidate has the grade 0 and all are relevant; ndcg counts"
            )


def _is_grouped(config: TaskConfig) -> bool:
    """Whether every record needs a group: candidates of a ranking do, others if the recipe names the field."""
    return config.kind is Kind.RANKING or "group_by" in config.model_fields_set


def _task_data(
    task: Task,
    config: TaskConfig,
    train: Sequence[Example],
    selection: Sequence[Example],
    validation: Sequence[Sequence[Example]],
    notes: Sequence[str],
    left_out: int,
) -> TaskData:
    names = tuple(config.validation) or ("held-out",)
    splits = {name: len(examples) for name, examples in zip(names, validation, strict=True)}
    return TaskData(
        task, config, tuple(train), tuple(chain(*validation)), splits, tuple(selection), tuple(notes), left_out
    )


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


def _task(config: TaskConfig, train: Sequence[SourcedRecord], *, entities: bool = False) -> Task:
    labels: tuple[str, ...] = ()
    value_range = config.value_range
    from_data = not (config.labels or value_range)
    if config.kind in LABELLED_KINDS:
        found = {label for sourced in train for label in labels_of(config.kind, sourced.record)}
        labels = (iob2_labels(config.labels) if entities else config.labels) or tuple(sorted(found))
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
            min_confidence=config.min_confidence,
        )
    except ValueError as error:
        key = "value_range" if config.kind is Kind.REGRESSION else "labels"
        message = f"{', '.join(config.train)}: {error}; `{key}` in the recipe can list more than the data have"
        raise DataError(message) if from_data else RecipeError(str(error)) from error
    _check_measurable(task, config, entities=entities)
    return task


def _num_thresholds(config: TaskConfig, labels: Sequence[str], train: Sequence[SourcedRecord]) -> int:
    if config.kind is Kind.SPAN:
        return int(any(not sourced.record.answers for sourced in train))
    return len(labels) if config.kind is Kind.MULTILABEL else 0


def _word_rule(config: TaskConfig, train: Sequence[SourcedRecord]) -> WordRule:
    """The rule for raw text that makes the words of the training records."""
    texts = [running_text(sourced.record.tokens) for sourced in train]
    return choose_word_rule(texts, tuple(WordSplit) if config.words is None else (config.words,))


def _check_measurable(task: Task, config: TaskConfig, *, entities: bool) -> None:
    """Checks that the labels, which may come from the data, allow what the recipe wants. Raises RecipeError."""
    if config.positive_label is not None and config.positive_label not in task.labels:
        labels = ", ".join(task.labels)
        raise RecipeError(
            f"task {task.name!r}: positive_label: {config.positive_label!r} is not among its labels: {labels}"
            f"{did_you_mean(config.positive_label, task.labels)}"
        )
    if task.kind is Kind.TAGGING and config.metric == "span_f1" and not entities:
        plain = ", ".join(label for label in task.labels if label[:2] not in {"B-", "I-"})
        raise RecipeError(
            f"task {task.name!r}: metric: 'span_f1' needs tags of entities, such as B-person; these are none: {plain}; "
            "use 'token_accuracy'"
        )
    if task.kind is Kind.TAGGING and task.bio and not entities:
        raise RecipeError(
            f"task {task.name!r}: entities: false, but all tags are B-, I- or O, which always mark entities"
        )


def _fitting(
    task: Task, config: TaskConfig, records: Sequence[SourcedRecord], issues: DataIssues
) -> list[SourcedRecord]:
    """The records that fit the task; the others become issues."""
    fitting, queries, labels = list[SourcedRecord](), dict[str | int | None, str](), frozenset(task.labels)
    bad_groups = set[str | int | None]()
    for sourced in records:
        misfit = _misfit(task, config, sourced, labels)
        if (
            not misfit
            and task.kind is Kind.RANKING
            and queries.setdefault(sourced.group, sourced.record.text) != sourced.record.text
        ):
            category = "text differs from the query of its group"
            misfit = f"text: differs from the query of its group {sourced.group!r}", category
        if misfit:
            issues.add(sourced.location, *misfit)
            bad_groups.add(sourced.group)
        else:
            fitting.append(sourced)
    if task.kind is Kind.RANKING and config.on_bad_row is OnBadRow.SKIP:
        return whole_queries(fitting, bad_groups, issues)
    return fitting


def _misfit(task: Task, config: TaskConfig, sourced: SourcedRecord, known: frozenset[str]) -> tuple[str, str] | None:
    """How a record contradicts its task, of which the labels are `known`, as message and category; None if it fits."""
    record = sourced.record
    if _is_grouped(config) and sourced.group is None:
        return f"{config.group_by}: no text or number; `group_by` in the recipe names the field of groups", "no group"
    if task.kind in _TEXT_KINDS and (record.text_pair is not None) != task.pair:
        how = "missing" if task.pair else "unexpected"
        return f"text_pair: {how}; a task's records all have it or none has", f"text_pair {how}"
    if task.kind in LABELLED_KINDS:
        unknown = [label for label in labels_of(task.kind, record) if label not in known]
        if unknown:
            question = did_you_mean(unknown[0], task.labels)
            what = f"label {unknown[0]!r} is not one of the task's {len(task.labels)} labels"
            return f"{what}; `labels` in the recipe lists all that there are{question}", "unknown label"
    if task.kind is Kind.SPAN and not (record.answers or task.may_lack_answer):
        return "answers: none, but every question of train has one, so that there is none to learn it from", "no answer"
    if task.kind is Kind.REGRESSION:
        low, high = task.value_range or (0.0, 0.0)
        if not low <= record.label <= high:
            what = f"label {record.label} is outside the task's range {low} to {high}"
            return f"{what}; `value_range` in the recipe sets another", "outside the range"
    return None


def _example(task: Task, config: TaskConfig, record: Any, label_ids: dict[str, int]) -> Example:
    match task.kind:
        case Kind.CLASSIFICATION:
            return Example(Input(record.text, record.text_pair), label_ids[record.label])
        case Kind.MULTILABEL:
            applying = frozenset(record.labels)
            return Example(Input(record.text, record.text_pair), tuple(int(x in applying) for x in task.labels))
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


def _ranking_examples(relevance: Relevance, records: Sequence[SourcedRecord], issues: DataIssues) -> list[Example]:
    """One example per query: its candidates in file order."""
    groups: dict[str | int | None, list[Any]] = defaultdict(list)
    for sourced in records:
        groups[sourced.group].append(sourced.record)
    if records and not any(relevance(sourced.record.label) for sourced in records):
        file, _, _ = records[0].location.rpartition(":")
        issues.add(file, f"label: no record of the file has the recipe's positive {relevance.positive!r}")
    return [
        Example(
            Input(members[0].text, candidates=tuple(record.text_pair for record in members)),
            tuple(relevance(record.label) for record in members),
        )
        for members in groups.values()
    ]
