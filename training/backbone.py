"""From published weights to a network that is ready to train."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.config import NetworkConfig
from model.encoding import InputEncoder
from model.network import Network, backbone_parameters, freeze_backbone
from model.pretrained import config_from_published, rename_published
from model.tasks import Task
from model_store.bases import locate_backbone
from training.config import Recipe, RecipeError


@dataclass(frozen=True, slots=True)
class Backbone:
    """Published weights under the network's names, with their sizes and tokenizer; `folder` is where they lie."""

    folder: Path
    config: NetworkConfig
    tensors: dict[str, Tensor]
    tokenizer: tokenizers.Tokenizer


def load_backbone(name: str) -> Backbone:
    """The backbone of a Hugging Face name or a folder. Raises StoreError or, for an unsupported or broken one, RecipeError."""
    folder = locate_backbone(name)
    with _blamed_on(folder / "config.json") as path:
        config = config_from_published(json.loads(path.read_text(encoding="utf-8")))
    with _blamed_on(folder / "model.safetensors") as path:
        tensors = rename_published(load_file(path))
    with _blamed_on(folder / "tokenizer.json") as path:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
        InputEncoder(tokenizer)
        if tokenizer.get_vocab_size() > config.vocab_size:
            raise ValueError(f"has {tokenizer.get_vocab_size()} word pieces, config.json has {config.vocab_size}")
    return Backbone(folder, config, tensors, tokenizer)


@contextmanager
def _blamed_on(path: Path) -> Iterator[Path]:
    """Gives `path`; whatever goes wrong in the block is a RecipeError that names it."""
    try:
        yield path
    except KeyError as error:
        raise RecipeError(f"{path}: lacks {error}") from error
    except Exception as error:  # tokenizers raises nothing more precise
        raise RecipeError(f"{path}: {error}") from error


def build_network(recipe: Recipe, backbone: Backbone, tasks: Sequence[Task]) -> Network:
    """The recipe's network with the backbone's weights in place and its lower layers fixed; the rest starts anew.

    Raises RecipeError if the sizes do not fit or the published weights lack a tensor.
    """
    torch.manual_seed(recipe.seed)
    try:
        network = Network(recipe.network(backbone.config), tasks)
        freeze_backbone(network, recipe.backbone.frozen_layers)
    except ValueError as error:
        raise RecipeError(f"recipe {recipe.name!r}: {error}") from error
    wanted = network.state_dict()
    found = {name: tensor for name, tensor in backbone.tensors.items() if name in wanted}
    own = {id(parameter) for parameter in backbone_parameters(network.encoder)}
    missing = [name for name, parameter in network.named_parameters() if id(parameter) in own and name not in found]
    if missing:
        raise RecipeError(f"{backbone.folder}: the weights lack {', '.join(missing)}")
    try:
        network.load_state_dict(found, strict=False)
    except RuntimeError as error:  # a shape that is not the one in config.json
        raise RecipeError(f"{backbone.folder / 'model.safetensors'}: {error}") from error
    return network
