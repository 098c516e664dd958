"""Backbone: loading published weights, and networks on top of a toy BERT and other architectures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from polytask import training
from polytask.model.batch import Batch
from polytask.model.encoding import Input, InputEncoder
from polytask.model.network import Network
from polytask.model.tasks import Kind, Task
from polytask.model_store.errors import BaseMissing
from polytask.model_store.load import load
from polytask.model_store.manifest import Base
from polytask.model_store.save import save
from polytask.training.backbone import Backbone, build_network, load_backbone
from polytask.training.evaluation.evaluate import answer_inputs
from polytask.training.pipeline import run_recipe
from polytask.training.recipes.schema import RecipeError, read_recipe
from tests.model.support.networks import encode, random_batch, randomise_conditioning
from tests.model_store.support import stores
from tests.support import backbones, tiny
from tests.training.support import toy
from tests.training.support.answers import assert_same_answers

TASKS = (Task("a", Kind.CLASSIFICATION, 32, labels=("x", "y")), Task("b", Kind.SPAN, 48, pair=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a published BERT."""
    return toy.write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    """The same, loaded."""
    return load_backbone(str(folder))


def _build(backbone: Backbone, /, **sections: Any) -> Network:
    return build_network(toy.recipe(backbone.folder, **sections), backbone, TASKS)


def test_a_folder_is_a_backbone(folder: Path, backbone: Backbone) -> None:
    """Sizes, tokenizer and tensors come from the folder's files, with the network's names."""
    assert backbone.folder == folder
    assert (backbone.config.num_layers, backbone.config.hidden_size, backbone.config.max_positions) == (2, 32, 64)
    assert backbone.tokenizer.get_vocab() == tiny.tokenizer().get_vocab()
    published = toy.published_tensors()
    assert len(backbone.tensors) == len(published)
    query = backbone.tensors["encoder.layers.1.query.weight"]
    assert torch.equal(query, published["encoder.layer.1.attention.self.query.weight"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(toy.published_config() | {"model_type": "t5"}), "architecture 't5' is not supported"),
        (json.dumps(toy.published_config() | {"hidden_act": "relu"}), "hidden_act 'relu' is not supported"),
        (json.dumps(toy.published_config() | {"position_embedding_type": "relative_key"}), "'relative_key'"),
        (json.dumps(toy.published_config() | {"num_attention_heads": 5}), "not a multiple of num_heads 5"),
        ("{", "Expecting property name"),
    ],
)
def test_an_unsupported_backbone_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    """An unsupported backbone is an error with the file and the reason."""
    (toy.write_backbone(tmp_path) / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(RecipeError, match=rf"\A{tmp_path}/config.json: .*{message}"):
        load_backbone(str(tmp_path))


def _no_special_tokens(folder: Path) -> str:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("[CLS]", "[START]"), encoding="utf-8")
    return "tokenizer.json: .*CLS"


def _a_small_vocabulary(folder: Path) -> str:
    content = json.dumps(toy.published_config() | {"vocab_size": 5})
    (folder / "config.json").write_text(content, encoding="utf-8")
    return "tokenizer.json: has .* word pieces, config.json has 5"


def _a_missing_size(folder: Path) -> str:
    content = {key: value for key, value in toy.published_config().items() if key != "hidden_size"}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return "config.json: lacks 'hidden_size'"


def _fewer_positions(folder: Path) -> str:
    content = json.dumps(toy.published_config() | {"max_position_embeddings": 60})
    (folder / "config.json").write_text(content, encoding="utf-8")
    return "model.safetensors: size mismatch: 64 positions, config.json has 60"


def _more_segments(folder: Path) -> str:
    backbones.write(folder, "bert", type_vocab_size=2)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["post_processor"]["pair"][-1]["SpecialToken"]["type_id"] = 2
    tokenizer["post_processor"]["pair"][-2]["Sequence"]["type_id"] = 2
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return "tokenizer.json: has 3 segments, config.json has 2"


def _no_tokenizer(folder: Path) -> str:
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    return "tokenizer.json: "


def _no_weights(folder: Path) -> str:
    (folder / "model.safetensors").write_bytes(b"no tensors")
    return "model.safetensors: "


def _another_shape(folder: Path) -> str:
    content = json.dumps(toy.published_config() | {"intermediate_size": 48})
    (folder / "config.json").write_text(content, encoding="utf-8")
    return "model.safetensors: .*size mismatch"


@pytest.mark.parametrize(
    "damage",
    [
        _no_special_tokens,
        _a_small_vocabulary,
        _a_missing_size,
        _fewer_positions,
        _more_segments,
        _no_tokenizer,
        _no_weights,
        _another_shape,
    ],
)
def test_a_broken_file_of_a_backbone_is_named(tmp_path: Path, damage: Callable[[Path], str]) -> None:
    """Any broken file of a backbone is a RecipeError that names it."""
    message = damage(toy.write_backbone(tmp_path))
    with pytest.raises(RecipeError, match=rf"(?s)\A{tmp_path}/{message}"):
        _build(load_backbone(str(tmp_path)))


def test_an_incomplete_folder_is_an_error(tmp_path: Path) -> None:
    """A missing file is a store error that names it, and says how to make a tokenizer.json."""
    (toy.write_backbone(tmp_path) / "tokenizer.json").unlink()
    with pytest.raises(BaseMissing, match=r"has no tokenizer\.json; write it with transformers: AutoTokenizer"):
        load_backbone(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BaseMissing, match=r"has no tokenizer\.json, model\.safetensors; give a folder"):
        load_backbone(str(tmp_path))


def _pickled(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    torch.save(tensors, folder / "pytorch_model.bin")


def _in_shards(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, own in shards.items():
        save_file({name: tensors[name] for name in own}, folder / shard)
    index = {"weight_map": {name: shard for shard, own in shards.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


@pytest.mark.parametrize("write", [_pickled, _in_shards])
def test_weights_may_be_in_other_files(
    tmp_path: Path, backbone: Backbone, write: Callable[[Path, dict[str, torch.Tensor]], None]
) -> None:
    """A pickle of tensors, or shards of safetensors, give the same backbone, and model.safetensors goes first."""
    toy.write_backbone(tmp_path)
    write(tmp_path, {name: tensor + 1 for name, tensor in toy.published_tensors().items()})
    untouched = load_backbone(str(tmp_path)).tensors
    (tmp_path / "model.safetensors").unlink()
    found = load_backbone(str(tmp_path)).tensors
    assert found.keys() == untouched.keys() == backbone.tensors.keys()
    for name, tensor in backbone.tensors.items():
        assert torch.equal(untouched[name], tensor)
        assert torch.equal(found[name], tensor + 1)


class _Code:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.write_text, (Path("ran"), "x")  # type: ignore[return-value]


def test_a_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pytorch_model.bin with more than tensors is refused by name, and its code does not run."""
    monkeypatch.chdir(tmp_path)
    (toy.write_backbone(tmp_path) / "model.safetensors").unlink()
    torch.save({"weights": _Code()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(RecipeError, match=rf"\A{tmp_path}/pytorch_model.bin: "):
        load_backbone(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def _answers(network: Network, encoder: InputEncoder) -> list[Any]:
    """An answer to an input of every kind."""
    inputs: dict[str, Input] = tiny.inputs()
    return [
        answer
        for task_id, task in enumerate(tiny.tasks())
        for answer in answer_inputs(network, encoder, task_id, [inputs[task.name]])
    ]


@pytest.mark.parametrize("kind", backbones.CONFIGS)
def test_every_architecture_is_built_kept_and_answers(tmp_path: Path, kind: str) -> None:
    """A network on each architecture gives the same answers after it was saved without backbone tensors."""
    folder = backbones.write(tmp_path / "backbone", kind)
    backbone = load_backbone(str(folder))
    sections: dict[str, Any] = {"backbone": {"max_length": 64}}
    network = build_network(toy.recipe(folder, **sections), backbone, tiny.tasks()).eval()
    randomise_conditioning(network, std=0.1)
    answers = _answers(network, InputEncoder(backbone.tokenizer))
    base = Base(str(folder), stores.sha256(folder / "model.safetensors"))
    contents = replace(stores.contents(network, base), tokenizer_json=backbone.tokenizer.to_str())
    version = save(tmp_path / "store", "tiny", contents)
    assert not set(load_file(version / "weights.safetensors")) & set(backbone.tensors)
    checkpoint = load(version)
    assert checkpoint.network.config == network.config
    assert_same_answers(_answers(checkpoint.network, InputEncoder(checkpoint.tokenizer)), answers)


def test_a_run_on_a_roberta_learns(tmp_path: Path, toy_folder: Path) -> None:
    """A run on a backbone with byte-level pieces learns texts, words and spans."""
    folder = backbones.write(tmp_path / "backbone", "roberta")
    kinds = (Kind.CLASSIFICATION, Kind.TAGGING, Kind.SPAN)
    fields = toy.fields(folder, kinds, length={"examples": 1280})
    (tmp_path / "recipe.toml").write_text(toy.to_toml(fields), encoding="utf-8")
    console = Console(file=io.StringIO())
    version = run_recipe(tmp_path / "recipe.toml", toy_folder / "data", tmp_path / "store", console, tmp_path / "run")
    metrics = load(version).manifest.metrics
    assert min(metrics["mood"]["accuracy"], metrics["entities"]["span_f1"], metrics["answer"]["exact_match"]) > 0.6


def test_published_weights_are_in_place(backbone: Backbone) -> None:
    """Every published tensor that the network has is in it to the bit."""
    network = _build(backbone, backbone={"pooling": "cls"})
    state = network.state_dict()
    assert set(backbone.tensors) <= set(state)
    for name, tensor in backbone.tensors.items():
        assert torch.equal(state[name], tensor)
    assert "pooler.weight" not in _build(backbone).state_dict()


def test_before_training_the_encoder_is_the_backbones(backbone: Backbone) -> None:
    """With every conditional module on, token states are those of the plain backbone for every task."""
    recipe = toy.recipe(backbone.folder, conditioning={"alignment": False})
    switched_off = {"attention": (), "layer_norm": (), "bottleneck": ()}
    off = recipe.model_copy(update={"conditioning": recipe.conditioning.model_copy(update=switched_off)})
    plain = build_network(off, backbone, TASKS).eval()
    conditional = _build(backbone, conditioning={"layer_norm": [0, 1]}).eval()
    assert len(conditional.state_dict()) > len(plain.state_dict())
    batch: Batch = random_batch(conditional.config, (5, 12, 48), (0, 1, 0))
    is_token = torch.arange(48) < batch.lengths[:, None]
    difference = (encode(plain, batch) - encode(conditional, batch))[is_token]
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("frozen_layers", [0, 1, 2])
def test_lower_layers_are_frozen(backbone: Backbone, frozen_layers: int) -> None:
    """The embeddings and the recipe's number of layers are frozen, except for their conditional modules."""
    network = _build(backbone, backbone={"frozen_layers": frozen_layers})
    for name, parameter in network.named_parameters():
        below = name.startswith(("encoder.embeddings", *(f"encoder.layers.{i}." for i in range(frozen_layers))))
        conditional = any(part in name for part in ("film", "attention_bias", "bottleneck"))
        assert parameter.requires_grad == (not below or conditional), name


def test_one_seed_gives_one_start(backbone: Backbone) -> None:
    """New weights are the same for the same seed, and differ for another one."""
    first, second = _build(backbone), _build(backbone)
    torch.manual_seed(7)
    recipe = toy.recipe(backbone.folder).model_copy(update={"seed": 4})
    other = build_network(recipe, backbone, TASKS)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    assert not torch.equal(first.heads.sentence.weight, other.heads.sentence.weight)
    assert not torch.equal(first.task_embedding.weight, other.task_embedding.weight)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("backbone", "frozen_layers", 3, "cannot freeze 3 of 2 layers"),
        ("backbone", "max_length", 40, "task 'b': max_length 48 is over the network's 40"),
        ("backbone", "max_length", 65, "max_length 65 must be 1 to max_positions 64"),
        ("conditioning", "attention", [5], "names a layer outside"),
    ],
)
def test_what_does_not_fit_is_an_error(backbone: Backbone, section: str, key: str, value: object, message: str) -> None:
    """A recipe that needs more than the backbone has is refused with the recipe's name."""
    with pytest.raises(RecipeError, match=f"recipe 'toy': .*{message}"):
        _build(backbone, **{section: {key: value}})


def test_a_task_listed_twice_is_an_error(backbone: Backbone) -> None:
    """Two tasks with the same name are an error."""
    with pytest.raises(RecipeError, match="task 'a' is listed twice"):
        build_network(toy.recipe(backbone.folder), backbone, TASKS[:1] * 2)


def test_rows_may_be_longer_than_the_backbones_usual(backbone: Backbone) -> None:
    """Rows may be as long as the backbone's number of positions."""
    assert _build(backbone, backbone={"max_length": 64}).config.max_length == 64


def test_weights_that_lack_a_tensor_are_an_error(tmp_path: Path) -> None:
    """Weights that lack a tensor of the encoder are an error that names it."""
    toy.write_backbone(tmp_path)
    tensors = toy.published_tensors()
    del tensors["encoder.layer.1.output.dense.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(RecipeError, match=rf"\A{tmp_path}: the weights lack encoder.layers.1.contract.bias\Z"):
        _build(load_backbone(str(tmp_path)))


def test_the_demo_recipe_fits_its_backbone() -> None:
    """The demo recipe fits the layers and positions of the embedded backbone."""
    recipe, _ = read_recipe(Path(training.__file__).parent / "recipes" / "demo.toml")
    config = recipe.network(load_backbone(recipe.backbone.name).config)
    assert recipe.backbone.num_frozen(config) <= config.num_layers
    assert all(task.max_length <= config.max_length for task in recipe.tasks)
