"""Relevance of the candidates of a ranking, from 0 to 1: by a positive label, or by grades.

A grade g counts as g / (highest grade). Binary cross entropy against it, as for a right answer and a wrong one, then has
the expected grade as its optimum, and the order of expected grades maximises the expected DCG with linear gains
(Cossock and Zhang, 2008), by which such rankings are measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from polytask.training.data.issues import DataError
from polytask.training.data.labels import WHOLE_NUMBER
from polytask.training.data.records import SourcedRecord
from polytask.training.recipes.schema import TaskConfig


@dataclass(frozen=True, slots=True)
class Relevance:
    """How labels of candidates are read. `grades`: all of them, ascending; empty if a single label is the right one."""

    positive: str
    grades: tuple[int, ...] = ()

    def __call__(self, label: int | str) -> float:
        """The relevance of a candidate with the label, 0 to 1."""
        number = _whole_number(label)
        if self.grades and number is not None:
            return number / self.grades[-1]
        # As text, because CSV has no numbers.
        return float(self.positive in {str(label).strip(), str(number)})


def read_relevance(config: TaskConfig, records: Iterable[SourcedRecord]) -> Relevance:
    """Recognises grades: without `positive` in the recipe, whole numbers from 0 to more than 1. Raises DataError."""
    positive = str(config.positive)
    if "positive" in config.model_fields_set:
        return Relevance(positive)
    numbers: dict[int | None, SourcedRecord] = {}
    for sourced in records:
        numbers.setdefault(_whole_number(sourced.record.label), sourced)
    grades = sorted(number for number in numbers if number is not None)
    if len(grades) < len(numbers) or not grades or grades[-1] <= 1:
        return Relevance(positive)
    if grades[0] < 0:
        raise DataError(
            f"{numbers[grades[0]].location}: label: {grades[0]} is below 0, where grades of relevance begin; with `positive` "
            "in the recipe one label is the right one and all others are wrong"
        )
    return Relevance(positive, tuple(grades))


def _whole_number(label: int | str) -> int | None:
    match = WHOLE_NUMBER.fullmatch(str(label).strip())
    return int(match[1]) if match else None
