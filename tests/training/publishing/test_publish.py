"""Publishing: the stored version is the one that was evaluated."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from polytask.model.encoding import Input
from polytask.model.network import Network
from polytask.model.tasks import Kind
from polytask.model_store.load import load, verify
from polytask.model_store.manifest import FROM_BASE, Manifest
from polytask.training.backbone import Backbone, build_network, load_backbone
from polytask.training.evaluation.baselines import score_baseline
from polytask.training.evaluation.evaluate import answer_inputs, evaluate_tasks
from polytask.training.preparation import PreparedRun
from polytask.training.publishing.publish import calibrate, goldens, publish, round_weights
from polytask.training.publishing.thresholds import choose_thresholds
from polytask.training.runs.provenance import provenance
from tests.support import tiny
from tests.training.conftest import Workshop
from tests.training.support import toy


@dataclass(frozen=True, slots=True)
class Published:
    """A version, the network in memory that it was made from, and its manifest."""

    version: Path
    network: Network
    backbone: Backbone
    manifest: Manifest
    scores: dict[str, dict[str, float]]


def _disturb(network: Network) -> None:
    """Changes every trainable parameter like training does, to values that are not exact in fp16."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


def _publish(workshop: Workshop, backbone_name: str, store: Path) -> Published:
    data = workshop.data
    recipe = toy.recipe(backbone_name)
    backbone = load_backbone(backbone_name)
    network = build_network(recipe, backbone, [task_data.task for task_data in data])
    _disturb(network)
    baselines = {task_data.task.name: score_baseline(task_data) for task_data in data}
    origin = provenance(recipe, "the recipe's text", workshop.folder / "data")
    run = PreparedRun(recipe, data, workshop.examples, baselines, origin, backbone, network, workshop.encoder)
    published = publish(run, store, "trained on 480 examples, as planned")
    version = published.version
    return Published(version, network, backbone, verify(version), published.scores)


@pytest.fixture
def on_folder(workshop: Workshop, tmp_path: Path) -> Published:
    """A version on a backbone that is a folder."""
    return _publish(workshop, str(workshop.folder / "backbone"), tmp_path / "store")


@pytest.fixture
def on_name(workshop: Workshop, tmp_path: Path, named_backbone: str) -> Published:
    """A version on a backbone with a name."""
    return _publish(workshop, named_backbone, tmp_path / "store")


def _stored(version: Path) -> tuple[dict[str, Tensor], set[str]]:
    """The tensors in the weights file, and the names of tensors that come from the base."""
    with safe_open(version / "weights.safetensors", "pt") as file:
        names: list[str] = list(file.keys())
        return {name: file.get_tensor(name) for name in names}, set(file.metadata().get(FROM_BASE, "").splitlines())


# What is stored


@pytest.mark.parametrize("fixture", ["on_folder", "on_name"])
def test_what_is_stored_is_what_was_evaluated(workshop: Workshop, request: pytest.FixtureRequest, fixture: str) -> None:
    """A loaded version has, to the bit, the weights of the network that was measured, and so the same metrics."""
    published: Published = request.getfixturevalue(fixture)
    loaded = load(published.version)
    expected = published.network.state_dict()
    assert set(loaded.network.state_dict()) == set(expected)
    for name, tensor in loaded.network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert loaded.network.tasks == published.network.tasks == loaded.manifest.tasks
    assert loaded.manifest.metrics == published.scores
    assert evaluate_tasks(loaded.network, workshop.encoder, workshop.data) == published.scores
    assert list(published.scores) == [task_data.task.name for task_data in workshop.data]


def test_on_a_named_backbone_only_changes_are_stored(on_name: Published) -> None:
    """Frozen tensors stay the base's in full precision; exactly the others are stored, in fp16."""
    stored, from_base = _stored(on_name.version)
    frozen = {name for name, parameter in on_name.network.named_parameters() if not parameter.requires_grad}
    assert frozen
    assert from_base == frozen
    assert set(stored) == set(on_name.network.state_dict()) - frozen
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    for name in frozen:
        assert torch.equal(on_name.network.state_dict()[name], on_name.backbone.tensors[name])
    content = (on_name.backbone.folder / "model.safetensors").read_bytes()
    assert on_name.manifest.base is not None
    assert asdict(on_name.manifest.base) == {"name": toy.NAMED, "sha256": hashlib.sha256(content).hexdigest()}


def test_on_a_folder_everything_is_stored(on_folder: Published) -> None:
    """A version on a backbone folder contains all tensors, frozen ones rounded like the others."""
    stored, from_base = _stored(on_folder.version)
    assert set(stored) == set(on_folder.network.state_dict())
    assert not from_base
    assert on_folder.manifest.base is None


def test_rounding_is_to_the_nearest(workshop: Workshop) -> None:
    """Rounded weights are exact in fp16 and near the original; those that equal what is kept do not change."""
    network = workshop.network()
    _disturb(network)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    round_weights(network, torch.float16, kept=workshop.backbone.tensors)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name] if name in frozen else before[name].half().float())
        torch.testing.assert_close(parameter.detach(), before[name], rtol=1e-3, atol=1e-6)
    assert not torch.equal(network.heads.sentence.weight, before["heads.sentence.weight"])
    round_weights(network, torch.float16, kept={})
    assert all(torch.equal(parameter, parameter.half().float()) for parameter in network.parameters())


def test_the_tokenizer_is_the_backbones(on_folder: Published) -> None:
    """The version's tokenizer gives the pieces that the network was trained on."""
    text = "The good cat sat in Paris, bad?"
    assert load(on_folder.version).tokenizer.encode(text).ids == tiny.tokenizer().encode(text).ids


def test_versions_count_up(workshop: Workshop, on_folder: Published) -> None:
    """Publishing again makes the next version and leaves the first unchanged."""
    again = _publish(workshop, str(workshop.folder / "backbone"), on_folder.version.parent.parent)
    assert [on_folder.version.name, again.version.name] == ["1", "2"]
    assert verify(on_folder.version) == on_folder.manifest


# What is said about it


def test_golden_answers_are_those_of_the_network(workshop: Workshop, on_folder: Published) -> None:
    """Each task has a golden example, and the network in memory gives its answer."""
    assert [golden.task for golden in on_folder.manifest.goldens] == [
        task_data.task.name for task_data in workshop.data
    ]
    for task_id, golden in enumerate(on_folder.manifest.goldens):
        (answer,) = answer_inputs(on_folder.network, workshop.encoder, task_id, [golden.input])
        assert golden.answer == asdict(answer)


def test_goldens_are_the_recipes_examples(workshop: Workshop) -> None:
    """The recipe's examples become goldens with all their fields, or else the first validation input does."""
    fields: dict[Kind, list[dict[str, object]]] = {
        Kind.CLASSIFICATION: [{"text": "a good cat"}, {"text": "bad"}],
        Kind.REGRESSION: [{"text": "a good cat", "text_pair": "bad"}],
        Kind.RANKING: [{"text": "a cat", "candidates": ["paris", "the cat sat", "it"]}],
    }
    data = [
        replace(
            task_data,
            config=type(task_data.config).model_validate(toy.task_fields(task_data.task.kind) | {"examples": given}),
        )
        for task_data in workshop.data
        for given in [fields.get(task_data.task.kind, [])]
    ]
    found = goldens(workshop.network(), workshop.encoder, data)
    by_task = {
        task_data.task.name: [golden.input for golden in found if golden.task == task_data.task.name]
        for task_data in data
    }
    for task_data in data:
        given = fields.get(task_data.task.kind)
        expected = [_input(entry) for entry in given] if given else [task_data.validation[0].input]
        assert by_task[task_data.task.name] == expected


def _input(entry: dict[str, object]) -> Input:
    candidates = entry.get("candidates", [])
    assert isinstance(candidates, list)
    pair = entry.get("text_pair")
    return Input(str(entry["text"]), None if pair is None else str(pair), tuple(candidates))


def test_thresholds_are_calibrated_and_kept(workshop: Workshop, on_folder: Published) -> None:
    """The manifest has the thresholds that were best on training examples; all other tasks are unchanged."""
    (index,) = [index for index, task_data in enumerate(workshop.data) if task_data.task.kind is Kind.MULTILABEL]
    task_data = workshop.data[index]
    expected = choose_thresholds(on_folder.network, workshop.encoder, index, task_data.train)
    assert on_folder.manifest.tasks[index] == expected
    assert expected.thresholds != task_data.task.thresholds
    others = [task for task in on_folder.manifest.tasks if task.kind is not Kind.MULTILABEL]
    assert others == [data.task for data in workshop.data if data.task.kind is not Kind.MULTILABEL]


def test_validation_has_no_part_in_calibration(workshop: Workshop) -> None:
    """What is calibrated does not depend on the validation examples."""
    data = [replace(task_data, selection=task_data.train) for task_data in workshop.data]
    network, other = workshop.network(), workshop.network()
    calibrate(network, workshop.encoder, data)
    calibrate(other, workshop.encoder, [replace(task_data, validation=()) for task_data in data])
    assert network.tasks == other.tasks
    assert all(map(torch.equal, network.state_dict().values(), other.state_dict().values()))


def test_the_manifest_says_where_a_version_comes_from(workshop: Workshop, on_folder: Published) -> None:
    """The provenance has the recipe's text, the hash of every data file, the libraries and the time."""
    origin = on_folder.manifest.provenance
    assert origin["recipe"] == "the recipe's text"
    files = {f"{name}/{split}.jsonl" for name in toy.TASKS.values() for split in ("train", "validation")}
    folder = workshop.folder / "data"
    assert origin["data"] == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    assert origin["libraries"]["torch"] == str(torch.__version__)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", origin["created"])
    assert origin["started"] <= origin["created"]
    assert origin["commit"] is None or re.fullmatch(r"[0-9a-f]{40}\+?", origin["commit"])
    assert on_folder.manifest.baselines == {
        task_data.task.name: score_baseline(task_data) for task_data in workshop.data
    }


def test_a_calibrated_version_is_stored_as_it_was_measured(workshop: Workshop, tmp_path: Path) -> None:
    """With examples to choose by, the loaded version has the calibrated heads, and the card shows their effect."""
    data = [replace(task_data, selection=task_data.train) for task_data in workshop.data]
    published = _publish(replace(workshop, data=data), str(workshop.folder / "backbone"), tmp_path / "store")
    loaded = load(published.version)
    assert torch.equal(loaded.network.heads.sentence.weight, published.network.heads.sentence.weight)
    assert evaluate_tasks(loaded.network, workshop.encoder, data) == published.scores
    card = (published.version / "card.md").read_text(encoding="utf-8")
    assert card.count("| `mood` |") == 3
    assert card.count("| `closeness` |") == 1


def test_the_card_has_the_figures_of_the_manifest(on_folder: Published) -> None:
    """The card of a version shows its metrics."""
    card = (on_folder.version / "card.md").read_text(encoding="utf-8")
    for task, scores in on_folder.manifest.metrics.items():
        row = next(line for line in card.splitlines() if line.startswith(f"| `{task}` |"))
        assert f"{next(iter(scores.values())):.4f}" in row
