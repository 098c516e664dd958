"""Freezing: which parameters stay fixed to the bit, and which learn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from polytask.model.conditioning import Conditional
from polytask.model.config import BottleneckForm, NetworkConfig, ParameterCounts, Pooling
from polytask.model.network import Network, backbone_parameters, freeze_backbone, parameter_counts
from tests.model.support.networks import build, classifiers, random_batch


def _backbone_size(config: NetworkConfig, num_layers: int) -> int:
    """Number of parameters of a BERT's embeddings and lowest layers, counted by hand."""
    size, inner = config.hidden_size, config.intermediate_size
    embeddings = (config.vocab_size + config.max_positions + config.num_segments + 2) * size
    layer = 4 * (size * size + size) + (size * inner + inner) + (inner * size + size) + 2 * 2 * size
    return embeddings + num_layers * layer


@pytest.mark.parametrize("num_layers", [0, 1, 2])
def test_freezing_fixes_the_backbone_alone(num_layers: int, tiny_network: Network) -> None:
    """Exactly the embeddings and the backbone's part of the lowest layers are frozen."""
    total = sum(parameter.numel() for parameter in tiny_network.parameters())
    freeze_backbone(tiny_network, num_layers)
    trainable = sum(parameter.numel() for parameter in tiny_network.parameters() if parameter.requires_grad)
    assert trainable == total - _backbone_size(tiny_network.config, num_layers)
    for module in tiny_network.modules():
        if isinstance(module, Conditional):
            assert all(parameter.requires_grad for parameter in module.parameters())


def test_the_released_filter_misses_one_projection(tiny_network: Network) -> None:
    """`attention_film` also freezes the attention's FiLM in the frozen layers, but not its matrix R nor FiLM elsewhere."""
    freeze_backbone(tiny_network, 1)
    fixed = {name for name, parameter in tiny_network.named_parameters() if not parameter.requires_grad}
    freeze_backbone(tiny_network, 1, attention_film=True)
    now = {name for name, parameter in tiny_network.named_parameters() if not parameter.requires_grad}
    film = "encoder.layers.0.attention_bias.film.projection"
    assert now - fixed == {f"{film}.weight", f"{film}.bias"}


@pytest.mark.parametrize("pooling", Pooling)
@pytest.mark.parametrize("form", BottleneckForm)
def test_parameters_are_counted_by_what_they_belong_to(
    pooling: Pooling, form: BottleneckForm, tiny_config: NetworkConfig
) -> None:
    """Backbone, conditional modules and heads add up to the network; the backbone has the size of a published BERT."""
    network = build(replace(tiny_config, pooling=pooling, bottleneck_form=form), classifiers(7))
    freeze_backbone(network, 1)
    counts, size = parameter_counts(network), tiny_config.hidden_size
    pooler = size * size + size if pooling is Pooling.CLS else 0
    assert counts.backbone == _backbone_size(tiny_config, 2) + pooler
    pooled = 3 * size if pooling is Pooling.PAIRS else size
    assert counts.heads == 5 * 2 * (pooled + 1) + 2 * 2 * (size + 1)  # five tasks on texts, two on words
    assert counts.total == sum(parameter.numel() for parameter in network.parameters())
    assert counts.trainable == counts.total - _backbone_size(tiny_config, 1)


def test_counts_are_written_with_their_shares() -> None:
    """The line for people has every count, the share of the conditional modules, and the share that is trainable."""
    line = str(ParameterCounts(backbone=2_000_000, conditional=250_000, heads=250_000, trainable=625_000))
    assert line == (
        "2,500,000 parameters, 625,000 of them trainable (25.00%): "
        "backbone 2,000,000, conditional 250,000 (12.50% of the backbone), heads 250,000"
    )


@pytest.mark.parametrize("num_layers", [-1, 3])
def test_layers_that_do_not_exist_cannot_be_frozen(num_layers: int, tiny_network: Network) -> None:
    """Freezing fewer than zero or more than all layers is refused."""
    with pytest.raises(ValueError, match=f"cannot freeze {num_layers} of 2 layers"):
        freeze_backbone(tiny_network, num_layers)


def _step(network: Network, optimizer: torch.optim.Optimizer) -> None:
    outputs = network(random_batch(network.config, (64,) * 7, range(7)), network.condition())
    loss = outputs.sentence.square().sum() + outputs.token.square().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _changed(network: Network, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}


def _copy(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_a_step_changes_all_but_the_frozen(tiny_network: Network) -> None:
    """One step with weight decay changes no bit of a frozen tensor, and every other tensor."""
    freeze_backbone(tiny_network, 1)
    before = _copy(tiny_network)
    _step(tiny_network, torch.optim.AdamW(tiny_network.parameters(), lr=0.01, weight_decay=0.1))
    trainable = {name for name, parameter in tiny_network.named_parameters() if parameter.requires_grad}
    assert _changed(tiny_network, before) == trainable
    assert "encoder.layers.0.attention_bias.film.projection.weight" in trainable
    assert "encoder.layers.0.query.weight" not in trainable


def test_a_new_network_learns_everywhere_after_two_steps(tiny_config: NetworkConfig) -> None:
    """In a new network the first step does not reach parameters behind a zero; the second step does."""
    network = build(tiny_config, classifiers(7))
    freeze_backbone(network, 2)
    before = _copy(network)
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    # Without weight decay, so that only a gradient can move a parameter.
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0)
    _step(network, optimizer)
    waiting = trainable - _changed(network, before)
    assert all(name.startswith("task_embedding.") or ".bottleneck." in name for name in waiting)
    assert not any(name.endswith((".up.weight", ".up.bias")) for name in waiting)
    _step(network, optimizer)
    assert _changed(network, before) == trainable


def test_backbone_and_conditional_modules_share_out_the_encoder(tiny_network: Network) -> None:
    """Each parameter of the encoder belongs either to the backbone or to a conditional module."""
    backbone = {id(parameter) for parameter in backbone_parameters(tiny_network.encoder)}
    conditional = {
        id(parameter)
        for module in tiny_network.encoder.modules()
        if isinstance(module, Conditional)
        for parameter in module.parameters()
    }
    assert not backbone & conditional
    assert backbone | conditional == {id(parameter) for parameter in tiny_network.encoder.parameters()}


def test_the_embeddings_may_learn(tiny_network: Network) -> None:
    """With `embeddings=False` only layers are frozen; without layers the whole network learns."""
    freeze_backbone(tiny_network, 0, embeddings=False)
    assert all(parameter.requires_grad for parameter in tiny_network.parameters())
    freeze_backbone(tiny_network, 1, embeddings=False)
    fixed = {name.split(".")[1] for name, parameter in tiny_network.named_parameters() if not parameter.requires_grad}
    assert fixed == {"layers"}
