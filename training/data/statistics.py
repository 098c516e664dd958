"""Data statistics: tables of sizes, lengths, truncation and targets before training, and warnings about odd data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from polytask.model.encoding import InputEncoder
from polytask.model.tasks import LABELLED_KINDS, Kind
from polytask.training.data.examples import EncodedExample, Example, TaskData
from polytask.training.data.running_text import running_text
from polytask.training.data.word_rules import agreement, describe

_NAMED_LABELS = 5

_SAMPLE = 1000
"""Validation examples whose lengths are measured."""

_MUCH_CUT = 0.05
_FEW_DRAWS = 100

_LOW_AGREEMENT = 0.9
"""The share of words found below which there is a warning."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens per example before truncation (of its longest row), and numbers of examples that are truncated.

    `most`: the 95th percentile. `cut`: examples that lose tokens. `left_out`: examples that are not trained on, because
    truncation left nothing to learn.
    """

    median: int
    most: int
    longest: int
    cut: int
    left_out: int


def data_statistics(
    data: Sequence[TaskData],
    examples: Sequence[Sequence[EncodedExample]],
    draws: Sequence[int] | None,
    encoder: InputEncoder,
) -> Group:
    """The tables and notes to print before training; `examples[t]` are the training examples of task t as rows.

    `draws[t]`: about how many examples of task t the run will draw; None if that is not known before.
    """
    lengths = [measure_lengths(task_data, encoded) for task_data, encoded in zip(data, examples, strict=True)]
    notes = []
    for task_data, task_lengths in zip(data, lengths, strict=True):
        notes += [*_notes(task_data, task_lengths), *_cut_validation(task_data, encoder)]
    notes += _draw_notes(data, draws) if draws is not None else []
    return Group(_sizes(data, lengths, draws), _targets(data), *(Text(note) for note in notes))


def measure_lengths(task_data: TaskData, encoded: Sequence[EncodedExample]) -> Lengths:
    """The lengths of the task's training examples. Those left out count as cut if truncation is the reason."""
    tokens = [max(len(row) + row.dropped_tokens for row in example.encodings) for example in encoded] or [0]
    median, most, longest = (int(n) for n in np.percentile(tokens, (50, 95, 100), method="higher"))
    left_out = len(task_data.train) - len(encoded)
    cut = sum(any(row.dropped_tokens for row in example.encodings) for example in encoded)
    # A span's answer can be cut off; a tagging example without words had none from the start.
    return Lengths(median, most, longest, cut + (left_out if task_data.task.kind is Kind.SPAN else 0), left_out)


def count_labels(task_data: TaskData) -> Mapping[str, int]:
    """Occurrences of each label in training, most frequent first, counted in examples or, for tagging, in words."""
    targets = [example.target for example in task_data.train]
    if task_data.task.kind is Kind.MULTILABEL:
        counts = np.sum(targets, axis=0).tolist()
    else:
        occurrences = (
            Counter(targets)
            if task_data.task.kind is Kind.CLASSIFICATION
            else Counter(t for tags in targets for t in tags)
        )
        counts = [occurrences[index] for index in range(len(task_data.task.labels))]
    by_label = zip(task_data.task.labels, counts, strict=True)
    return dict(sorted(by_label, key=lambda pair: -pair[1]))


def count_repeated(task_data: TaskData) -> int:
    """Number of validation examples whose texts (for rankings: whose query) are also in training, ignoring case."""
    trained_on = {_texts(task_data, example) for example in task_data.train}
    return sum(_texts(task_data, example) in trained_on for example in task_data.validation)


def _texts(task_data: TaskData, example: Example) -> tuple[str, ...]:
    item = example.input
    others = () if task_data.task.kind is Kind.RANKING else (item.text_pair or "", *sorted(item.candidates))
    return tuple(text.casefold() for text in (item.text, *others))


def _sizes(data: Sequence[TaskData], lengths: Sequence[Lengths], draws: Sequence[int] | None) -> Table:
    headings = ["data", "task", "train", "validation", "draws", "50%", "95%", "longest", "cut", "left out"]
    bad_rows = any(task_data.bad_rows for task_data in data)
    table = _table(*headings, *(["bad rows"] if bad_rows else []))
    for column in table.columns[1:]:
        column.justify = "right"
    table.caption = "draws: examples that the run draws, about; 50%, 95%, longest: tokens before truncation; cut: share that loses some"
    for index, (task_data, task_lengths) in enumerate(zip(data, lengths, strict=True)):
        table.add_row(
            task_data.task.name,
            f"{len(task_data.train):,}",
            f"{len(task_data.validation):,}",
            "?" if draws is None else f"{draws[index]:,}",
            f"{task_lengths.median:,}",
            f"{task_lengths.most:,}",
            f"{task_lengths.longest:,}",
            f"{task_lengths.cut / max(1, len(task_data.train)):.1%}",
            f"{task_lengths.left_out:,}",
            *([f"{task_data.bad_rows:,}"] if bad_rows else []),
        )
    return table


def _draw_notes(data: Sequence[TaskData], draws: Sequence[int]) -> list[str]:
    """A warning about the tasks of which the run draws neither every example once nor a hundred."""
    rare = [
        f"{task_data.task.name} {count:,}"
        for task_data, count in zip(data, draws, strict=True)
        if count < min(len(task_data.train), _FEW_DRAWS)
    ]
    sampler = ', or [sampler] name = "temperature" with `temperature = 2`,' if len(data) > 1 else ""
    remedy = f"more `examples` in [length]{sampler} draw more of them"
    return [f"warning: few examples are drawn of {', '.join(rare)}; {remedy}"] if rare else []


def _targets(data: Sequence[TaskData]) -> Table:
    table = _table("training targets", "task", "kind", "labels", "balance")
    for task_data in data:
        table.add_row(
            task_data.task.name, task_data.task.kind, f"{len(task_data.task.labels) or ''}", _balance(task_data)
        )
    return table


def _balance(task_data: TaskData) -> str:
    targets = [example.target for example in task_data.train]
    match task_data.task.kind:
        case Kind.CLASSIFICATION | Kind.MULTILABEL:
            return _extremes(count_labels(task_data), len(targets))
        case Kind.TAGGING:
            counts = dict(count_labels(task_data))
            words = sum(counts.values())
            outside = counts.pop("O", None)
            first = "" if outside is None else f"O {outside / words:.1%}, then "
            return first + _extremes(counts, words)
        case Kind.REGRESSION:
            return f"mean {np.mean(targets):.4g}, standard deviation {np.std(targets):.4g}"
        case Kind.RANKING:
            relevant = [relevance > 0 for target in targets for relevance in target]
            return f"{len(relevant) / len(targets):.1f} candidates a query, {np.mean(relevant):.1%} of them right"
        case Kind.MULTIPLE_CHOICE:
            index, count = Counter(targets).most_common(1)[0]
            choices = np.mean([len(example.input.candidates) for example in task_data.train])
            return f"{choices:.1f} choices, most often right is number {index + 1} ({count / len(targets):.1%})"
        case Kind.SPAN:
            answered = [len(target) for target in targets if target]
            unanswered = len(targets) - len(answered)
            share = f", {unanswered / len(targets):.1%} of questions have no answer" if unanswered else ""
            return f"{np.mean(answered or [0]):.1f} right answers a question{share}"


def _extremes(counts: Mapping[str, int], total: int) -> str:
    """The most and the least frequent label, with their shares."""
    (most, first), *_, (least, last) = [*counts.items(), *counts.items()]
    return f"most: {most} {first / total:.1%}, least: {least} {last / total:.1%}"


def _notes(task_data: TaskData, lengths: Lengths) -> Iterator[str]:
    """The recipe's choices among the data, and warnings."""
    name, config = task_data.task.name, task_data.config
    yield from _notes_on_reading(task_data)
    if config.holdout:
        yield f"{name}: {config.holdout:.0%} of train is held out and validated on"
    if len(task_data.splits) > 1:
        sizes = ", ".join(f"{split} {size:,}" for split, size in task_data.splits.items())
        yield f"{name}: validation splits: {sizes}; the main score is over the first"
    if config.cap is not None and len(task_data.train) == config.cap:
        yield f"{name}: train is capped at {config.cap:,}"
    if task_data.task.kind in LABELLED_KINDS:
        unseen = [label for label, count in count_labels(task_data).items() if not count]
        if unseen:
            names = ", ".join(unseen[:_NAMED_LABELS]) + (", …" if len(unseen) > _NAMED_LABELS else "")
            yield f"warning: {name}: {len(unseen)} of {len(task_data.task.labels)} labels never occur in train: {names}"
    if task_data.task.kind is Kind.TAGGING:
        yield _words_note(task_data)
    repeated = count_repeated(task_data)
    if repeated:
        yield f"warning: {name}: {repeated:,} of {len(task_data.validation):,} validation examples are in train as well"
    if lengths.left_out:
        yield (
            f"warning: {name}: {lengths.left_out:,} of {len(task_data.train):,} training examples are left out: "
            f"nothing to learn is left of them within {task_data.task.max_length} tokens"
        )


def _cut_validation(task_data: TaskData, encoder: InputEncoder) -> Iterator[str]:
    """A warning where validation loses so much by truncation that its scores say little about whole texts."""
    inputs = [example.input for example in task_data.validation[:_SAMPLE]]
    rows = encoder.encode(task_data.task, inputs)
    cut = sum(any(row.dropped_tokens for row in own) for own in rows) / max(1, len(inputs))
    if cut > _MUCH_CUT:
        yield (
            f"warning: {task_data.task.name}: {cut:.1%} of validation lose text beyond {task_data.task.max_length} tokens "
            "(`max_length` in the recipe); the scores count what was cut as missed"
        )


def _notes_on_reading(task_data: TaskData) -> Iterator[str]:
    """What was recognised in the data, and whether they can be measured on."""
    name = task_data.task.name
    for note in task_data.notes:
        text = note.removeprefix("warning: ")
        yield f"{'warning: ' if note != text else ''}{name}: {text}"
    if not _is_measurable(task_data):
        what = "a single value" if task_data.task.kind is Kind.REGRESSION else "no entity"
        yield f"warning: {name}: nothing can be measured, as validation has {what}: its scores are 0"


def measure_agreement(task_data: TaskData) -> float:
    """The share of the words of a tagging task's validation examples that its rule finds in running text."""
    texts = [running_text(example.input.given_words) for example in task_data.validation]
    return agreement(task_data.task.word_rule, texts)


def _words_note(task_data: TaskData) -> str:
    found = measure_agreement(task_data)
    rule = f"raw text is split by the rule {describe(task_data.task.word_rule)}"
    if found >= _LOW_AGREEMENT:
        return f"{task_data.task.name}: {rule}; it finds {found:.1%} of the words of validation"
    return (
        f"warning: {task_data.task.name}: {rule}, which finds only {found:.1%} of the words of validation, so answers to raw "
        "text will be worse than measured on given words (compare text_f1): send 'tokens' instead of texts, or train on "
        "words that are split by one of the rules (words in the recipe)"
    )


def _is_measurable(task_data: TaskData) -> bool:
    """Whether answers to the first validation split can be right or wrong in more than one way."""
    examples = task_data.validation[: next(iter(task_data.splits.values()))]
    if task_data.task.kind is Kind.REGRESSION:
        return len({example.target for example in examples}) > 1
    if task_data.task.kind is Kind.TAGGING and task_data.task.bio:
        return any(task_data.task.labels[label] != "O" for example in examples for label in example.target)
    return True


def _table(title: str, *headings: str) -> Table:
    """A table narrow enough for a terminal of 80 columns."""
    return Table(*headings, title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
