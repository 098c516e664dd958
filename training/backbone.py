"""Backbone: published weights of an encoder, and the network that is trained on top of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import load_file
from torch import Tensor

from polytask.model.config import NetworkConfig
from polytask.model.encoding import InputEncoder
from polytask.model.network import Network, backbone_parameters, freeze_backbone, init_random
from polytask.model.pretrained import config_from_published, fold_positions, rename_published
from polytask.model.tasks import Kind, Task
from polytask.model.word_shapes import FIRST_SHAPE_SEGMENT
from polytask.model_store.backbones import BASE_WEIGHTS, PICKLED_WEIGHTS, SHARDS, locate_backbone
from polytask.training.recipes.architecture import Start
from polytask.training.recipes.schema import Recipe, RecipeError


@dataclass(frozen=True, slots=True)
class Backbone:
    """Published weights under the network's names, with their sizes and tokenizer. `folder` holds the files."""

    folder: Path
    config: NetworkConfig
    tensors: dict[str, Tensor]
    tokenizer: tokenizers.Tokenizer


def load_backbone(name: str) -> Backbone:
    """The backbone of a Hugging Face name or a folder. Raises StoreError, or RecipeError if unsupported or broken."""
    folder = locate_backbone(name)
    with _naming_in_errors(folder / "config.json") as path:
        published = json.loads(path.read_text(encoding="utf-8"))
        config = config_from_published(published)
    weights = weights_file(folder)
    with _naming_in_errors(weights) as path:
        tensors = rename_published(_read_weights(path))
        _check_positions(tensors, published["max_position_embeddings"])
        tensors = fold_positions(tensors, config)
    with _naming_in_errors(folder / "tokenizer.json") as path:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
        encoder = InputEncoder(tokenizer)
        if 0 < config.num_segments < encoder.num_segments:
            raise ValueError(f"has {encoder.num_segments} segments, config.json has {config.num_segments}")
        if tokenizer.get_vocab_size() > config.vocab_size:
            raise ValueError(f"has {tokenizer.get_vocab_size()} word pieces, config.json has {config.vocab_size}")
    return Backbone(folder, config, tensors, tokenizer)


def with_word_shapes(task: Task, setting: bool | None, backbone: NetworkConfig, encoder: InputEncoder) -> Task:
    """The task with the recipe's setting of word shapes; None: where the backbone can read them and loses case."""
    if task.kind is not Kind.TAGGING:
        return task
    possible = backbone.num_segments == FIRST_SHAPE_SEGMENT
    if setting and not possible:
        raise RecipeError(
            f"task {task.name!r}: word_shapes need a backbone with {FIRST_SHAPE_SEGMENT} segments, as BERT"
        )
    return replace(task, word_shapes=possible and encoder.loses_case if setting is None else setting)


def weights_file(folder: Path) -> Path:
    """The file of a backbone's folder from which weights are read: safetensors if there is one, or else a pickle."""
    return next(path for name in (BASE_WEIGHTS, SHARDS, PICKLED_WEIGHTS) if (path := folder / name).is_file())


def _read_weights(path: Path) -> dict[str, Tensor]:
    if path.name == PICKLED_WEIGHTS:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    if path.name == SHARDS:
        shards = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        return {name: tensor for shard in shards for name, tensor in load_file(path.parent / shard).items()}
    return load_file(path)


def _check_positions(tensors: dict[str, Tensor], expected: int) -> None:
    """Raises ValueError for a position table of another length, which would later be cut at the wrong position."""
    table = tensors.get("encoder.embeddings.position.weight")
    if table is not None and len(table) != expected:
        raise ValueError(f"size mismatch: {len(table)} positions, config.json has {expected}")


@contextmanager
def _naming_in_errors(path: Path) -> Iterator[Path]:
    """Gives `path`. Any exception in the block becomes a RecipeError that names it."""
    try:
        yield path
    except KeyError as error:
        raise RecipeError(f"{path}: lacks {error}") from error
    except Exception as error:  # tokenizers raises nothing more precise
        raise RecipeError(f"{path}: {error}") from error


def build_network(recipe: Recipe, backbone: Backbone, tasks: Sequence[Task]) -> Network:
    """The recipe's network with the backbone's weights and its lower layers frozen. All other weights are new.

    A fresh layer has none of the backbone's weights. Raises RecipeError if the sizes do not fit or the published weights
    lack a tensor.
    """
    torch.manual_seed(recipe.seed)
    try:
        word_shapes = any(task.word_shapes for task in tasks)
        network = Network(replace(recipe.network(backbone.config), word_shapes=word_shapes), tasks)
        frozen, fresh = recipe.backbone.num_frozen(backbone.config), recipe.backbone.fresh(backbone.config)
        freeze_backbone(
            network,
            frozen,
            embeddings=recipe.backbone.frozen_embeddings,
            attention_film=recipe.conditioning.freeze_attention_film,
        )
    except ValueError as error:
        raise RecipeError(f"recipe {recipe.name!r}: {error}") from error
    fresh_layers = [network.encoder.layers[layer] for layer in fresh]
    random_start = recipe.conditioning.start is Start.RANDOM
    init_random(network.modules() if random_start else (part for layer in fresh_layers for part in layer.children()))
    expected, fresh_prefixes = network.state_dict(), tuple(f"encoder.layers.{layer}." for layer in fresh)
    loaded = {n: tensor for n, tensor in backbone.tensors.items() if n in expected and not n.startswith(fresh_prefixes)}
    backbone_ids = {id(parameter) for parameter in backbone_parameters(network.encoder)}
    backbone_ids -= {id(parameter) for layer in fresh_layers for parameter in layer.parameters()}
    missing = [
        name for name, parameter in network.named_parameters() if id(parameter) in backbone_ids and name not in loaded
    ]
    if missing:
        raise RecipeError(f"{backbone.folder}: the weights lack {', '.join(missing)}")
    try:
        network.load_state_dict(loaded, strict=False)
    except RuntimeError as error:  # a shape that is not the one in config.json
        raise RecipeError(f"{weights_file(backbone.folder)}: {error}") from error
    return network
