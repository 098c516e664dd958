"""Architecture: layers by number or name, sizes by number or share, fitted to a backbone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pydantic
import pytest
import torch

from polytask.model.config import NetworkConfig
from polytask.model.network import Network, parameter_counts
from polytask.model.pretrained import config_from_published
from polytask.training.backbone import build_network
from polytask.training.recipes.architecture import BackboneConfig, ConditioningConfig, network_config
from polytask.training.recipes.schema import Recipe, RecipeError
from tests.model.support.networks import MINILM, classifiers
from tests.training.conftest import Workshop
from tests.training.support import toy

SIX = NetworkConfig(
    vocab_size=100, hidden_size=384, num_layers=6, num_heads=12, intermediate_size=64, max_positions=512
)


def _network(backbone: NetworkConfig, /, max_length: int = 128, **switches: Any) -> NetworkConfig:
    return network_config(
        backbone, BackboneConfig(name="any", max_length=max_length), ConditioningConfig.model_validate(switches)
    )


@pytest.mark.parametrize(
    ("num_layers", "named", "layers"),
    [
        (6, "all", (0, 1, 2, 3, 4, 5)),
        (6, "upper", (3, 4, 5)),
        (5, "upper", (2, 3, 4)),
        (1, "upper", (0,)),
        (6, "last", (5,)),
        (6, [], ()),
        (6, [4, 1], (4, 1)),
    ],
)
def test_layers_go_by_number_or_by_name(num_layers: int, named: Any, layers: tuple[int, ...]) -> None:
    """A named set of layers is fitted to the depth of the backbone; numbers stay as they are."""
    backbone = replace(SIX, num_layers=num_layers)
    network = _network(backbone, attention=named, layer_norm=named, bottleneck=named, bottleneck_size=4)
    assert network.conditional_attention == network.conditional_layer_norm == network.conditional_bottleneck == layers


@pytest.mark.parametrize(("frozen", "layers"), [(0, 0), (4, 4), ("1/2", 3), ("5/12", 2), ("2/3", 4), ("6/6", 6)])
def test_frozen_layers_go_by_number_or_by_share(frozen: Any, layers: int) -> None:
    """A share of the layers is rounded down to a number of frozen layers."""
    assert BackboneConfig(name="any", frozen_layers=frozen).num_frozen(SIX) == layers


@pytest.mark.parametrize(("size", "width"), [(7, 7), ("1/3", 128), ("1/4", 96), ("1/7", 54)])
def test_a_bottleneck_is_a_number_or_a_share_of_the_hidden_size(size: Any, width: int) -> None:
    """A share of the hidden size is rounded down to the size of the bottleneck."""
    assert _network(SIX, bottleneck=[0], bottleneck_size=size).bottleneck_size == width


@pytest.mark.parametrize("share", ["half", "1/0", "-1/2", "0.5", "1 / 2", ""])
def test_a_share_is_two_numbers(share: str) -> None:
    """A share that is not a fraction of two numbers is an error."""
    with pytest.raises(pydantic.ValidationError, match="frozen_layers"):
        BackboneConfig(name="any", frozen_layers=share)


def test_published_blocks_are_hidden_size_over_longest_row() -> None:
    """Width 384 and rows of 128 give three blocks; a quotient that is not whole is an error with a remedy."""
    assert _network(SIX, attention_blocks="published").attention_blocks == 3
    with pytest.raises(ValueError, match=r"384 / 100 is not whole; give another max_length .* or a number of blocks"):
        _network(SIX, max_length=100, attention_blocks="published")


def test_a_fresh_layer_must_be_there(workshop: Workshop) -> None:
    """A fresh layer that the backbone does not have is an error."""
    recipe = toy.recipe(workshop.folder / "backbone", backbone={"fresh_layers": [2]})
    with pytest.raises(RecipeError, match=r"recipe 'toy': fresh_layers \[2\] names a layer outside 0\.\.1"):
        build_network(recipe, workshop.backbone, [task_data.task for task_data in workshop.data])


def test_a_fresh_layer_needs_no_published_weights(workshop: Workshop) -> None:
    """A fresh layer has small new weights, and all other layers have the published ones."""
    recipe = toy.recipe(workshop.folder / "backbone", backbone={"fresh_layers": "last"})
    network = build_network(recipe, workshop.backbone, [task_data.task for task_data in workshop.data])
    for name, tensor in workshop.backbone.tensors.items():
        if name in network.state_dict():
            assert torch.equal(network.state_dict()[name], tensor) != name.startswith("encoder.layers.1."), name
    assert 0.017 < network.get_parameter("encoder.layers.1.query.weight").std().item() < 0.023
    assert not network.get_parameter("encoder.layers.1.bottleneck.up.weight").any()


@pytest.mark.parametrize("switches", [{"film_rank": 32}, {"task_size": 64}])
def test_eight_tasks_add_at_most_12_percent_to_minilm(switches: dict[str, Any]) -> None:
    """All our modules with low-rank FiLM or short task vectors add at most 12 % to all-MiniLM-L6-v2, without heads."""
    published = config_from_published(json.loads((MINILM / "config.json").read_text()))
    layout: dict[str, Any] = {
        "attention": "all",
        "layer_norm": "upper",
        "bottleneck": "upper",
        "bottleneck_size": "1/3",
    }
    config = _network(published, attention_blocks="published", pooling=True, **layout, **switches)
    with torch.device("meta"):
        counts = parameter_counts(Network(config, classifiers(8)))
        full = parameter_counts(Network(replace(config, film_rank=0, task_size=0), classifiers(8)))
    assert counts.conditional <= 0.12 * counts.backbone
    assert full.conditional > 0.12 * full.backbone


def test_a_recipe_may_have_shares_and_sets() -> None:
    """Shares, sets of layers and switches are valid in a recipe."""
    fields = toy.fields("backbone", conditioning={"layer_norm": "upper", "pooling": True, "film_rank": 4})
    fields["backbone"]["frozen_layers"] = "1/2"
    recipe = Recipe.model_validate(fields)
    network = recipe.network(replace(SIX, num_layers=2))
    assert network.conditional_layer_norm == (1,)
    assert network.conditional_pooling
    assert network.film_rank == 4
