"""From published weights to a network that is ready to train."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.config import NetworkConfig
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
    """The backbone of a Hugging Face name or a folder. Raises StoreError or, for an unsupported one, RecipeError."""
    folder = locate_backbone(name)
    try:
        config = config_from_published(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except ValueError as error:
        raise RecipeError(f"{folder / 'config.json'}: {error}") from error
    tensors = rename_published(load_file(folder / "model.safetensors"))
    return Backbone(folder, config, tensors, tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")))


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
    network.load_state_dict(found, strict=False)
    return network
