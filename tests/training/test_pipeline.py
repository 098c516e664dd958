"""A whole run from recipe to version, and everything that stops one before it starts."""

from __future__ import annotations

import io
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from polytask.model.network import parameter_counts
from polytask.model.tasks import Kind
from polytask.model_store.errors import BaseMissing, NameInvalid, StoreError, StoreUnwritable
from polytask.model_store.load import load, verify
from polytask.training import pipeline, preparation
from polytask.training.data.issues import DataError
from polytask.training.loop.interrupts import Interrupted
from polytask.training.loop.trainer import Training, train
from polytask.training.pipeline import _resume_command, device_name, evaluate_version, run_recipe
from polytask.training.preparation import choose_device
from polytask.training.publishing.publish import publish
from polytask.training.recipes.presets import Preset
from polytask.training.recipes.schema import RecipeError
from polytask.training.report.write_report import write_report
from polytask.training.runs.checkpoints import RunError
from polytask.training.runs.event_log import read_history
from polytask.training.runs.run_logger import Step
from polytask.training.tuning import second_stage
from tests.training.conftest import Workshop
from tests.training.support import toy


class Room:
    """A folder with data, recipe, store and console of its own, in which a test can break anything."""

    def __init__(self, folder: Path, toy_folder: Path) -> None:
        self.data = folder / "data"
        self.store = folder / "store"
        self.recipe = folder / "recipe.toml"
        self.folder = folder / "run"
        length = {"examples": 48, "evaluate_every": 24, "tensorboard": False}
        self.fields = toy.fields(toy_folder / "backbone", length=length)
        self.console = Console(file=io.StringIO(), width=120)
        shutil.copytree(toy_folder / "data", self.data)

    def run(self, *, resume: bool = False) -> Path:
        """Writes the recipe and runs it."""
        self.recipe.write_text(toy.to_toml(self.fields), encoding="utf-8")
        return run_recipe(self.recipe, self.data, self.store, self.console, self.folder, resume=resume)

    @property
    def shown(self) -> str:
        """The text on the console."""
        assert isinstance(self.console.file, io.StringIO)
        return self.console.file.getvalue()

    def break_line(self, name: str, number: int) -> str:
        """Makes one line of a data file invalid, and returns its location."""
        path = self.data / name
        lines = path.read_text(encoding="utf-8").splitlines()
        lines[number - 1] = '{"text": 3}'
        path.write_text("\n".join(lines), encoding="utf-8")
        return f"{path}:{number}: "


@pytest.fixture
def room(tmp_path: Path, toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    """A room without errors. Reports, which take longer than toy runs, are left out."""
    monkeypatch.setattr(pipeline, "write_report", lambda folder: folder / "report.html")
    return Room(tmp_path, toy_folder)


def test_a_run_publishes_what_its_recipe_says(room: Room) -> None:
    """A run publishes a version with all seven tasks, and prints data, losses and scores on the way."""
    version = room.run()
    assert version == room.store / "toy" / "1"
    manifest = verify(version)
    assert [task.name for task in manifest.tasks] == list(toy.TASKS.values())
    assert manifest.provenance["recipe"] == room.recipe.read_text(encoding="utf-8")
    assert set(manifest.baselines) == set(manifest.metrics) == set(toy.TASKS.values())
    assert f"published {version}; " in room.shown
    assert f"polytask models promote toy/1 --store {room.store}\n" in room.shown
    assert f", on {device_name(choose_device())}; kept in {room.folder}\n" in room.shown
    assert room.shown.count(" network ") == 3  # twice on the way, once at the end
    assert set(manifest.references) == {"TF-IDF", "frozen"}
    answered = set(toy.TASKS.values()) - {toy.TASKS[Kind.SPAN]}
    assert [set(scores) for scores in manifest.references.values()] == [answered] * 2
    for name, metrics in manifest.metrics.items():
        metric, value = next(iter(metrics.items()))
        lines = [line for line in room.shown.splitlines() if not line.startswith("warning")]
        rows = [line for line in lines if f" {name} " in line and f" {metric} " in line]
        assert f" {value:.4f} " in rows[-1]
        assert f" {manifest.baselines[name][metric]:.4f} " in rows[-1]


def test_a_run_leaves_its_files(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder has recipe, history, results, TensorBoard's events and the report, and no checkpoint."""
    monkeypatch.setattr(pipeline, "write_report", write_report)
    room.fields["length"]["tensorboard"] = True
    version = room.run()
    names = {path.name for path in room.folder.iterdir() if path.is_file()}
    assert names == {"recipe.toml", "run.json", "references.json", "history.jsonl", "results.json", "report.html"}
    assert len(list((room.folder / "tensorboard").iterdir())) == 1
    assert not (room.folder / "checkpoints").exists()
    assert f"report: {room.folder}/report.html\n" in room.shown
    history = read_history(room.folder / "history.jsonl")
    assert [event["event"] for event in history].count("evaluation") == 2
    assert (history[0]["event"], history[0]["recipe"]) == ("start", "toy")
    assert history[0]["parameters"]["trainable"] > 0
    assert (history[-1]["event"], history[-1]["version"]) == ("finish", "toy/1")
    results = json.loads((room.folder / "results.json").read_text(encoding="utf-8"))
    manifest = verify(version)
    assert (results["scores"], results["baselines"]) == (manifest.metrics, manifest.baselines)
    assert results["references"] == manifest.references
    assert {name: found["count"] for name, found in results["diagnostics"].items()} == dict.fromkeys(
        results["scores"], 24
    )


def test_a_run_without_a_length_chooses_it(room: Room) -> None:
    """Without [length] a run is measured on selection on its way, publishes its best state, and says how it ended."""
    toy.write_records(room.data / "mood" / "train.jsonl", toy.records(Kind.CLASSIFICATION, 120))
    room.fields["tasks"] = [toy.task_fields(Kind.CLASSIFICATION)]
    room.fields["length"] = {"tensorboard": False}
    manifest = verify(version := room.run())
    assert type(manifest.provenance["bf16"]) is bool
    history = read_history(room.folder / "history.jsonl")
    measured = [event for event in history if event["event"] == "selection"]
    assert 5 <= len(measured) <= 10
    assert all(set(event["scores"]) == {"mood"} for event in measured)
    best = max(event["scores"]["mood"]["accuracy"] for event in measured)
    kept = [event["examples"] for event in measured if event["scores"]["mood"]["accuracy"] == best][-1]
    ending = history[-1]["ending"]
    assert f"kept is the state after {kept:,}, the best on selection" in ending
    assert ending[1:] in (version / "card.md").read_text(encoding="utf-8")
    assert ending in room.shown


def _no_room(_: object, store: Path, *__: object) -> None:
    raise StoreUnwritable(store, "is full", "make room")


def test_a_failed_publication_can_be_resumed(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose publication failed publishes when it is resumed, without another update."""
    monkeypatch.setattr(pipeline, "publish", _no_room)
    with pytest.raises(StoreUnwritable):
        room.run()
    monkeypatch.setattr(pipeline, "publish", publish)
    monkeypatch.setattr(Training, "step", _no_room)
    assert verify(room.run(resume=True)).version == 1
    assert "of 48 examples\n" in room.shown.split("goes on after ")[1]


def test_a_second_stage_is_part_of_a_run(room: Room, toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that are better alone have rows of their own in the version; console, history, results and card say so.

    A run that is resumed in its second stage tunes no finished task again.
    """
    toy.write_data(room.data, train=120)
    stage = {"tasks": ["mood"], "rank": 2, "learning_rate": 2e-2, "passes": 4, "batch_rows": 16}
    kinds = [Kind.CLASSIFICATION, Kind.MULTILABEL]
    room.fields = toy.fields(
        toy_folder / "backbone", kinds, length={"examples": 16, "tensorboard": False}, second_stage=stage
    )
    monkeypatch.setattr(pipeline, "publish", _no_room)
    with pytest.raises(StoreUnwritable):
        room.run()
    monkeypatch.setattr(pipeline, "publish", publish)
    monkeypatch.setattr(second_stage, "tune_task", _no_room)
    version = room.run(resume=True)
    checkpoint = load(version)
    assert checkpoint.network.config.task_rows == (2, 1)
    assert checkpoint.network.config.residual_rank == 2
    assert "| `mood` | accuracy | " in checkpoint.card
    assert "mood: accuracy " in room.shown
    results = json.loads((room.folder / "results.json").read_text(encoding="utf-8"))
    (event,) = (event for event in read_history(room.folder / "history.jsonl") if event["event"] == "tuned")
    assert (event["task"], event["kept"]) == ("mood", True)
    assert event["after"] == results["second_stage"]["mood"]["after"] > event["before"] + event["error"]


@pytest.mark.parametrize("file", ["run.json", "results.json"])
def test_a_full_disk_stops_a_run_that_can_go_on(room: Room, file: str) -> None:
    """A file of the run that does not fit is named with the way on, which publishes one version in all."""
    room.folder.mkdir()
    full = room.folder / f".{file}.new"
    full.symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"cannot be written \(No space left.*go on with: polytask train .* --resume"):
        room.run()
    full.unlink()
    assert room.run(resume=True).name == "1"
    assert [path.name for path in (room.store / "toy").iterdir() if path.is_dir()] == ["1"]


def test_a_report_that_does_not_fit_is_said(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version whose report cannot be written is published, with the command that writes the report later."""
    monkeypatch.setattr(pipeline, "write_report", write_report)
    room.folder.mkdir()
    (room.folder / ".report.html.new").symlink_to("/dev/full")
    assert room.run().name == "1"
    assert "no report: " in room.shown
    assert f"make room, then: polytask report {room.folder}\n" in room.shown


def _preset(name: str) -> dict[str, dict[str, Any]]:
    """The sections of a recipe that leaves all of its architecture to a preset."""
    return {"backbone": {}, "conditioning": {"preset": name}}


@pytest.mark.parametrize(
    "architecture",
    [
        *(pytest.param(_preset(preset), id=preset) for preset in Preset),
        pytest.param({"backbone": {"fresh_layers": [0], "frozen_layers": 1}}, id="a fresh layer that is frozen"),
    ],
)
def test_what_is_new_and_frozen_is_published(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: dict[str, dict[str, Any]]
) -> None:
    """Every preset, and frozen layers with new weights, publish on a backbone by name, also when a run that failed there is resumed."""
    backbone = toy.install_backbone(
        toy.write_backbone(tmp_path / "three_layers", layers=3), tmp_path / "packages", monkeypatch
    )
    room.fields |= {"conditioning": {}} | architecture
    room.fields["backbone"] = {"name": backbone, "max_length": 32} | architecture["backbone"]
    room.fields["tasks"] = [toy.task_fields(kind) | {"max_length": 32} for kind in (Kind.CLASSIFICATION, Kind.SPAN)]
    room.fields["length"] |= {"examples": 16, "evaluate_every": 16}
    monkeypatch.setattr(pipeline, "publish", _no_room)
    with pytest.raises(StoreUnwritable):
        room.run()
    monkeypatch.setattr(pipeline, "publish", publish)
    manifest = verify(room.run(resume=True))
    assert manifest.base is not None
    assert manifest.base.name == backbone


def _asked(kind_of_question: str, count: int, seed: int) -> list[toy.Record]:
    """Questions about a place: half of the contexts do not name it, or the answer is a long stretch from it on."""
    draw, lines = random.Random(seed), []  # noqa: S311 - sampling, not cryptography
    for _ in range(count):
        before, after = (" ".join(draw.choices(("the", "sat", "good", "a"), k=draw.randint(1, 4))) for _ in range(2))
        if kind_of_question == "long":
            answer = "paris " + " ".join(draw.choices(("the", "sat", "good", "a"), k=32)) + " cat"
        else:
            answer = draw.choice(("paris", ""))
        context = f"{before} {answer or 'bad'} {after}"
        answers = [{"text": answer, "start": len(before) + 1}] if answer else []
        lines.append({"text": "the cat?", "text_pair": context, "answers": answers})
    return lines


def test_spans_may_be_long_or_missing(room: Room) -> None:
    """Answers of more than thirty tokens are learnt whole, and questions that other contexts answer are left open."""
    for name in ("long", "missing"):
        toy.write_records(room.data / name / "train.jsonl", _asked(name, 200, seed=0))
        toy.write_records(room.data / name / "validation.jsonl", _asked(name, 40, seed=1))
    room.fields["tasks"] = [
        toy.task_fields(Kind.SPAN)
        | {"name": name, "max_length": 48, "train": f"{name}/train.jsonl", "validation": f"{name}/validation.jsonl"}
        for name in ("long", "missing")
    ]
    room.fields["length"] |= {"examples": 2000, "evaluate_every": 2000}
    manifest = verify(room.run())
    assert manifest.metrics["long"]["exact_match"] > 0.9
    assert manifest.metrics["missing"]["has_answer_f1"] > 0.9
    assert manifest.metrics["missing"]["no_answer_f1"] > 0.9
    long, missing = manifest.tasks
    assert (long.thresholds, len(missing.thresholds)) == ((), 1)
    assert (long.max_answer_tokens, missing.max_answer_tokens) == (34, 1)
    assert "of questions have no answer" in room.shown


def _with_teachers(room: Room) -> None:
    room.fields["tasks"] = [toy.task_fields(kind) for kind in (Kind.CLASSIFICATION, Kind.SPAN)]
    room.fields["length"] |= {"evaluate_every": 0, "checkpoint_every": 16}
    room.fields["teachers"] = {"seeds": 1, "passes": 1}


@pytest.mark.parametrize("stop_after", [2, 6, 9])
def test_a_taught_run_resumes_to_the_bit(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    """A run that is stopped in its first or second teacher or afterwards has the weights of an unbroken one."""
    _with_teachers(room)
    steps, step = list[int](), Training.step

    def interrupted_step(training: Training, *, stop: bool = False) -> Step:
        steps.append(training.updates)
        return step(training, stop=stop or len(steps) == stop_after)

    monkeypatch.setattr(Training, "step", interrupted_step)
    with pytest.raises(Interrupted, match="to go on: polytask train"):
        room.run()
    resumed = load(room.run(resume=True)).network.state_dict()
    room.folder, room.store = tmp_path / "other" / "run", tmp_path / "other" / "store"
    steps.append(stop_after)
    unbroken = load(room.run()).network.state_dict()
    assert len(steps) > stop_after + 1
    assert all(torch.equal(tensor, unbroken[name]) for name, tensor in resumed.items())


def test_a_version_may_teach_the_next(room: Room) -> None:
    """With `version` a published version of the store is the teacher; one that is not there stops the run."""
    room.fields["length"] |= {"evaluate_every": 0}
    room.fields["teachers"] = {"version": "toy/1"}
    with pytest.raises(StoreError, match="store"):
        room.run()
    assert not room.folder.exists()
    room.fields["teachers"] = {}
    room.run()
    room.fields["teachers"], room.folder = {"version": "toy/1"}, room.folder.with_name("second")
    assert room.run() == room.store / "toy" / "2"


def test_a_run_does_not_resume_with_other_data(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unfinished run needs --resume and the same data and recipe; the error names the differences."""
    monkeypatch.setattr(pipeline, "publish", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        room.run()
    with pytest.raises(RunError, match="go on with it with --resume"):
        room.run()
    toy.write_records(room.data / "mood" / "train.jsonl", toy.records(Kind.CLASSIFICATION, 60, seed=9))
    room.fields["seed"] = 4
    with pytest.raises(RunError, match=r"(?s)data\.mood/train\.jsonl: .*recipe\.seed: 4, was 3"):
        room.run(resume=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_without_the_package_there_is_no_tensorboard(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package tensorboard the run prints a line and continues."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    room.fields["length"]["tensorboard"] = True
    assert verify(room.run())
    assert "nothing is written for TensorBoard" in room.shown


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_average_is_what_is_published(room: Room, monkeypatch: pytest.MonkeyPatch, decay: float) -> None:
    """The rounded average of the weights is published, or without an average the weights."""
    trained: list[Training] = []

    def keep(training: Training, *others: Any) -> None:
        trained.append(training)
        train(training, *others)
        weights.extend(training.average.weights or [p.detach().clone() for p in parameters(training)])

    def parameters(training: Training) -> list[Tensor]:
        return [parameter for group in training.optimizer.param_groups for parameter in group["params"]]

    weights: list[Tensor] = []
    monkeypatch.setattr(pipeline, "train", keep)
    room.fields["optimizer"]["average"] = decay
    room.run()
    for parameter, weight in zip(parameters(trained[0]), weights, strict=True):
        assert torch.equal(parameter, weight.half().float())


def test_a_version_can_be_measured_again(room: Room) -> None:
    """A version measured again has its manifest's metrics; changed data are named and give others."""
    version = room.run()
    metrics = verify(version).metrics
    assert evaluate_version(version, room.data, room.console) == metrics
    assert "when published" in room.shown
    assert "warning: not the data" not in room.shown
    toy.write_records(room.data / "mood" / "validation.jsonl", [{"text": "good", "label": "bad"}] * 2)
    again = evaluate_version(version, room.data, room.console)
    assert again["mood"] != metrics["mood"]
    assert again["answer"] == metrics["answer"]
    assert "published: mood/validation.jsonl\n" in room.shown
    room.break_line("mood/validation.jsonl", 1)
    with pytest.raises(DataError, match=r"mood/validation\.jsonl:1: "):
        evaluate_version(version, room.data, room.console)


def test_the_resume_command_of_several_processes_imports_nothing_from_the_folder() -> None:
    """Torchrun starts the command instead of a module, which a `model.py` in the working folder could replace."""
    found = _resume_command(Path("my recipe.toml"), Path("data"), Path("store"), Path("runs/mine"), 2)
    assert found == (
        "torchrun --nproc_per_node 2 --no-python polytask train 'my recipe.toml' "
        "--data data --store store --run-folder runs/mine --resume"
    )


def _no_network(*_: object) -> None:
    raise AssertionError("the data must be checked before anything else is done")


def test_a_broken_record_stops_the_run_before_it_starts(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken record is reported before a network is built, and nothing is written or printed."""
    monkeypatch.setattr(preparation, "build_network", _no_network)
    index = room.break_line("entities/validation.jsonl", 7)
    before = sorted(room.data.parent.rglob("*"))
    with pytest.raises(DataError, match=rf"\A{index}"):
        room.run()
    assert sorted(room.data.parent.rglob("*")) == sorted([*before, room.recipe])
    assert not room.shown


def test_all_broken_tasks_are_reported_together(room: Room) -> None:
    """Broken records, records that do not fit, and missing files of several tasks are in one error."""
    indices = [room.break_line("mood/train.jsonl", 2), room.break_line("answer/train.jsonl", 9)]
    (room.data / "relevance" / "train.jsonl").unlink()
    room.fields["tasks"][1]["labels"] = ["cats", "food"]
    with pytest.raises(DataError) as caught:
        room.run()
    message = str(caught.value)
    for part in (*indices, "relevance/train.jsonl: cannot be read", "label 'cities' is not one of the task's 2 labels"):
        assert part in message
    assert not room.store.exists()


def test_a_store_that_cannot_be_written_stops_the_run(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the place of the store is reported before training."""
    monkeypatch.setattr(preparation, "build_network", _no_network)
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
def test_a_run_that_cannot_be_published_does_not_start(
    room: Room,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, Any]], None],
    error: type[Exception],
    message: str,
) -> None:
    """A name, backbone, key or row length that cannot be used stops the run before training."""

    def no_training(*_: object) -> None:
        raise AssertionError("training must not start")

    monkeypatch.setattr(pipeline, "train", no_training)
    change(room.fields)
    long_answers = [
        {"text": "a cat?", "text_pair": "the cat sat . it " * 4 + "paris", "answers": [{"text": "paris", "start": 68}]}
    ]
    toy.write_records(room.data / "answer" / "train.jsonl", long_answers)
    with pytest.raises(error, match=message):
        room.run()
    assert not room.store.exists()
    assert not room.folder.exists()


def test_the_parameters_are_counted(workshop: Workshop) -> None:
    """The line about parameters gives the numbers of all and of trainable ones."""
    network = workshop.network()
    total = sum(parameter.numel() for parameter in network.parameters())
    trainable = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert 0 < trainable < total
    assert str(parameter_counts(network)).startswith(f"{total:,} parameters, {trainable:,} of them trainable")
