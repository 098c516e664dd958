"""Conditional modules, against the equations of CA-MTL written out."""

from __future__ import annotations

from typing import TypeVar, cast

import pytest
import torch
from torch import Tensor, nn

from polytask.model.conditioning import (
    AlignmentMatrix,
    Conditional,
    ConditionalAttentionBias,
    ConditionalBottleneck,
    ConditionalLayerNorm,
    ConditionalPooling,
    FiLM,
    TaskEmbedding,
    TaskProjection,
    attention_masks,
    modulate,
    scaled,
)
from polytask.model.config import BottleneckForm, LayerNormForm
from polytask.model.heads import pool_mean
from tests.model.support import literal

# Hidden size and longest row, with the hidden size / longest row blocks of the published model.
GEOMETRIES = [(768, 128), (1024, 128), (768, 256)]
TASKS = 3
RANKS = [0, 2]


Module = TypeVar("Module", bound=nn.Module)


def _randomised(module: Module) -> Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def _block_diagonal(module: ConditionalAttentionBias, task: Tensor) -> Tensor:
    """The row chunks of (1 + g) R + b as the paper's direct sum, cut to the longest row."""
    scale, shift = literal.film(module.film, task)
    max_length, width = module.matrix.shape
    chunks = torch.split((1 + scale) * module.matrix + shift, width)
    return cast(Tensor, torch.block_diag(*chunks))[:, :max_length]  # type: ignore[no-untyped-call]


def _attention_bias(size: int, max_length: int) -> ConditionalAttentionBias:
    return ConditionalAttentionBias(size, max_length, width=-(-max_length // (size // max_length)))


def _bias(module: ConditionalAttentionBias, tasks: Tensor, length: int) -> Tensor:
    """The biases added to the scores of rows of `length` tokens, one for each task: [T, L, L]."""
    matrices, films, padding = module.blocks()[None], module.table(tasks)[:, None], torch.zeros(len(tasks), length)
    (masks,) = attention_masks(matrices, films, padding, module.matrix.shape[1])
    return masks[:, 0]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("rank", RANKS)
def test_film_is_the_identity_at_the_start(rank: int) -> None:
    """A new FiLM has factor 1 and shift 0 for every task, for any rank."""
    identity = torch.stack([torch.ones(TASKS, 5), torch.zeros(TASKS, 5)], dim=1)
    assert torch.equal(FiLM(8, 5, rank)(torch.randn(TASKS, 8)), identity)


@pytest.mark.parametrize("rank", RANKS)
def test_film_gives_the_scale_first(rank: int) -> None:
    """The first half of the projection is the scale, to which 1 is added, the second the shift."""
    film, tasks = _randomised(FiLM(8, 5, rank)), torch.randn(TASKS, 8)
    for task, both in zip(tasks, film(tasks), strict=True):
        scale, shift = literal.film(film, task)
        torch.testing.assert_close(both, torch.stack([1 + scale, shift]))


def test_low_rank_is_cheaper() -> None:
    """E -> rank -> 2 n has rank (E + 2 n) + 2 n parameters, and its output for many tasks has that rank."""
    film = _randomised(FiLM(64, 32, rank=2))
    assert sum(parameter.numel() for parameter in film.parameters()) == 2 * (64 + 2 * 32) + 2 * 32
    output = film(torch.randn(10, 64)).flatten(1)
    assert torch.linalg.matrix_rank(output - film(torch.zeros(1, 64)).flatten(1), atol=1e-3) == 2


def test_low_rank_learns_at_once() -> None:
    """In the first step the zero matrix has a gradient, as its input is as large as the task vectors."""
    film, tasks = FiLM(384, 16, rank=8), torch.randn(TASKS, 384) * 0.1
    assert film.reduce is not None
    assert 0.05 < film.reduce(tasks).std().item() < 0.2
    torch.autograd.backward(film(tasks).square().sum() + film(tasks).sum())
    assert film.projection.weight.grad is not None
    assert film.projection.weight.grad.any()


def test_modulation_spreads_over_the_tokens() -> None:
    """Every token of a row gets factor * state + shift of that row."""
    states, film = torch.randn(2, 4, 5), torch.randn(2, 2, 5)
    modulated = modulate(states, film)
    for row in range(2):
        for token in range(4):
            expected = film[row, 0] * states[row, token] + film[row, 1]
            torch.testing.assert_close(modulated[row, token], expected)


def test_alignment_is_the_identity_at_the_start() -> None:
    """A new FiLM leaves the states unchanged, to the bit."""
    states = torch.randn(TASKS, 4, 5)
    assert torch.equal(modulate(states, FiLM(8, 5)(torch.randn(TASKS, 8))), states)


def test_alignment_matrix_is_the_identity_at_the_start() -> None:
    """A new alignment matrix under a new FiLM leaves the states unchanged."""
    states, film = torch.randn(TASKS, 4, 5), FiLM(8, 5)(torch.randn(TASKS, 8))
    torch.testing.assert_close(AlignmentMatrix(5)(states, film), states)


def test_alignment_matrix_is_modulated_for_each_task() -> None:
    """A row's states are multiplied by (1 + g) R + b of its own task, written out as a matrix."""
    module, states, film = _randomised(AlignmentMatrix(6)), torch.randn(TASKS, 4, 6), torch.randn(TASKS, 2, 6)
    aligned = module(states, film)
    for row in range(TASKS):
        matrix = film[row, 0] * module.matrix + film[row, 1]
        torch.testing.assert_close(aligned[row], states[row] @ matrix, atol=1e-5, rtol=1e-5)


def test_attention_bias_is_zero_at_the_start() -> None:
    """A new attention bias adds exactly nothing to the scores."""
    bias = ConditionalAttentionBias(8, 12, 4)
    assert not _bias(bias, torch.randn(TASKS, 8), 12).any()


def test_layer_norm_is_the_backbones_at_the_start() -> None:
    """A new conditional layer norm equals the plain layer norm with the same weight and bias."""
    conditional, states = ConditionalLayerNorm(16, 1e-12, task_size=8), torch.randn(TASKS, 4, 16)
    with torch.no_grad():
        conditional.weight.normal_()
        conditional.bias.normal_()
    plain = nn.functional.layer_norm(states, (16,), conditional.weight, conditional.bias, 1e-12)
    torch.testing.assert_close(conditional(states, conditional.table(torch.randn(TASKS, 8))), plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", BottleneckForm)
def test_bottleneck_is_zero_at_the_start(form: BottleneckForm) -> None:
    """A new bottleneck adds exactly nothing, for any FiLM and `down`."""
    bottleneck, states = ConditionalBottleneck(8, 16, 4, form=form), torch.randn(TASKS, 4, 16)
    _randomised(bottleneck.film)
    assert not bottleneck(states, bottleneck.table(torch.randn(TASKS, 8))).any()


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
    bias = _bias(module, tasks, max_length)
    assert bias.shape == (TASKS, max_length, max_length)
    for task, of_task in zip(tasks, bias, strict=True):
        torch.testing.assert_close(of_task, _block_diagonal(module, task), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("size", "max_length"), GEOMETRIES)
def test_attention_bias_is_zero_between_blocks(size: int, max_length: int) -> None:
    """Two tokens of different blocks get exactly 0; two tokens of one block get another value."""
    module = _randomised(_attention_bias(size, max_length))
    block = torch.arange(max_length) // module.matrix.shape[1]
    same = block[:, None] == block
    bias = _bias(module, torch.randn(TASKS, size), max_length)
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
    tasks = torch.randn(TASKS, 768)
    assert torch.equal(_bias(module, tasks, length), _bias(module, tasks, 128)[:, :length, :length])


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


@pytest.mark.parametrize("form", LayerNormForm)
@pytest.mark.parametrize("rank", RANKS)
def test_layer_norm_follows_its_equation(form: LayerNormForm, rank: int) -> None:
    """A row's output is gamma_eff * n + beta_eff of its own task, in each form."""
    module, tasks = _randomised(ConditionalLayerNorm(16, 1e-12, 8, rank, form)), torch.randn(TASKS, 8)
    states = torch.randn(TASKS, 5, 16)
    outputs = module(states, module.table(tasks))
    for task, row, output in zip(tasks, states, outputs, strict=True):
        torch.testing.assert_close(output, literal.layer_norm(module, row, task), atol=1e-5, rtol=1e-5)


def test_released_layer_norm_shifts_nothing() -> None:
    """In the released form the shift is the backbone's bias for every task."""
    module = _randomised(ConditionalLayerNorm(16, 1e-12, 8, form=LayerNormForm.SCALE))
    affine = module.table(torch.randn(TASKS, 8))
    assert affine is not None
    assert torch.equal(affine[:, 1], module.bias.expand(TASKS, 16))
    assert torch.pdist(affine[:, 0]).min() > 0.1


def test_plain_layer_norm_has_no_table() -> None:
    """Without conditioning the layer norm is torch's."""
    module, states = ConditionalLayerNorm(16, 1e-5, task_size=None), torch.randn(TASKS, 5, 16)
    assert module.table(torch.randn(TASKS, 8)) is None
    assert torch.equal(module(states, None), nn.LayerNorm(16)(states))


@pytest.mark.parametrize("form", BottleneckForm)
@pytest.mark.parametrize("rank", RANKS)
def test_bottleneck_follows_its_equation(form: BottleneckForm, rank: int) -> None:
    """A row's output is up(act(down((1 + g) h + b))) of its own task, in each form."""
    module, tasks = _randomised(ConditionalBottleneck(8, 16, 4, rank, form)), torch.randn(TASKS, 8)
    states = torch.randn(TASKS, 5, 16)
    outputs = module(states, module.table(tasks))
    for task, row, output in zip(tasks, states, outputs, strict=True):
        torch.testing.assert_close(output, literal.narrow(module, row, task), atol=1e-4, rtol=1e-5)


def test_released_bottleneck_is_linear() -> None:
    """Without an activation the middle of two inputs gives the middle of their outputs; with one it does not."""
    tasks, one, other = torch.randn(TASKS, 8), torch.randn(TASKS, 5, 16), torch.randn(TASKS, 5, 16)
    for form, linear in ((BottleneckForm.LADDER, True), (BottleneckForm.RESIDUAL, False)):
        module = _randomised(ConditionalBottleneck(8, 16, 4, form=form))
        table = module.table(tasks)
        middle = (module(one, table) + module(other, table)) / 2
        assert torch.allclose(module((one + other) / 2, table), middle, atol=1e-3) == linear


def test_pooling_is_the_mean_at_the_start() -> None:
    """A new query weights all tokens alike, and padding not at all."""
    module, states = ConditionalPooling(8, 16), torch.randn(TASKS, 6, 16)
    is_token = torch.arange(6) < torch.tensor([[1], [4], [6]])
    pooled = module(states, is_token, module.table(torch.randn(TASKS, 8)))
    torch.testing.assert_close(pooled, pool_mean(states, is_token), atol=1e-6, rtol=0)


def test_pooling_prefers_what_the_query_points_at() -> None:
    """A long query picks the real token that lies in its direction."""
    states = torch.eye(4)[None].repeat(2, 1, 1)
    is_token = torch.tensor([[True, True, True, False], [True, True, True, True]])
    query = torch.tensor([[0.0, 90.0, 0.0, 99.0]]).repeat(2, 1)
    pooled = ConditionalPooling(8, 4)(states, is_token, query)
    torch.testing.assert_close(pooled, torch.eye(4)[[1, 3]], atol=0.02, rtol=0)


def test_only_what_comes_on_top_of_the_backbone_is_conditional() -> None:
    """A conditional layer norm's weight and bias are the backbone's, its FiLM is conditional."""
    module = ConditionalLayerNorm(16, 1e-12, task_size=8)
    assert not isinstance(module, Conditional)
    assert isinstance(module.film, Conditional)
    kinds = (TaskEmbedding, TaskProjection, AlignmentMatrix, ConditionalAttentionBias, ConditionalBottleneck)
    for kind in (*kinds, ConditionalPooling):
        assert issubclass(kind, Conditional)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_scaling_rounds_once_where_nobody_learns(kind: torch.dtype) -> None:
    """`scaled` rounds once in bfloat16 without gradients; in float32 it gives the same bits with and without them."""
    states, scale, shift = (torch.randn(3, 5, 8).to(kind), *torch.randn(2, 3, 1, 8).to(kind))
    with torch.no_grad():
        found = scaled(states, scale, shift)
    exact = states.double() * scale.double() + shift.double()
    learning = scaled(states.requires_grad_(), scale, shift).detach()
    assert found.dtype == learning.dtype == kind
    assert (found - exact).abs().mean() <= (learning - exact).abs().mean()
    assert torch.equal(found, exact.to(kind) if kind == torch.bfloat16 else learning)
