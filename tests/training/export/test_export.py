"""Tests of training/export.py: candidates written, measured, judged and put next to the version."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from polytask.model.batch import Batch
from polytask.model.heads import Outputs
from polytask.model.network import Network
from polytask.model_store.exports import Exports, read_exports
from polytask.model_store.load import verify
from polytask.model_store.manifest import Golden
from polytask.model_store.save import NewVersion, save
from polytask.service.backends.selection import open_backend
from polytask.training.data.issues import DataError
from polytask.training.evaluation.evaluate import RunBatch
from polytask.training.export.backend_trials import EncodedTask, answers
from polytask.training.export.export import Backends, export_version
from polytask.training.runs.provenance import provenance
from tests.training.conftest import Workshop
from tests.training.support import toy

pytestmark = pytest.mark.usefixtures("untouched")


def engine(backend: str, precision: str, file: Path | None, network: Network, threads: int) -> RunBatch:
    """The service's own."""
    return open_backend(backend, precision, file, network, threads).run


def upside_down(backend: str, precision: str, file: Path | None, network: Network, threads: int) -> RunBatch:
    """The same, but OpenVINO gives every logit with the wrong sign."""
    run = engine(backend, precision, file, network, threads)

    def wrong(batch: Batch) -> Outputs:
        outputs = run(batch)
        return Outputs(-outputs.sentence, None if outputs.token is None else -outputs.token)

    return wrong if backend == "openvino" else run


def goldens(workshop: Workshop, network: Network) -> Iterator[Golden]:
    """What the network answers to a validation example of each task."""
    for task_id, own in enumerate(workshop.data):
        item = own.validation[0].input
        question = EncodedTask(workshop.encoder, own.task, task_id, (item,))
        run = engine("torch", "float32", None, network, 1)
        (found,) = answers(run, network.tasks, question)
        yield Golden(own.task.name, item, asdict(found))


@pytest.fixture
def contents(workshop: Workshop) -> NewVersion:
    """A version with the toy tasks, with all heads' weights large enough for answers to differ."""
    network = workshop.network()
    with torch.no_grad():
        network.heads.sentence.weight.mul_(20)
        network.heads.token.weight.mul_(20)
    return NewVersion(
        network=network,
        tokenizer_json=workshop.backbone.tokenizer.to_str(),
        base=None,
        precision=network.heads.sentence.weight.dtype,
        metrics={},
        baselines={},
        goldens=tuple(goldens(workshop, network)),
        provenance=provenance(
            workshop.recipe, toy.to_toml(toy.fields(workshop.backbone.folder)), workshop.folder / "data"
        ),
        card="",
    )


@pytest.fixture
def version(tmp_path: Path, contents: NewVersion, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That version in a store."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return save(tmp_path / "store", "toy", contents)


def exported(version: Path, data: Path | None, engines: Backends) -> tuple[Path, Exports, str]:
    """The folder and what is in it, and what was printed."""
    console = Console(file=io.StringIO(), width=200)
    folder = export_version(version, data, engines, console)
    found = read_exports(version)
    assert found is not None
    assert found[0] == folder
    assert isinstance(console.file, io.StringIO)
    return folder, found[1], console.file.getvalue()


def test_every_way_of_running_is_measured(version: Path, workshop: Workshop) -> None:
    """With data there are float32 and 8 bits on each engine, each with its speeds and what each task loses."""
    folder, exports, printed = exported(version, workshop.folder / "data", Backends(lambda _: True, engine, 1))
    names = {candidate.name for candidate in exports.candidates}
    assert names == {
        "torch-float32", "onnxruntime-float32", "onnxruntime-int8", "openvino-float32", "openvino-bfloat16", "openvino-int8",
    }  # fmt: skip
    for candidate in exports.candidates:
        assert candidate.name in printed
        assert set(candidate.differences) == set(toy.TASKS.values())
        assert set(candidate.texts_per_s) == {"1", "8", "32"}
        assert candidate.refused is not None or all(lost >= -0.5 for lost in candidate.differences.values())
    assert {path.name for path in folder.iterdir()} == {*exports.files, "exports.json"}
    assert exports.calibration > 0
    verify(version)


def test_without_data_there_are_no_8_bits(version: Path) -> None:
    """Scales need texts; what is left is the float32 file, and nothing is known of losses."""
    _, exports, _ = exported(version, None, Backends(lambda name: name != "openvino", engine, 1))
    assert {candidate.name for candidate in exports.candidates} == {"torch-float32", "onnxruntime-float32"}
    assert list(exports.files) == ["float32.onnx"]
    assert not any(candidate.differences for candidate in exports.candidates)


def test_without_any_text_nothing_can_be_measured(tmp_path: Path, contents: NewVersion) -> None:
    """A version without golden examples needs the data."""
    version = save(tmp_path / "other", "toy", replace(contents, goldens=()))
    with pytest.raises(DataError, match="no golden examples to time engines on; give its data folder"):
        export_version(version, None, Backends(lambda _: True, engine, 1), Console(file=io.StringIO()))


def test_an_engine_that_loses_a_task_is_refused_by_name(version: Path, workshop: Workshop) -> None:
    """It comes last, with the task that loses most and by how much, and its own file is not kept."""
    _, exports, printed = exported(version, workshop.folder / "data", Backends(lambda _: True, upside_down, 1))
    refused = [candidate for candidate in exports.candidates if candidate.backend == "openvino"]
    assert list(exports.candidates[-3:]) == refused
    for candidate in refused:
        assert candidate.refused is not None
        worst = min(candidate.differences, key=lambda task: candidate.differences[task])
        assert f"task '{worst}' loses" in candidate.refused
        assert candidate.refused in printed
    assert "int8-plain.onnx" not in exports.files


def test_exporting_again_replaces_what_was_there(version: Path, workshop: Workshop) -> None:
    """Files of the earlier export that the new one does not have are gone."""
    engines = Backends(lambda name: name != "openvino", engine, 1)
    folder, _, _ = exported(version, workshop.folder / "data", engines)
    (folder / "stale.onnx").write_bytes(b"")
    _, exports, _ = exported(version, None, engines)
    assert {path.name for path in folder.iterdir()} == {*exports.files, "exports.json"}
    shutil.rmtree(folder)
    assert read_exports(version) is None
