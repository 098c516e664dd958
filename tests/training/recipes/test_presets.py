"""Presets: their keys, and the sizes and shares of the published code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from polytask.model.conditioning import ConditionalAttentionBias
from polytask.model.config import AlignmentForm, BottleneckForm, LayerNormForm, NetworkConfig, ParameterCounts, Pooling
from polytask.model.network import Network, freeze_backbone, parameter_counts
from polytask.model.tasks import Kind
from polytask.training.backbone import build_network
from polytask.training.recipes.architecture import Start
from polytask.training.recipes.presets import Preset, with_preset
from polytask.training.recipes.schema import Recipe, RegressionLoss
from tests.model.support.networks import classifiers
from tests.training.conftest import Workshop
from tests.training.support import toy

# The published cased BERTs.
BASE = NetworkConfig(
    vocab_size=28996, hidden_size=768, num_layers=12, num_heads=12, intermediate_size=3072, max_positions=512
)
LARGE = NetworkConfig(
    vocab_size=28996, hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=4096, max_positions=512
)


def _recipe(preset: str, kinds: tuple[Kind, ...] = (Kind.CLASSIFICATION,), /, **sections: Any) -> Recipe:
    """A recipe that sets no layers or forms itself."""
    fields = toy.fields("backbone", kinds)
    fields["backbone"], fields["conditioning"] = {"name": "backbone"}, {"preset": preset}
    for section, changes in sections.items():
        fields[section] = fields.get(section, {}) | changes
    return Recipe.model_validate(fields)


def _counts(recipe: Recipe, backbone: NetworkConfig) -> ParameterCounts:
    """The numbers of parameters of a network of eight tasks, which is not built."""
    with torch.device("meta"):
        network = Network(recipe.network(backbone), classifiers(8))
    frozen, quirk = recipe.backbone.num_frozen(backbone), recipe.conditioning.freeze_attention_film
    freeze_backbone(network, frozen, attention_film=quirk)
    return parameter_counts(network)


def test_released_base_adds_what_the_released_code_adds() -> None:
    """Eight tasks on BERT-base have BERT's parameters and 19,740,688 more."""
    counts = _counts(_recipe("released-base"), BASE)
    assert (counts.backbone, counts.conditional) == (108_310_272, 19_740_688)


def test_released_large_adds_what_the_released_code_adds() -> None:
    """Eight tasks on BERT-large have BERT's parameters and 146,738,936 more."""
    counts = _counts(_recipe("released-large"), LARGE)
    assert (counts.backbone, counts.conditional) == (333_579_264, 146_738_936)


@pytest.mark.parametrize(
    ("preset", "backbone", "frozen", "share"),
    [
        ("released-base", BASE, "5/12", 0.545),
        ("released-base", BASE, "1/2", 0.489),
        ("released-large", LARGE, "1/2", 0.622),
    ],
)
def test_trainable_shares_are_those_of_the_released_code(
    preset: str, backbone: NetworkConfig, frozen: str, share: float
) -> None:
    """With layers 0 to 4, 0 to 5 and 0 to 11 frozen, the trainable share without heads is the released code's."""
    counts = _counts(_recipe(preset, backbone={"frozen_layers": frozen}), backbone)
    assert (counts.trainable - counts.heads) / (counts.total - counts.heads) == pytest.approx(share, abs=5e-4)


@pytest.mark.parametrize(("preset", "backbone"), [("released-base", BASE), ("released-large", LARGE)])
def test_released_layouts(preset: str, backbone: NetworkConfig) -> None:
    """Attention is conditional in all layers, layer norms in the upper half, in the released forms and sizes."""
    recipe = _recipe(preset, (Kind.CLASSIFICATION, Kind.REGRESSION))
    network, depth = recipe.network(backbone), backbone.num_layers
    assert network.pooling is Pooling.CLS
    assert network.conditional_alignment
    assert network.alignment_form is AlignmentForm.FILM
    assert network.layer_norm_form is LayerNormForm.SCALE
    assert network.conditional_attention == tuple(range(depth))
    assert network.conditional_layer_norm == tuple(range(depth // 2, depth))
    assert network.attention_block_width == {768: 22, 1024: 16}[backbone.hidden_size]
    assert network.bottleneck_size == backbone.hidden_size // 3
    assert not network.conditional_pooling
    assert recipe.conditioning.start is Start.RANDOM
    assert recipe.conditioning.freeze_attention_film
    assert recipe.losses.task_mean
    assert [task.regression for task in recipe.tasks] == [RegressionLoss.SCALED, RegressionLoss.MSE]


def test_base_and_large_differ_in_their_bottlenecks() -> None:
    """Base has one bottleneck behind its fresh last layer; large a ladder over all published layers."""
    base, large = _recipe("released-base"), _recipe("released-large")
    assert base.network(BASE).bottleneck_form is BottleneckForm.ADAPTER
    assert base.network(BASE).conditional_bottleneck == base.backbone.fresh(BASE) == (11,)
    assert base.backbone.num_frozen(BASE) == 5
    assert large.network(LARGE).bottleneck_form is BottleneckForm.LADDER
    assert large.network(LARGE).conditional_bottleneck == tuple(range(24))
    assert large.backbone.fresh(LARGE) == ()
    assert large.backbone.num_frozen(LARGE) == 12


@pytest.mark.parametrize(("preset", "backbone"), [("paper-base", BASE), ("paper-large", LARGE)])
def test_the_papers_forms(preset: str, backbone: NetworkConfig) -> None:
    """The paper has a matrix for the alignment, attention in the upper half, FiLM's bias in use, and no fresh layer."""
    recipe = _recipe(preset)
    network, depth = recipe.network(backbone), backbone.num_layers
    assert network.alignment_form is AlignmentForm.MATRIX
    assert network.layer_norm_form is LayerNormForm.BIAS_IN_SCALE
    assert network.conditional_attention == network.conditional_layer_norm == tuple(range(depth // 2, depth))
    assert recipe.backbone.num_frozen(backbone) == depth // 2
    assert recipe.backbone.fresh(backbone) == ()
    assert not recipe.conditioning.freeze_attention_film


@pytest.mark.parametrize("preset", Preset)
def test_the_recipes_own_keys_win(preset: Preset) -> None:
    """A key in the recipe overrides the preset's, in every section; the others are the preset's."""
    recipe = _recipe(
        preset,
        (Kind.REGRESSION,),
        conditioning={"layer_norm": [0], "layer_norm_form": "both"},
        backbone={"pooling": "mean"},
        losses={"task_mean": False},
    )
    assert recipe.network(BASE).conditional_layer_norm == (0,)
    assert recipe.network(BASE).layer_norm_form is LayerNormForm.BOTH
    assert recipe.backbone.pooling is Pooling.MEAN
    assert not recipe.losses.task_mean
    assert recipe.conditioning.start is Start.RANDOM
    assert recipe.tasks[0].regression is RegressionLoss.MSE
    fields = toy.fields("backbone", [Kind.REGRESSION])
    fields["conditioning"] = {"preset": preset}
    fields["tasks"][0]["regression"] = "place"
    assert Recipe.model_validate(fields).tasks[0].regression is RegressionLoss.SCALED


@pytest.mark.parametrize(
    "fields",
    [
        {"conditioning": {}},
        {},
        {"conditioning": 3},
        {"conditioning": {"preset": "mine"}},
        {"conditioning": {"preset": ["released-base"]}},
        {"conditioning": {"preset": "released-base"}},
        {"conditioning": {"preset": "released-base"}, "tasks": 3},
        {"conditioning": {"preset": "released-base"}, "tasks": [3]},
        {"conditioning": {"preset": "released-base"}, "backbone": "bert", "tasks": []},
    ],
)
def test_invalid_sections_are_left_unchanged(fields: dict[str, Any]) -> None:
    """Without a preset, or with invalid sections, the fields stay unchanged for the recipe's checks."""
    assert with_preset(fields) == fields


def _toy_preset(workshop: Workshop, preset: Preset) -> Network:
    fields = toy.fields(workshop.folder / "backbone")
    fields["backbone"] = {"name": fields["backbone"]["name"], "max_length": 48}
    # 32 / 48 is no number of blocks.
    fields["conditioning"] = {"preset": preset, "attention_blocks": 4}
    return build_network(
        Recipe.model_validate(fields), workshop.backbone, [task_data.task for task_data in workshop.data]
    )


@pytest.mark.parametrize("preset", Preset)
def test_a_preset_starts_at_random_around_the_published_weights(workshop: Workshop, preset: Preset) -> None:
    """New matrices are random, R is zero, and the backbone has the published weights except in a fresh last layer."""
    network = _toy_preset(workshop, preset)
    fresh = {
        name
        for name, tensor in workshop.backbone.tensors.items()
        if not torch.equal(network.state_dict()[name], tensor)
    }
    last = {name for name in workshop.backbone.tensors if name.startswith("encoder.layers.1.")}
    assert fresh == (last if preset is Preset.RELEASED_BASE else set())
    for module in network.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.any()
        if isinstance(module, ConditionalAttentionBias):
            assert not module.matrix.any()


def test_a_fresh_layer_is_drawn_like_berts(workshop: Workshop) -> None:
    """A fresh layer has matrices of standard deviation 0.02, biases 0, and layer norms 1 and 0."""
    layer = _toy_preset(workshop, Preset.RELEASED_BASE).encoder.layers[1]
    for name, parameter in layer.named_parameters():
        if name in {"attention_norm.weight", "output_norm.weight"}:
            assert torch.equal(parameter, torch.ones_like(parameter))
        elif name.endswith("bias"):
            assert not parameter.any()
        elif name.startswith(("query", "key", "value", "attention_output", "expand", "contract")):
            assert 0.017 < parameter.std().item() < 0.023
