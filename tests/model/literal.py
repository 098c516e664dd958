"""The encoder once more, written as its equations stand: one text, one task, one head at a time, nothing folded."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model.conditioning import ConditionalAttentionBias, ConditionalBottleneck, ConditionalLayerNorm, FiLM
from model.encoder import EncoderLayer
from model.network import Network


def film(module: FiLM, task: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift from a task vector [D]."""
    both = module.projection.weight @ task + module.projection.bias
    half = len(both) // 2
    return both[:half], both[half:]


def attention_bias(module: ConditionalAttentionBias, task: Tensor) -> Tensor:
    """M(u) of CA-MTL, [M, M]: rows of A in chunks of its width, one after the other down the diagonal."""
    scale, shift = film(module.film, task)
    modulated = (1 + scale) * module.matrix + shift
    max_length, width = modulated.shape
    bias = torch.zeros(max_length, max_length)
    for row in range(max_length):
        block_start = row // width * width
        for place in range(width):
            if block_start + place < max_length:
                bias[row, block_start + place] = modulated[row, place]
    return bias


def layer_norm(module: ConditionalLayerNorm, states: Tensor, task: Tensor) -> Tensor:
    """gamma_eff * n + beta_eff, with gamma_eff = (1 + g) gamma and beta_eff = beta + b."""
    mean = states.mean(-1, keepdim=True)
    variance = ((states - mean) ** 2).mean(-1, keepdim=True)
    normed = (states - mean) / torch.sqrt(variance + module.eps)
    if module.film is None:
        return module.weight * normed + module.bias
    scale, shift = film(module.film, task)
    return (1 + scale) * module.weight * normed + module.bias + shift


def bottleneck(module: ConditionalBottleneck, states: Tensor, task: Tensor) -> Tensor:
    """H + up(gelu(down((1 + g) h + b)))."""
    scale, shift = film(module.film, task)
    inner = gelu(linear(module.down, (1 + scale) * states + shift))
    return states + linear(module.up, inner)


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


@torch.no_grad()
def encode(network: Network, input_ids: Tensor, segment_ids: Tensor, task_id: int) -> Tensor:
    """Token states [L, D] of one text without padding."""
    encoder = network.encoder
    embeddings = encoder.embeddings
    raw = network.task_embedding.weight[task_id]
    task = linear(network.task_embedding.transform, raw)
    states = embeddings.word.weight[input_ids] + embeddings.segment.weight[segment_ids]
    states = embeddings.norm(states + embeddings.position.weight[: len(input_ids)])
    if encoder.alignment is not None:
        scale, shift = film(encoder.alignment, raw)
        states = (1 + scale) * states + shift
    for layer in encoder.layers:
        assert isinstance(layer, EncoderLayer)
        states = layer_norm(layer.attention_norm, states + attention(layer, states, task), task)
        inner = linear(layer.contract, gelu(linear(layer.expand, states)))
        states = layer_norm(layer.output_norm, states + inner, task)
        if layer.bottleneck is not None:
            states = bottleneck(layer.bottleneck, states, task)
    assert isinstance(states, Tensor)
    return states
