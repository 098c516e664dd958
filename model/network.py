"""The network: a batch of rows of any tasks in, the logits of all heads out. The file to read first.

`condition()` evaluates the hypernetwork for all tasks; `forward(batch, tables)` gathers each row's constants by
its task id. Training calls both every step, serving calls `condition()` once. It is the same forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from model.batch import Batch
from model.conditioning import Conditional, TaskEmbedding
from model.config import NetworkConfig, Pooling
from model.encoder import Encoder, Tables
from model.heads import Heads, Outputs, output_slices, pool_mean
from model.tasks import Task, check_tasks


class Network(nn.Module):
    """A conditional encoder and the heads of its tasks. A task's id is its place in `tasks`."""

    def __init__(self, config: NetworkConfig, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.config = config
        self.tasks = check_tasks(tasks, config.max_length)
        self.output_slices = output_slices(self.tasks)
        self.task_embedding = TaskEmbedding(len(self.tasks), config.hidden_size)
        self.encoder = Encoder(config)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size) if config.pooling is Pooling.CLS else None
        self.heads = Heads(config.hidden_size, self.tasks, config.dropout)

    def condition(self) -> Tables:
        """The task tables: what the hypernetwork says for every task, [T, ...] each."""
        return self.encoder.tables(*self.task_embedding())

    def forward(self, batch: Batch, tables: Tables) -> Outputs:
        """The logits of every head for every row."""
        positions = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
        is_token_BL = positions < batch.lengths[:, None]
        states = self.encoder(batch.input_ids, batch.segment_ids, is_token_BL, tables.rows(batch.task_ids))
        return cast(Outputs, self.heads(self._pool(states, is_token_BL), states, batch.token_level))

    def _pool(self, states_BLD: Tensor, is_token_BL: Tensor) -> Tensor:
        if self.pooler is None:
            return pool_mean(states_BLD, is_token_BL)
        return torch.tanh(self.pooler(states_BLD[:, 0]))


def backbone_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """The backbone's own parameters in the encoder, or in a part of it: those outside every Conditional module."""
    for child in module.children():
        if not isinstance(child, Conditional):
            yield from backbone_parameters(child)
    yield from module.parameters(recurse=False)


def freeze_backbone(network: Network, num_layers: int) -> None:
    """Fixes the embeddings and the lowest `num_layers` layers; their conditional modules stay trainable."""
    if not 0 <= num_layers <= network.config.num_layers:
        raise ValueError(f"cannot freeze {num_layers} of {network.config.num_layers} layers")
    for module in (network.encoder.embeddings, *network.encoder.layers[:num_layers]):
        for parameter in backbone_parameters(module):
            parameter.requires_grad_(False)
