"""Held-out records of a task: by its labels, and without inputs that are also trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from polytask.model.encoding import Input
from polytask.model.tasks import Kind
from polytask.training.data.issues import DataError
from polytask.training.data.records import SourcedRecord
from polytask.training.data.splits import connected, hold_out
from polytask.training.recipes.schema import TaskConfig


@dataclass(frozen=True, slots=True)
class Holdout:
    """Whether each example is held out, and warnings for people."""

    held_out: Sequence[bool]
    notes: Sequence[str] = ()


def choose_held_out(
    config: TaskConfig,
    records: Sequence[SourcedRecord],
    inputs: Sequence[Input],
    targets: Sequence[Any],
    share: float,
) -> Holdout:
    """The `share` of the examples to hold out, of which the inputs and targets are given.

    `records[i]` is that of example i, but for rankings.

    Examples stay together that have the same group or a text in common; where texts link so many examples that too few
    could be held out, those whose whole input is the same. Raises DataError if nothing can be held out.
    """
    groups: list[list[Hashable]]
    if config.kind is Kind.RANKING:
        groups, texts = [[] for _ in inputs], [[item.text] for item in inputs]
    else:
        groups = [[] if sourced.group is None else [("group", sourced.group)] for sourced in records]
        texts = [_linking_texts(sourced.record) for sourced in records]
    texts = [[" ".join(text.casefold().split()) for text in own] for own in texts]
    strata = _strata(config.kind, targets)

    def held_out(keys: Sequence[Sequence[Hashable]]) -> list[bool]:
        linked = [[*group, *own] for group, own in zip(groups, keys, strict=True)]
        return hold_out(connected(linked), strata, share)

    by_text, wanted = held_out(texts), share * len(inputs)
    if sum(by_text) >= wanted / 2:
        return Holdout(by_text)
    by_input = held_out([["\n".join((*own, *item.candidates))] for own, item in zip(texts, inputs, strict=True)])
    if not any(by_input):
        raise DataError(
            f"{config.train[0]}: holdout = {share:g}: all records have the same group or text, so none can be held "
            "out; name a `validation` file"
        )
    if sum(by_input) == sum(by_text):
        return Holdout(by_text)
    return Holdout(by_input, ["warning: so many records share a text that some held-out texts are in train"])


def _linking_texts(record: Any) -> list[str]:
    """The texts by which records belong together: each text of a pair."""
    if hasattr(record, "tokens"):
        return [" ".join(record.tokens)]
    pair = getattr(record, "text_pair", None)
    return [record.text] if pair is None else [record.text, pair]


def _strata(kind: Kind, targets: Sequence[Any]) -> Sequence[Hashable]:
    """What is to be equally frequent on both sides of a split: labels, of several labels of a record the rarest, and questions
    without an answer.
    """
    if kind is Kind.CLASSIFICATION:
        return targets
    if kind is Kind.SPAN:
        return [bool(target) for target in targets]
    if kind is Kind.MULTILABEL:
        labels = [[label for label, has in enumerate(target) if has] for target in targets]
        counts = Counter(label for own in labels for label in own)
        return [min(own, key=lambda label: counts[label], default=None) for own in labels]
    return [None] * len(targets)
