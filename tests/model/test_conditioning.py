"""Tests of model/conditioning.py, against the equations of CA-MTL written out."""

from __future__ import annotations

from typing import TypeVar, cast

import pytest
import torch
from torch import Tensor, nn

from model.conditioning import (
    Conditional,
    ConditionalAttentionBias,
    ConditionalBottleneck,
    ConditionalLayerNorm,
    FiLM,
    TaskEmbedding,
    modulate,
)
from tests.model import literal

# Hidden size and longest row, with the hidden size / longest row blocks of the published model.
GEOMETRIES = [(768, 128), (1024, 128), (768, 256)]
TASKS = 3


Module = TypeVar("Module", bound=nn.Module)


def _randomised(module: Module) -> Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def _block_diagonal(module: ConditionalAttentionBias, task: Tensor) -> Tensor:
    """The row chunks of (1 + g) R + b as the direct sum that the paper writes, cut to the longest row."""
    scale, shift = literal.film(module.film, task)
    max_length, width = module.matrix.shape
    chunks = torch.split((1 + scale) * module.matrix + shift, width)
    return cast(Tensor, torch.block_diag(*chunks))[:, :max_length]  # type: ignore[no-untyped-call]


def _attention_bias(size: int, max_length: int) -> ConditionalAttentionBias:
    return ConditionalAttentionBias(size, max_length, width=-(-max_length // (size // max_length)))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_film_is_zero_at_the_start() -> None:
    """A new FiLM says scale 0 and shift 0 for every task."""
    assert torch.equal(FiLM(8, 5)(torch.randn(TASKS, 8)), torch.zeros(TASKS, 2, 5))


def test_film_gives_the_scale_first() -> None:
    """The first half of the projection is the scale, the second the shift."""
    film, tasks = _randomised(FiLM(8, 5)), torch.randn(TASKS, 8)
    for task, both in zip(tasks, film(tasks), strict=True):
        torch.testing.assert_close(both, torch.stack(literal.film(film, task)))


def test_modulation_spreads_over_the_tokens() -> None:
    """Every token of a row gets (1 + scale) * state + shift of that row."""
    states, film = torch.randn(2, 4, 5), torch.randn(2, 2, 5)
    modulated = modulate(states, film)
    for row in range(2):
        for token in range(4):
            expected = (1 + film[row, 0]) * states[row, token] + film[row, 1]
            torch.testing.assert_close(modulated[row, token], expected)


def test_alignment_is_the_identity_at_the_start() -> None:
    """A new FiLM leaves the states as they are, to the bit."""
    states = torch.randn(TASKS, 4, 5)
    assert torch.equal(modulate(states, FiLM(8, 5)(torch.randn(TASKS, 8))), states)


def test_attention_bias_is_zero_at_the_start() -> None:
    """A new attention bias adds exactly nothing to the scores."""
    bias = ConditionalAttentionBias(8, 12, 4)
    assert not bias(bias.table(torch.randn(TASKS, 8)), 12).any()


def test_layer_norm_is_the_backbones_at_the_start() -> None:
    """A new conditional layer norm equals the plain layer norm with the same weight and bias."""
    conditional, states = ConditionalLayerNorm(16, 1e-12, task_size=8), torch.randn(TASKS, 4, 16)
    with torch.no_grad():
        conditional.weight.normal_()
        conditional.bias.normal_()
    plain = nn.functional.layer_norm(states, (16,), conditional.weight, conditional.bias, 1e-12)
    torch.testing.assert_close(conditional(states, conditional.table(torch.randn(TASKS, 8))), plain, atol=1e-6, rtol=0)


def test_bottleneck_is_the_identity_at_the_start() -> None:
    """A new bottleneck leaves the states as they are, to the bit, whatever its FiLM and `down` say."""
    bottleneck, states = ConditionalBottleneck(8, 16, 4), torch.randn(TASKS, 4, 16)
    _randomised(bottleneck.film)
    assert torch.equal(bottleneck(states, bottleneck.table(torch.randn(TASKS, 8))), states)


def test_task_vectors_start_apart_and_untransformed() -> None:
    """At the start tasks have different vectors, and the layers read the same vectors as the alignment."""
    raw, transformed = TaskEmbedding(TASKS, 8)()
    assert torch.equal(raw, transformed)
    assert torch.pdist(raw).min() > 0


def test_transform_is_one_linear_layer() -> None:
    """The layers' task vector is A e + a."""
    embedding = _randomised(TaskEmbedding(TASKS, 8))
    raw, transformed = embedding()
    assert torch.equal(raw, embedding.weight)
    torch.testing.assert_close(transformed, literal.linear(embedding.transform, raw))


@pytest.mark.parametrize(("size", "max_length"), GEOMETRIES)
def test_attention_bias_is_block_diagonal(size: int, max_length: int) -> None:
    """The bias equals the block-diagonal sum of the row chunks of (1 + g) R + b, cut to the longest row."""
    module = _randomised(_attention_bias(size, max_length))
    tasks = torch.randn(TASKS, size) * 0.05
    bias = module(module.table(tasks), max_length)
    assert bias.shape == (TASKS, max_length, max_length)
    for task, of_task in zip(tasks, bias, strict=True):
        torch.testing.assert_close(of_task, _block_diagonal(module, task), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("size", "max_length"), GEOMETRIES)
def test_attention_bias_is_zero_between_blocks(size: int, max_length: int) -> None:
    """Two tokens of different blocks get exactly 0; two of one block get something."""
    module = _randomised(_attention_bias(size, max_length))
    block = torch.arange(max_length) // module.matrix.shape[1]
    same = block[:, None] == block
    bias = module(module.table(torch.randn(TASKS, size)), max_length)
    assert not bias[:, ~same].any()
    assert bias[:, same].all()


def test_literal_attention_bias_is_the_same_construction() -> None:
    """The loop of tests/model/literal.py and torch.block_diag build the same matrix."""
    module, task = _randomised(ConditionalAttentionBias(8, 10, 4)), torch.randn(8)
    torch.testing.assert_close(literal.attention_bias(module, task), _block_diagonal(module, task))


@pytest.mark.parametrize("length", [1, 21, 22, 23, 100])
def test_short_texts_use_the_first_rows_and_columns(length: int) -> None:
    """The bias of a short batch is the corner of the full one, to the bit."""
    module = _randomised(_attention_bias(768, 128))
    table = module.table(torch.randn(TASKS, 768))
    assert torch.equal(module(table, length), module(table, 128)[:, :length, :length])


def _normed(output: Tensor, affine: Tensor) -> Tensor:
    return (output - affine[:, 1:]) / affine[:, :1]


def test_layer_norm_has_mean_0_and_variance_1_under_its_affine() -> None:
    """With the row's scale and shift undone, every token has mean 0 and variance 1."""
    module = ConditionalLayerNorm(64, 1e-12, task_size=8)
    _randomised(module)
    affine = module.table(torch.randn(TASKS, 8))
    assert affine is not None
    # A scale near zero cannot be undone in float32.
    affine[:, 0] = torch.where(affine[:, 0].abs() < 0.05, 0.05, affine[:, 0])
    normed = _normed(module(torch.randn(TASKS, 5, 64) * 3 + 2, affine), affine)
    torch.testing.assert_close(normed.mean(-1), torch.zeros(TASKS, 5), atol=1e-4, rtol=0)
    torch.testing.assert_close(normed.var(-1, correction=0), torch.ones(TASKS, 5), atol=1e-3, rtol=0)


def test_scale_of_one_doubles_the_layer_norm() -> None:
    """Scale 1 and shift 0 double the weight and leave the bias, exactly."""
    module = ConditionalLayerNorm(16, 1e-12, task_size=8)
    with torch.no_grad():
        module.weight.normal_()
        module.bias.normal_()
    before = module.table(torch.randn(TASKS, 8))
    assert module.film is not None
    with torch.no_grad():
        module.film.projection.bias[:16] = 1
    after = module.table(torch.randn(TASKS, 8))
    assert before is not None
    assert after is not None
    assert torch.equal(after[:, 0], 2 * before[:, 0])
    assert torch.equal(after[:, 1], before[:, 1])
    states = torch.randn(TASKS, 5, 16)
    difference = module(states, after) - module(states, before)
    torch.testing.assert_close(difference, module(states, before) - module.bias, atol=1e-6, rtol=1e-6)


def test_layer_norm_conditions_scale_and_shift() -> None:
    """A row's output is weight * (1 + g) * n + bias + b of its own task."""
    module, tasks = _randomised(ConditionalLayerNorm(16, 1e-12, task_size=8)), torch.randn(TASKS, 8)
    states = torch.randn(TASKS, 5, 16)
    outputs = module(states, module.table(tasks))
    for task, row, output in zip(tasks, states, outputs, strict=True):
        torch.testing.assert_close(output, literal.layer_norm(module, row, task), atol=1e-5, rtol=1e-5)


def test_plain_layer_norm_has_no_table() -> None:
    """Where conditioning is switched off, the layer norm is torch's own."""
    module, states = ConditionalLayerNorm(16, 1e-5, task_size=None), torch.randn(TASKS, 5, 16)
    assert module.table(torch.randn(TASKS, 8)) is None
    assert torch.equal(module(states, None), nn.LayerNorm(16)(states))


def test_bottleneck_follows_its_equation() -> None:
    """A row's output is h + up(gelu(down((1 + g) h + b))) of its own task."""
    module, tasks = _randomised(ConditionalBottleneck(8, 16, 4)), torch.randn(TASKS, 8)
    states = torch.randn(TASKS, 5, 16)
    outputs = module(states, module.table(tasks))
    for task, row, output in zip(tasks, states, outputs, strict=True):
        torch.testing.assert_close(output, literal.bottleneck(module, row, task), atol=1e-4, rtol=1e-5)


def test_only_what_comes_on_top_of_the_backbone_is_conditional() -> None:
    """A conditional layer norm's weight and bias are the backbone's, its FiLM is not."""
    module = ConditionalLayerNorm(16, 1e-12, task_size=8)
    assert not isinstance(module, Conditional)
    assert isinstance(module.film, Conditional)
    for kind in (TaskEmbedding, FiLM, ConditionalAttentionBias, ConditionalBottleneck):
        assert issubclass(kind, Conditional)
