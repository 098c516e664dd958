"""Labels: what data write in place of a label's name, recognised over a whole data set and put right.

Blanks around names, whole numbers that a table has stored with a decimal point, 0-1 vectors, and schemes of tags.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from polytask.model.tasks import Kind
from polytask.training.data.issues import DataError, DataIssues
from polytask.training.data.records import SourcedRecord
from polytask.training.data.tag_schemes import ENTITY, recognise, to_iob2

Split = Sequence[SourcedRecord]

_FIELDS = {Kind.CLASSIFICATION: "label", Kind.MULTILABEL: "labels", Kind.TAGGING: "tags"}
WHOLE_NUMBER = re.compile(r"(-?[0-9]+)(\.0+)?")
"""A whole number as text, also as tables with gaps store it: the number, and the decimal point with zeros if it has one."""
_FLAGS = {"0": False, "1": True, "false": False, "true": True}


def labels_of(kind: Kind, record: Any) -> list[str]:
    """The labels of a record of a kind that has labels."""
    labels = getattr(record, _FIELDS[kind])
    return [labels] if isinstance(labels, str) else list(labels)


class LabelReading:
    """The labels of all splits of a task as names, with what was changed on the way.

    `splits`: the records with the labels' names. `notes`: what was recognised, and warnings, for people. `entities`: whether
    the tags of a tagging task mark entities; they are IOB2 then.
    """

    def __init__(
        self, kind: Kind, splits: Sequence[Split], known: Sequence[str], issues: DataIssues, *, entities: bool | None
    ) -> None:
        """`known`: the labels that the recipe or a version names. `entities`: whether tags mark entities, if that is known.

        Records whose labels cannot be read are left out and added to `issues`. Raises DataError for vectors without names.
        """
        self.splits, self.notes, self.entities = splits, list[str](), False
        self._kind, self._issues = kind, issues
        self._rename(_without_blanks(self._names(), known), "blanks around labels are removed")
        self._rename(_whole_numbers(self._names(), known), "labels that are whole numbers lose their decimal point")
        if kind is Kind.MULTILABEL:
            self._name_vectors(known)
            self._note_repeated()
        elif kind is Kind.TAGGING:
            self._convert_tags(entities)

    def _labels(self) -> Iterator[tuple[SourcedRecord, list[str]]]:
        """Every record with its labels."""
        for split in self.splits:
            for sourced in split:
                yield sourced, labels_of(self._kind, sourced.record)

    def _names(self) -> list[str]:
        return sorted({label for _, labels in self._labels() for label in labels})

    def _change(self, change: Callable[[SourcedRecord, list[str]], list[str] | None]) -> None:
        """Replaces the labels of every record by those that `change` returns; None leaves the record out."""
        splits = []
        for split in self.splits:
            changed = []
            for sourced in split:
                labels = labels_of(self._kind, sourced.record)
                new = change(sourced, labels)
                if new is not None:
                    changed.append(sourced if new == labels else _with_labels(self._kind, sourced, new))
            splits.append(changed)
        self.splits = splits

    def _rename(self, names: Mapping[str, str], what: str) -> None:
        """Replaces names, with a warning that says `what` was done and where first."""
        found = [(sourced, label) for sourced, labels in self._labels() for label in labels if label in names]
        if found:
            first, label = found[0]
            self.notes.append(f"warning: {what}: {len(found):,}, the first {label!r} at {first.location}")
            self._change(lambda _, labels: [names.get(label, label) for label in labels])

    def _name_vectors(self, known: Sequence[str]) -> None:
        """Names of labels in place of vectors that hold a 0 or 1 for every label."""
        labelled = [(sourced, labels) for sourced, labels in self._labels() if labels]
        found = [(sourced, labels) for sourced, labels in labelled if _FLAGS.keys() >= set(labels)]
        if not found or 2 * len(found) < len(labelled) or _FLAGS.keys() & set(known):
            return
        lengths = {len(labels) for _, labels in found}
        repeats = any(len(set(labels)) < len(labels) for _, labels in found)
        if not known and not repeats and (len(lengths) > 1 or lengths == {1}):
            return  # a record may have the labels "0" and "1" by name
        if not known:
            first, labels = found[0]
            raise DataError(
                f"{first.location}: labels: a vector of {len(labels)} zeros and ones, not names; list the names that its "
                "places stand for in the recipe (`labels = [...]`), or write the names that apply"
            )

        def name(sourced: SourcedRecord, flags: list[str]) -> list[str] | None:
            if len(flags) == len(known) and _FLAGS.keys() >= set(flags):
                return [label for label, flag in zip(known, flags, strict=True) if _FLAGS[flag]]
            self._issues.add(
                sourced.location,
                f"labels: not a vector of {len(known)} zeros and ones, one for each label of the task, as in other records",
                category="no vector",
            )
            return None

        self._change(name)
        self.notes.append(f"labels are vectors of zeros and ones, named in the order of `labels`: {', '.join(known)}")

    def _note_repeated(self) -> None:
        repeated = [sourced for sourced, labels in self._labels() if len(set(labels)) < len(labels)]
        if repeated:
            where = f"the first at {repeated[0].location}"
            self.notes.append(f"warning: {len(repeated):,} records have a label twice, {where}")

    def _convert_tags(self, entities: bool | None) -> None:
        """Tags in IOB2, if they mark entities. Records with tags that do not fit the others are left out."""
        scheme = recognise([labels for _, labels in self._labels()], entities=entities)
        self.entities = scheme.entities
        if not scheme.entities:
            self.notes.append("tags are plain: no entities, every word has a label")
            return

        def convert(sourced: SourcedRecord, tags: list[str]) -> list[str] | None:
            misfits = [tag for tag in tags if tag in scheme.misfits]
            if not misfits:
                return to_iob2(tags)
            message = (
                f"tags: {misfits[0]!r} does not fit the other tags, which mark entities by {scheme.name}; correct it, or set "
                "`entities = false` in the recipe if tags are plain labels of words"
            )
            self._issues.add(sourced.location, message, category="tag that does not fit the others")
            return None

        first = next((sourced for sourced, tags in self._labels() if to_iob2(tags) != tags), None)
        self._change(convert)
        self.notes.append(f"tags mark entities, {scheme.name}" + (", converted to IOB2" if first else ""))
        if scheme.strays and first:
            self.notes.append(
                f"warning: {scheme.strays:,} entities begin with I- in place of B-, the first at {first.location}"
            )
        if scheme.bare:
            self.notes.append(f"tags name no type of entity: every entity is labelled {ENTITY!r}")


def _with_labels(kind: Kind, sourced: SourcedRecord, labels: list[str]) -> SourcedRecord:
    value = labels[0] if kind is Kind.CLASSIFICATION else labels
    return replace(sourced, record=sourced.record.model_copy(update={_FIELDS[kind]: value}))


def _without_blanks(names: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    return {name: name.strip() for name in names if name != name.strip() and name not in known}


def _whole_numbers(names: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Names such as `1.0` with their whole numbers, if all names are such numbers, as tables with gaps store them."""
    matches = {name: WHOLE_NUMBER.fullmatch(name) for name in names}
    if not all(matches.values()):
        return {}
    return {name: match[1] for name, match in matches.items() if match and match[2] and name not in known}


def lookalikes(labels: Sequence[str]) -> list[tuple[str, ...]]:
    """The labels that differ only in case, blanks or Unicode form, together."""
    groups = defaultdict[str, list[str]](list)
    for label in labels:
        groups["".join(unicodedata.normalize("NFKC", label).casefold().split())].append(label)
    return [tuple(group) for group in groups.values() if len(group) > 1]
