"""What is about to be trained on, in tables: sizes, lengths, truncation, targets; and warnings of what is odd about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from polytask.model.tasks import LABELLED_KINDS, Kind
from polytask.training.data.examples import EncodedExample, Example, TaskData

_NAMED_LABELS = 5


@dataclass(frozen=True, slots=True)
class Lengths:
    """The tokens of examples before truncation (of the longest row each), and how many examples it touches.

    `cut`: examples that lose tokens. `left_out`: examples that are not trained on, because nothing to learn is left.
    """

    median: int
    most: int
    longest: int
    cut: int
    left_out: int


def data_statistics(data: Sequence[TaskData], examples: Sequence[Sequence[EncodedExample]]) -> Group:
    """The tables and notes to print before training; `examples[t]` are the training examples of task t as rows."""
    lengths = [measure_lengths(own, encoded) for own, encoded in zip(data, examples, strict=True)]
    notes = [note for own, found in zip(data, lengths, strict=True) for note in _notes(own, found)]
    return Group(_sizes(data, lengths), _targets(data), *(Text(note) for note in notes))


def measure_lengths(own: TaskData, encoded: Sequence[EncodedExample]) -> Lengths:
    """How long the task's training examples are. Those left out count as cut where truncation is why."""
    tokens = [max(len(row) + row.dropped_tokens for row in example.encodings) for example in encoded] or [0]
    median, most, longest = (int(n) for n in np.percentile(tokens, (50, 95, 100), method="higher"))
    left_out = len(own.train) - len(encoded)
    cut = sum(any(row.dropped_tokens for row in example.encodings) for example in encoded)
    # An answer can be cut off; a tagging example without any word has had none from the start.
    return Lengths(median, most, longest, cut + (left_out if own.task.kind is Kind.SPAN else 0), left_out)


def count_labels(own: TaskData) -> Mapping[str, int]:
    """How often each label of the task occurs in training, most frequent first, by examples or, for tagging, words."""
    targets = [example.target for example in own.train]
    if own.task.kind is Kind.MULTILABEL:
        counts = np.sum(targets, axis=0).tolist()
    else:
        found = (
            Counter(targets) if own.task.kind is Kind.CLASSIFICATION else Counter(t for tags in targets for t in tags)
        )
        counts = [found[place] for place in range(len(own.task.labels))]
    named = zip(own.task.labels, counts, strict=True)
    return dict(sorted(named, key=lambda pair: -pair[1]))


def count_repeated(own: TaskData) -> int:
    """The validation examples whose texts (of a ranking: whose query) are in training as well, letter case aside."""
    known = {_texts(own, example) for example in own.train}
    return sum(_texts(own, example) in known for example in own.validation)


def _texts(own: TaskData, example: Example) -> tuple[str, ...]:
    item = example.input
    others = () if own.task.kind is Kind.RANKING else (item.text_pair or "", *sorted(item.candidates))
    return tuple(text.casefold() for text in (item.text, *others))


def _sizes(data: Sequence[TaskData], lengths: Sequence[Lengths]) -> Table:
    table = _table("data", "task", "train", "validation", "50%", "95%", "longest", "cut", "left out")
    for column in table.columns[1:]:
        column.justify = "right"
    table.caption = "50%, 95%, longest: tokens before truncation; cut: share that loses some"
    for own, found in zip(data, lengths, strict=True):
        share = f"{found.cut / max(1, len(own.train)):.1%}"
        counts = (len(own.train), len(own.validation), found.median, found.most, found.longest)
        table.add_row(own.task.name, *(f"{n:,}" for n in counts), share, f"{found.left_out:,}")
    return table


def _targets(data: Sequence[TaskData]) -> Table:
    table = _table("training targets", "task", "kind", "labels", "balance")
    for own in data:
        table.add_row(own.task.name, own.task.kind, f"{len(own.task.labels) or ''}", _balance(own))
    return table


def _balance(own: TaskData) -> str:
    targets = [example.target for example in own.train]
    match own.task.kind:
        case Kind.CLASSIFICATION | Kind.MULTILABEL:
            return _extremes(count_labels(own), len(targets))
        case Kind.TAGGING:
            counts = dict(count_labels(own))
            words = sum(counts.values())
            outside = counts.pop("O", None)
            first = "" if outside is None else f"O {outside / words:.1%}, then "
            return first + _extremes(counts, words)
        case Kind.REGRESSION:
            return f"mean {np.mean(targets):.4g}, standard deviation {np.std(targets):.4g}"
        case Kind.RANKING:
            flags = [flag for target in targets for flag in target]
            return f"{len(flags) / len(targets):.1f} candidates a query, {np.mean(flags):.1%} of them right"
        case Kind.MULTIPLE_CHOICE:
            place, count = Counter(targets).most_common(1)[0]
            choices = np.mean([len(example.input.candidates) for example in own.train])
            return f"{choices:.1f} choices, most often right is number {place + 1} ({count / len(targets):.1%})"
        case Kind.SPAN:
            return f"{np.mean([len(target) for target in targets]):.1f} right answers a question"


def _extremes(counts: Mapping[str, int], total: int) -> str:
    """The most and the least frequent label, with their shares."""
    (most, first), *_, (least, last) = [*counts.items(), *counts.items()]
    return f"most: {most} {first / total:.1%}, least: {least} {last / total:.1%}"


def _notes(own: TaskData, lengths: Lengths) -> Iterator[str]:
    """What the recipe has chosen among the data, and warnings."""
    name, config = own.task.name, own.config
    if config.holdout:
        yield f"{name}: {config.holdout:.0%} of train is held out and validated on"
    if len(own.splits) > 1:
        sizes = ", ".join(f"{split} {size:,}" for split, size in own.splits.items())
        yield f"{name}: validation splits: {sizes}; the main score is over the first"
    if config.cap is not None and len(own.train) == config.cap:
        yield f"{name}: train is capped at {config.cap:,}"
    if own.task.kind in LABELLED_KINDS:
        unseen = [label for label, count in count_labels(own).items() if not count]
        if unseen:
            named = ", ".join(unseen[:_NAMED_LABELS]) + (", …" if len(unseen) > _NAMED_LABELS else "")
            yield f"warning: {name}: {len(unseen)} of {len(own.task.labels)} labels never occur in train: {named}"
    repeated = count_repeated(own)
    if repeated:
        yield f"warning: {name}: {repeated:,} of {len(own.validation):,} validation examples are in train as well"
    if lengths.left_out:
        yield (
            f"warning: {name}: {lengths.left_out:,} of {len(own.train):,} training examples are left out: "
            f"nothing to learn is left of them within {own.task.max_length} tokens"
        )


def _table(title: str, *headings: str) -> Table:
    """Narrow enough for a terminal of 80 columns."""
    return Table(*headings, title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
