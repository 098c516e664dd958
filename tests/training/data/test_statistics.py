"""Data statistics: the tables and warnings before training."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from polytask.model.encoding import Input, InputEncoder
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import Example, TaskData, encode_examples
from polytask.training.data.statistics import count_labels, count_repeated, data_statistics, measure_lengths
from polytask.training.recipes.schema import TaskConfig
from tests.support import tiny
from tests.training.conftest import Workshop

ENCODER = InputEncoder(tiny.tokenizer())
TASKS = {task.kind: task for task in tiny.tasks()}


def _data(task: Task, train: Sequence[Example], validation: Sequence[Example] = (), /, **config: Any) -> TaskData:
    fields = {"name": task.name, "kind": task.kind, "train": "a.jsonl", "validation": "b.jsonl", **config}
    sizes = {"validation": len(validation)}
    return TaskData(task, TaskConfig.model_validate(fields), tuple(train), tuple(validation), sizes)


def _shown(*data: TaskData, width: int = 200, draws: Sequence[int] | None = None) -> str:
    console = Console(file=io.StringIO(), width=width)
    encoded = [
        encode_examples(ENCODER, task_data.task, task_id, task_data.train) for task_id, task_data in enumerate(data)
    ]
    console.print(data_statistics(data, encoded, draws, ENCODER))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _texts(*pairs: tuple[str, Any]) -> list[Example]:
    return [Example(Input(text), target) for text, target in pairs]


def test_every_task_is_described(workshop: Workshop) -> None:
    """Every kind has a row in both tables, which fit 80 columns without cut words, with the data's sizes."""
    shown = _shown(*workshop.data, width=80)
    assert "…" not in shown
    for task_data in workshop.data:
        rows = [line.split() for line in shown.splitlines() if line.split()[:1] == [task_data.task.name]]
        assert rows[0][1:3] == [str(len(task_data.train)), str(len(task_data.validation))]
        assert rows[1][1] == task_data.task.kind


def test_lengths_are_those_before_truncation() -> None:
    """Median, 95th percentile and maximum count all tokens; cut and left-out examples are counted."""
    task = replace(TASKS[Kind.SPAN], max_length=12)
    contexts = ["paris", "cat " * 3 + "paris", "paris " + "cat " * 20, "cat " * 30 + "paris"]
    train = [Example(Input("a", text), ((text.index("paris"), text.index("paris") + 5),)) for text in contexts]
    own = _data(task, train)
    found = measure_lengths(own, encode_examples(ENCODER, task, 0, train))
    rows = ENCODER.encode(replace(task, max_length=1000), [example.input for example in train[:3]])
    lengths = sorted(len(row) for (row,) in rows)
    assert (found.median, found.most, found.longest) == (lengths[1], lengths[2], lengths[2])
    assert (found.cut, found.left_out) == (2, 1)
    assert "1 of 4 training examples are left out" in _shown(own)


def test_an_example_is_as_long_as_its_longest_row() -> None:
    """The length of a ranking example is that of its longest row."""
    task = TASKS[Kind.RANKING]
    train = [Example(Input("q", candidates=("a", "a cat sat", "a cat")), (1, 0, 0))]
    encoded = encode_examples(ENCODER, task, 0, train)
    assert measure_lengths(_data(task, train), encoded).longest == max(len(row) for row in encoded[0].encodings)


def test_words_without_tokens_are_not_cut() -> None:
    """A tagging example without tokens counts as left out, not as truncated."""
    task = TASKS[Kind.TAGGING]
    train = [Example(Input.from_words(["\x00"]), (0,)), Example(Input.from_words(["cat"]), (0,))]
    found = measure_lengths(_data(task, train), encode_examples(ENCODER, task, 0, train))
    assert (found.cut, found.left_out) == (0, 1)


def test_labels_are_counted() -> None:
    """Labels are counted by examples, by flags or by words, most frequent first, with 0 for unused labels."""
    assert dict(count_labels(_data(TASKS[Kind.CLASSIFICATION], _texts(("a", 1), ("b", 1), ("c", 0))))) == {
        "bad": 2,
        "good": 1,
        "neither": 0,
    }
    multilabel = _data(TASKS[Kind.MULTILABEL], _texts(("a", (0, 1, 0)), ("b", (1, 1, 0))))
    assert list(count_labels(multilabel).items()) == [("cities", 2), ("cats", 1), ("food", 0)]
    tagging = _data(TASKS[Kind.TAGGING], [Example(Input.from_words(["a", "b", "c"]), (0, 3, 0))])
    assert count_labels(tagging)["O"] == 2
    assert "O 66.7%, then most: B-animal 33.3%, least: " in _shown(tagging)


def test_values_have_mean_and_deviation() -> None:
    """Regression shows the mean and standard deviation of the training values."""
    values = (0.0, 1.0, 5.0)
    own = _data(TASKS[Kind.REGRESSION], [Example(Input("a", "b"), value) for value in values])
    assert f"mean {np.mean(values):.4g}, standard deviation {np.std(values):.4g}" in _shown(own)


def test_a_label_that_never_occurs_is_a_warning() -> None:
    """A label of the recipe that training lacks is named in a warning."""
    own = _data(TASKS[Kind.CLASSIFICATION], _texts(("a", 0), ("b", 1)))
    assert "warning: mood: 1 of 3 labels never occur in train: neither\n" in _shown(own)
    assert "warning" not in _shown(_data(TASKS[Kind.CLASSIFICATION], _texts(("a", 0), ("b", 1), ("c", 2))))


@pytest.mark.parametrize(
    ("kind", "train", "validation", "count"),
    [
        (Kind.CLASSIFICATION, [Input("A cat")], [Input("a CAT"), Input("a cat."), Input("a cat")], 2),
        (Kind.REGRESSION, [Input("a", "b")], [Input("a", "b"), Input("b", "a"), Input("a", "c")], 1),
        (
            Kind.RANKING,
            [Input("q", candidates=("a",))],
            [Input("Q", candidates=("b",)), Input("r", candidates=("a",))],
            1,
        ),
        (
            Kind.MULTIPLE_CHOICE,
            [Input("q", candidates=("a", "b"))],
            [Input("q", candidates=("b", "a")), Input("q", candidates=("a", "c"))],
            1,
        ),
        (Kind.TAGGING, [Input.from_words(["a", "b"])], [Input.from_words(["A", "B"])], 1),
    ],
)
def test_texts_of_validation_that_train_has_are_counted(
    kind: Kind, train: list[Input], validation: list[Input], count: int
) -> None:
    """Validation texts that are also in training are counted, ignoring case; pairs count as pairs."""
    sides = [[Example(item, None) for item in own] for own in (train, validation)]
    assert count_repeated(_data(TASKS[kind], *sides)) == count


def test_a_leak_is_a_warning() -> None:
    """Validation examples that are also in training give a warning with their number."""
    train, validation = _texts(("a", 0), ("b", 1), ("c", 2)), _texts(("A", 0), ("x", 1))
    shown = _shown(_data(TASKS[Kind.CLASSIFICATION], train, validation))
    assert "warning: mood: 1 of 2 validation examples are in train as well\n" in shown


def test_a_task_that_is_hardly_drawn_is_a_warning() -> None:
    """Planned draws stand in the table, and tasks with fewer than examples or a hundred are named."""
    data = _data(TASKS[Kind.CLASSIFICATION], _texts(*((f"a {n}", n % 3) for n in range(150))))
    shown = _shown(data, data, draws=(99, 1200))
    assert "warning: few examples are drawn of mood 99; more `examples` in [length]" in shown
    assert [line.split()[3] for line in shown.splitlines() if line.split()[:2] == ["mood", "150"]] == ["99", "1,200"]
    assert "few examples" not in _shown(data, draws=(100,))
    assert "more `examples` in [length] draw more of them" in _shown(data, draws=(99,))


def test_what_cannot_be_measured_is_a_warning() -> None:
    """Validation values that are all the same, and tags without an entity, are named, as no answer can be better."""
    task = TASKS[Kind.REGRESSION]
    same = _data(task, _texts(("a", 1.0), ("b", 2.0)), _texts(("c", 1.5), ("d", 1.5)))
    assert "nothing can be measured, as validation has a single value: its scores are 0\n" in _shown(same)
    different = _data(task, _texts(("a", 1.0), ("b", 2.0)), _texts(("c", 1.5), ("d", 1.0)))
    assert "nothing can be measured" not in _shown(different)
    outside = Example(Input.from_words(["a", "b"]), (0, 0))
    entity = Example(Input.from_words(["a", "b"]), (0, 1))
    task = TASKS[Kind.TAGGING]
    assert task.labels[0] == "O"
    assert "as validation has no entity: its scores are 0\n" in _shown(_data(task, [entity], [outside]))
    assert "nothing can be measured" not in _shown(_data(task, [entity], [outside, entity]))


def test_rows_left_out_are_shown() -> None:
    """The number of bad rows is a column of the table, and what was noticed in the data stands below it."""
    data = _data(TASKS[Kind.CLASSIFICATION], _texts(("a", 0), ("b", 1)))
    assert "bad rows" not in _shown(data)
    shown = _shown(replace(data, bad_rows=7, notes=("warning: 7 rows are left out", "tags are plain")))
    assert "bad rows" in shown
    assert "warning: mood: 7 rows are left out\n" in shown
    assert "\nmood: tags are plain" in shown


def test_the_recipes_choices_are_shown() -> None:
    """Caps, held-out shares and the sizes of named splits are shown below the tables."""
    train = _texts(("a", 0), ("b", 1), ("c", 2))
    capped = _shown(_data(TASKS[Kind.CLASSIFICATION], train, cap=3))
    assert "mood: train is capped at 3\n" in capped
    assert "capped" not in _shown(_data(TASKS[Kind.CLASSIFICATION], train, cap=4))
    held = _data(TASKS[Kind.CLASSIFICATION], train, validation={}, holdout=0.25)
    assert "mood: 25% of train is held out and validated on\n" in _shown(held)
    splits = replace(_data(TASKS[Kind.CLASSIFICATION], train), splits={"near": 2000, "far": 10})
    assert "mood: validation splits: near 2,000, far 10; the main score is over the first\n" in _shown(splits)


def test_validation_that_is_cut_is_warned_of() -> None:
    """If truncation takes text from more than a twentieth of validation, a warning says so, and else none does."""
    task = replace(TASKS[Kind.CLASSIFICATION], max_length=12)
    short, long = _texts(("the cat", 0)), _texts(("the cat " * 9, 0))
    warning = "25.0% of validation lose text beyond 12 tokens (`max_length` in the recipe)"
    assert warning in _shown(_data(task, short, [*short * 3, *long]))
    assert "lose text" not in _shown(_data(task, long, [*short * 30, *long]))
