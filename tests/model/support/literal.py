"""Literal encoder: the equations one text, one task and one head at a time, without folding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from polytask.model.conditioning import (
    ConditionalAttentionBias,
    ConditionalBottleneck,
    ConditionalLayerNorm,
    TaskProjection,
)
from polytask.model.config import BottleneckForm, LayerNormForm
from polytask.model.encoder import Encoder, EncoderLayer
from polytask.model.network import Network


def projection(module: TaskProjection, task: Tensor) -> Tensor:
    """W z + b of a task vector z [E], or W (V z) + b for a low rank."""
    if module.reduce is not None:
        task = module.reduce.weight @ task
    return module.projection.weight @ task + module.projection.bias


def film(module: TaskProjection, task: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift from a task vector [E]."""
    both = projection(module, task)
    half = len(both) // 2
    return both[:half], both[half:]


def alignment(encoder: Encoder, states: Tensor, task: Tensor) -> Tensor:
    """(1 + g) x + b of each token, or in the paper's form x R_t with R_t = (1 + g) R + b, column by column."""
    if encoder.alignment is None:
        return states
    scale, shift = film(encoder.alignment, task)
    if encoder.alignment_matrix is None:
        return (1 + scale) * states + shift
    matrix = encoder.alignment_matrix.matrix.detach().clone()
    for column in range(len(matrix)):
        matrix[:, column] = (1 + scale[column]) * matrix[:, column] + shift[column]
    return states @ matrix


def attention_bias(module: ConditionalAttentionBias, task: Tensor) -> Tensor:
    """M(u) of CA-MTL, [M, M]: rows of A in chunks of its width, one after the other down the diagonal."""
    scale, shift = film(module.film, task)
    modulated = (1 + scale) * module.matrix + shift
    max_length, width = modulated.shape
    bias = torch.zeros(max_length, max_length)
    for row in range(max_length):
        block_start = row // width * width
        for index in range(width):
            if block_start + index < max_length:
                bias[row, block_start + index] = modulated[row, index]
    return bias


def layer_norm(module: ConditionalLayerNorm, states: Tensor, task: Tensor) -> Tensor:
    """gamma_eff * n + beta_eff: ours (1 + g) gamma, beta + b; released (1 + g) gamma + b, beta; paper (1 + g) gamma + beta, b."""
    mean = states.mean(-1, keepdim=True)
    variance = ((states - mean) ** 2).mean(-1, keepdim=True)
    normed = (states - mean) / torch.sqrt(variance + module.eps)
    if module.film is None:
        return module.weight * normed + module.bias
    scale, shift = film(module.film, task)
    scaled = (1 + scale) * module.weight
    gamma_eff, beta_eff = {
        LayerNormForm.BOTH: (scaled, module.bias + shift),
        LayerNormForm.SCALE: (scaled + shift, module.bias),
        LayerNormForm.BIAS_IN_SCALE: (scaled + module.bias, shift),
    }[module.form]
    return gamma_eff * normed + beta_eff


def narrow(module: ConditionalBottleneck, states: Tensor, task: Tensor) -> Tensor:
    """up(gelu(down((1 + g) h + b))); released: g and b come from W_e u + b_e, and there is no activation."""
    if module.form is BottleneckForm.RESIDUAL:
        scale, shift = film(module.film, task)
        return linear(module.up, gelu(linear(module.down, (1 + scale) * states + shift)))
    assert module.transform is not None
    scale, shift = film(module.film, linear(module.transform, task))
    return linear(module.up, linear(module.down, (1 + scale) * states + shift))


def gelu(states: Tensor) -> Tensor:
    """X times the normal distribution function of x."""
    return states * (1 + torch.erf(states / math.sqrt(2))) / 2


def linear(module: nn.Linear, states: Tensor) -> Tensor:
    """X W^T + b."""
    return states @ module.weight.T + module.bias


def attention(layer: EncoderLayer, states: Tensor, task: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d) + M(u)) V for each head, side by side, then the output projection."""
    query, key, value = (linear(module, states) for module in (layer.query, layer.key, layer.value))
    length, size = states.shape
    width = size // layer.num_heads
    bias = torch.zeros(length, length)
    if layer.attention_bias is not None:
        bias = attention_bias(layer.attention_bias, task)[:length, :length]
    contexts = []
    for head in range(layer.num_heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[:, part] @ key[:, part].T / math.sqrt(width) + bias
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        contexts.append(weights @ value[:, part])
    return linear(layer.attention_output, torch.cat(contexts, -1))


def layer(module: EncoderLayer, states: Tensor, task: Tensor) -> Tensor:
    """Attention and feed-forward network of a layer, with its bottleneck."""
    attended = layer_norm(module.attention_norm, states + attention(module, states, task), task)
    inner = linear(module.contract, gelu(linear(module.expand, attended)))
    output = layer_norm(module.output_norm, attended + inner, task)
    if module.bottleneck is None or module.bottleneck.form is BottleneckForm.LADDER:
        return output
    if module.bottleneck.form is BottleneckForm.RESIDUAL:
        return output + narrow(module.bottleneck, output, task)
    assert module.bottleneck.norm is not None
    return layer_norm(module.bottleneck.norm, narrow(module.bottleneck, output, task) + attended, task)


@torch.no_grad()
def encode(network: Network, input_ids: Tensor, segment_ids: Tensor, task_id: int) -> Tensor:
    """Token states [L, D] of one text without padding."""
    encoder = network.encoder
    embeddings = encoder.embeddings
    raw = network.task_embedding.weight[task_id]
    task = linear(network.task_embedding.transform, raw)
    assert embeddings.segment is not None
    states = embeddings.word.weight[input_ids] + embeddings.segment.weight[segment_ids]
    states = embeddings.norm(states + embeddings.position.weight[: len(input_ids)])
    states = alignment(encoder, states, raw)
    ladder = torch.zeros_like(states)
    for module in encoder.layers:
        assert isinstance(module, EncoderLayer)
        states = layer(module, states, task)
        if network.config.bottleneck_form is BottleneckForm.LADDER and module.bottleneck is not None:
            ladder = narrow(module.bottleneck, states + ladder, task)
    return ladder if network.config.bottleneck_form is BottleneckForm.LADDER else states


@torch.no_grad()
def pool(network: Network, states: Tensor, task_id: int) -> Tensor:
    """The state that the heads read, from a text's token states [L, D]: tanh(W h_0 + b), or a mean with or without a query."""
    if network.pooler is not None:
        return torch.tanh(linear(network.pooler, states[0]))
    if network.conditional_pooling is None:
        return states.mean(0)
    task = linear(network.task_embedding.transform, network.task_embedding.weight[task_id])
    query = projection(network.conditional_pooling.query, task)
    weights = torch.tensor([math.exp(float(query @ state) / math.sqrt(len(query))) for state in states])
    return (weights[:, None] * states).sum(0) / weights.sum()
