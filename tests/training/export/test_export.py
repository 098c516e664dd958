"""An export writes candidates for every backend, measures and judges them, and keeps those that passed."""

from __future__ import annotations

import copy
import io
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx
import pytest
import torch
from rich.console import Console

from polytask.model.batch import Batch
from polytask.model.heads import Outputs
from polytask.model.network import Network
from polytask.model_store.exports import Exports, read_exports
from polytask.model_store.load import verify
from polytask.model_store.manifest import Golden, read_manifest
from polytask.model_store.save import NewVersion, save
from polytask.service.backends.selection import open_backend
from polytask.training.data.issues import DataError
from polytask.training.evaluation.evaluate import RunBatch
from polytask.training.export import export
from polytask.training.export.backend_trials import EncodedTask, answer_task
from polytask.training.export.export import Backends, export_version
from polytask.training.export.onnx_graph import onnx_graph
from polytask.training.runs.provenance import provenance
from tests.training.conftest import Workshop
from tests.training.support import toy

pytestmark = pytest.mark.usefixtures("untouched_module")


def open_run(backend: str, precision: str, file: Path | None, network: Network, threads: int) -> RunBatch:
    """Opens one of the service's backends."""
    return open_backend(backend, precision, file, network, threads).run


def open_inverted(backend: str, precision: str, file: Path | None, network: Network, threads: int) -> RunBatch:
    """The same, but OpenVINO gives every logit with the wrong sign."""
    run = open_run(backend, precision, file, network, threads)

    def invert(batch: Batch) -> Outputs:
        outputs = run(batch)
        return Outputs(-outputs.sentence, None if outputs.token is None else -outputs.token)

    return invert if backend == "openvino" else run


def goldens(workshop: Workshop, network: Network) -> Iterator[Golden]:
    """The network's answers to a validation example of each task."""
    for task_id, task_data in enumerate(workshop.data):
        item = task_data.validation[0].input
        encoded = EncodedTask(workshop.encoder, task_data.task, task_id, (item,))
        (answer,) = answer_task(open_run("torch", "float32", None, network, 1), network.tasks, encoded)
        yield Golden(task_data.task.name, item, asdict(answer))


@pytest.fixture(scope="module")
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


@dataclass(frozen=True, slots=True)
class Exported:
    """A version with its exports: their folder and content, the graph that was traced, and the console's text."""

    version: Path
    folder: Path
    exports: Exports
    graph: onnx.ModelProto
    printed: str


def export_with(version: Path, data: Path | None, backends: Backends, graph: onnx.ModelProto | None = None) -> Exported:
    """Exports the version. A `graph` that was traced from the same network before saves the tracing."""
    traced = [] if graph is None else [graph]

    def trace(network: Network) -> onnx.ModelProto:
        traced[:] = traced or [onnx_graph(network)]
        return traced[0]

    console = Console(file=io.StringIO(), width=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "onnx_graph", trace)
        folder = export_version(version, data, backends, console)
    found = read_exports(version, read_manifest(version).tasks)
    assert found is not None
    assert found[0] == folder
    assert isinstance(console.file, io.StringIO)
    return Exported(version, folder, found[1], traced[0], console.file.getvalue())


@pytest.fixture(scope="module")
def everything(
    tmp_path_factory: pytest.TempPathFactory, contents: NewVersion, workshop: Workshop
) -> Iterator[Exported]:
    """The version exported with its data for all backends."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(folder / "home"))
        version = save(folder / "store", "toy", contents)
        yield export_with(version, workshop.folder / "data", Backends(lambda _: True, open_run, 1))


def test_every_way_of_running_is_measured(everything: Exported) -> None:
    """With data there are float32 and 8 bits on each backend, each with its speeds and each task's loss."""
    exports = everything.exports
    names = {candidate.name for candidate in exports.candidates}
    assert names == {
        "torch-float32", "onnxruntime-float32", "onnxruntime-int8", "openvino-float32", "openvino-bfloat16", "openvino-int8",
    }  # fmt: skip
    for candidate in exports.candidates:
        assert candidate.name in everything.printed
        assert set(candidate.differences) == set(toy.TASKS.values())
        assert set(candidate.texts_per_s) == {"1", "8", "32"}
        assert candidate.refused is not None or all(lost >= -0.5 for lost in candidate.differences.values())
    assert {path.name for path in everything.folder.iterdir()} == {*exports.files, "exports.json"}
    assert exports.calibration > 0
    verify(everything.version)


def test_without_any_text_nothing_can_be_measured(tmp_path: Path, contents: NewVersion) -> None:
    """A version without golden examples cannot be exported without its data."""
    version = save(tmp_path / "other", "toy", replace(contents, goldens=()))
    with pytest.raises(DataError, match="no golden examples to time engines on; give its data folder"):
        export_version(version, None, Backends(lambda _: True, open_run, 1), Console(file=io.StringIO()))


def test_a_backend_that_loses_a_task_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: NewVersion, workshop: Workshop, everything: Exported
) -> None:
    """A refused backend comes last, with the task that loses most and by how much, and its own file is not kept."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    version = save(tmp_path / "store", "toy", contents)
    backends = Backends(lambda _: True, open_inverted, 1)
    exported = export_with(version, workshop.folder / "data", backends, everything.graph)
    candidates = exported.exports.candidates
    refused = [candidate for candidate in candidates if candidate.backend == "openvino"]
    assert list(candidates[-3:]) == refused
    for candidate in refused:
        assert candidate.refused is not None
        worst = min(candidate.differences, key=lambda task: candidate.differences[task])
        assert f"task '{worst}' loses" in candidate.refused
        assert candidate.refused in exported.printed
    assert "int8-plain.onnx" not in exported.exports.files


def test_exporting_again_without_data_leaves_float32_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, everything: Exported
) -> None:
    """Without data no loss is known, so on every backend there is only float32; other files of the earlier export are gone."""
    shutil.copytree(everything.version.parents[2], tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    version = tmp_path / everything.version.relative_to(everything.version.parents[2])
    earlier = read_exports(version, read_manifest(version).tasks)
    assert earlier is not None
    (earlier[0] / "stale.onnx").write_bytes(b"")
    again = export_with(version, None, Backends(lambda _: True, open_run, 1), everything.graph)
    assert again.folder == earlier[0]
    names = {candidate.name for candidate in again.exports.candidates}
    assert names == {"torch-float32", "onnxruntime-float32", "openvino-float32"}
    assert list(again.exports.files) == ["float32.onnx"]
    assert not any(candidate.differences for candidate in again.exports.candidates)
    assert {path.name for path in again.folder.iterdir()} == {"float32.onnx", "exports.json"}
    shutil.rmtree(again.folder)
    assert read_exports(version, read_manifest(version).tasks) is None


def test_a_tuned_version_has_the_scales_of_its_origin(
    monkeypatch: pytest.MonkeyPatch, contents: NewVersion, workshop: Workshop, everything: Exported
) -> None:
    """The export of a version that was tuned from another uses its origin's 8-bit scales; without them a line says so."""
    store = everything.version.parents[1]
    monkeypatch.setenv("XDG_DATA_HOME", str(store.parent / "home"))
    network = copy.deepcopy(contents.network)
    with torch.no_grad():
        network.heads.sentence.weight[network.output_slices[0]] *= 3
    changed = [
        replace(contents, network=network, provenance={**contents.provenance, "tuned": [{"from": origin}]})
        for origin in ("toy/1", "toy/99")
    ]
    version, orphan = (save(store, "toy", each) for each in changed)
    backends = Backends(lambda name: name != "openvino", open_run, 1)
    tuned = export_with(version, workshop.folder / "data", backends)
    names = "int8-scales.safetensors"
    assert (tuned.folder / names).read_bytes() == (everything.folder / names).read_bytes()
    assert "8 bits by the scales of toy/1" in tuned.printed
    console = Console(file=io.StringIO(), width=200)
    assert export._origin_scales(orphan, read_manifest(orphan), console) is None
    assert isinstance(console.file, io.StringIO)
    assert "toy/99 has no exports with some" in console.file.getvalue()
