"""Tests of training/run.py: a whole run, and everything that stops one before it starts."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from model.tasks import Kind
from model_store.errors import BaseMissing, NameInvalid, StoreUnwritable
from model_store.load import verify
from tests.training import toy
from tests.training.conftest import Workshop
from training import run
from training.config import RecipeError
from training.records import DataError
from training.run import (
    choose_device,
    data_table,
    device_name,
    evaluate_version,
    load_data,
    parameters_line,
    run_recipe,
    scores_table,
)


class Room:
    """A folder of its own with data, recipe, store and console, in which anything may be broken."""

    def __init__(self, folder: Path, toy_folder: Path) -> None:
        self.data = folder / "data"
        self.store = folder / "store"
        self.recipe = folder / "recipe.toml"
        self.fields = toy.fields(toy_folder / "backbone", length={"examples": 48, "evaluate_every": 24})
        self.console = Console(file=io.StringIO(), width=120)
        shutil.copytree(toy_folder / "data", self.data)

    def run(self) -> Path:
        """Writes the recipe and runs it."""
        self.recipe.write_text(toy.to_toml(self.fields), encoding="utf-8")
        return run_recipe(self.recipe, self.data, self.store, self.console)

    @property
    def shown(self) -> str:
        """What the console showed."""
        assert isinstance(self.console.file, io.StringIO)
        return self.console.file.getvalue()

    def break_line(self, name: str, number: int) -> str:
        """Makes one line of a data file no record, and gives its place."""
        path = self.data / name
        lines = path.read_text(encoding="utf-8").splitlines()
        lines[number - 1] = '{"text": 3}'
        path.write_text("\n".join(lines), encoding="utf-8")
        return f"{path}:{number}: "


@pytest.fixture
def room(tmp_path: Path, toy_folder: Path) -> Room:
    """A room in which everything is fine so far."""
    return Room(tmp_path, toy_folder)


def test_a_run_publishes_what_its_recipe_says(room: Room) -> None:
    """From a recipe to a version with all seven tasks, and on the way a person sees data, losses and scores."""
    version = room.run()
    assert version == room.store / "toy" / "1"
    manifest = verify(version)
    assert [task.name for task in manifest.tasks] == list(toy.TASKS.values())
    assert manifest.provenance["recipe"] == room.recipe.read_text(encoding="utf-8")
    assert set(manifest.baselines) == set(manifest.metrics) == set(toy.TASKS.values())
    assert f"published {version}; " in room.shown
    assert f"polytask models promote toy/1 --store {room.store}\n" in room.shown
    assert f", on {device_name(choose_device())}\n" in room.shown
    tables = room.shown.count("trivial baseline")
    assert tables == 3  # twice on the way, once at the end
    for name, metrics in manifest.metrics.items():
        metric, value = next(iter(metrics.items()))
        rows = [line for line in room.shown.splitlines() if f" {name} " in line and f" {metric} " in line]
        assert f" {value:.4f} " in rows[-1]
        assert f" {manifest.baselines[name][metric]:.4f} " in rows[-1]


def test_a_version_can_be_measured_again(room: Room) -> None:
    """Measured anew, a version has the metrics in its manifest, and both stand side by side; other data give others."""
    version = room.run()
    metrics = verify(version).metrics
    assert evaluate_version(version, room.data, room.console) == metrics
    assert "when published" in room.shown
    assert "warning" not in room.shown
    toy.write_records(room.data / "mood" / "validation.jsonl", [{"text": "good", "label": "bad"}] * 2)
    again = evaluate_version(version, room.data, room.console)
    assert again["mood"] != metrics["mood"]
    assert again["answer"] == metrics["answer"]
    assert "published: mood/validation.jsonl\n" in room.shown
    room.break_line("mood/validation.jsonl", 1)
    with pytest.raises(DataError, match=r"mood/validation\.jsonl:1: "):
        evaluate_version(version, room.data, room.console)


def _no_network(*_: object) -> None:
    raise AssertionError("the data must be checked before anything else is done")


def test_a_broken_record_stops_the_run_before_it_starts(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """File and line are named before a network is built, and nothing is written or shown."""
    monkeypatch.setattr(run, "build_network", _no_network)
    place = room.break_line("entities/validation.jsonl", 7)
    before = sorted(room.data.parent.rglob("*"))
    with pytest.raises(DataError, match=rf"\A{place}"):
        room.run()
    assert sorted(room.data.parent.rglob("*")) == sorted([*before, room.recipe])
    assert not room.shown


def test_all_broken_tasks_are_reported_together(room: Room) -> None:
    """What is wrong in several tasks is in one error: broken records, misfits and missing files."""
    places = [room.break_line("mood/train.jsonl", 2), room.break_line("answer/train.jsonl", 9)]
    (room.data / "relevance" / "train.jsonl").unlink()
    room.fields["tasks"][1]["labels"] = ["cats", "food"]
    with pytest.raises(DataError) as caught:
        room.run()
    message = str(caught.value)
    for part in (*places, "relevance/train.jsonl: cannot be read", "label 'cities' is not one of the task's 2 labels"):
        assert part in message
    assert not room.store.exists()


def test_tasks_keep_the_recipes_order(workshop: Workshop) -> None:
    """A task's place in the recipe is its id."""
    tasks = workshop.recipe.tasks[::-1]
    data = load_data(workshop.recipe.model_copy(update={"tasks": tasks}), workshop.folder / "data")
    assert [own.task.name for own in data] == [task.name for task in tasks]


def test_a_store_that_cannot_be_written_stops_the_run(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the place of the store is found before the training, not after it."""
    monkeypatch.setattr(run, "build_network", _no_network)
    room.store.write_text("no folder", encoding="utf-8")
    with pytest.raises(StoreUnwritable, match=rf"\A{room.store}/toy: cannot be written"):
        room.run()


def _rename(fields: dict[str, Any]) -> None:
    fields["name"] = "My Demo"


def _freeze_too_much(fields: dict[str, Any]) -> None:
    fields["backbone"]["frozen_layers"] = 3


def _lose_the_backbone(fields: dict[str, Any]) -> None:
    fields["backbone"]["name"] = str(Path(fields["backbone"]["name"]).parent)


def _misspell(fields: dict[str, Any]) -> None:
    fields["length"]["epochs"] = 3


def _shorten_rows(fields: dict[str, Any]) -> None:
    (span,) = [task for task in fields["tasks"] if task["kind"] == Kind.SPAN]
    span["max_length"] = 8


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_rename, NameInvalid, "My Demo"),
        (_freeze_too_much, RecipeError, "cannot freeze 3 of 2 layers"),
        (_lose_the_backbone, BaseMissing, "has no config.json"),
        (_misspell, RecipeError, "length.epochs"),
        (_shorten_rows, DataError, "answer/train.jsonl: no example fits into the 8 tokens of a row"),
    ],
)
def test_what_cannot_end_well_does_not_start(
    room: Room,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, Any]], None],
    error: type[Exception],
    message: str,
) -> None:
    """A name, backbone, key or row length that cannot be used stops the run before training, not after it."""

    def no_training(*_: object) -> None:
        raise AssertionError("training must not start")

    monkeypatch.setattr(run, "train", no_training)
    change(room.fields)
    long_answers = [
        {"text": "a cat?", "text_pair": "the cat sat . it " * 4 + "paris", "answers": [{"text": "paris", "start": 68}]}
    ]
    toy.write_records(room.data / "answer" / "train.jsonl", long_answers)
    with pytest.raises(error, match=message):
        room.run()
    assert not room.store.exists()


@pytest.mark.parametrize("table", [data_table, scores_table])
def test_tables_fit_a_narrow_terminal(workshop: Workshop, table: Callable[..., Table]) -> None:
    """At 80 columns no word of a table is cut, with the longest names of kinds and metrics."""
    scores = {own.task.name: {"pearson_spearman": 0.5} for own in workshop.data}
    rows = (workshop.data, workshop.examples) if table is data_table else (scores, scores)
    console = Console(file=io.StringIO(), width=80)
    console.print(table(*rows))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue().split()
    for own in workshop.data:
        assert own.task.name in shown
    assert {"multiple_choice", "classification", "longest"} <= set(shown) or "baseline" in shown
    assert "…" not in "".join(shown)


def test_a_person_sees_how_much_is_trained(workshop: Workshop) -> None:
    """The parameters are counted: all, and those that learn."""
    network = workshop.network()
    total = sum(parameter.numel() for parameter in network.parameters())
    trainable = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert 0 < trainable < total
    assert parameters_line(network).startswith(f"{total:,} parameters, {trainable:,} of them trainable")
