"""The network: from a batch of rows of any tasks to the logits of all heads. The file to read first.

`condition()` evaluates the hypernetwork for all tasks. `forward(batch, tables)` gathers each row's constants by its
task id. Training calls both in every step; serving calls `condition()` once. The forward is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from polytask.model.batch import Batch
from polytask.model.conditioning import Conditional, ConditionalAttentionBias, ConditionalPooling, TaskEmbedding
from polytask.model.config import NetworkConfig, ParameterCounts, Pooling
from polytask.model.encoder import Encoder, JoinedTables, Tables
from polytask.model.heads import HeadMatrix, Heads, Outputs, output_slices, pool_mean, pool_pairs
from polytask.model.tasks import Task, check_tasks
from polytask.model.tuned_rows import TunedRows


class Network(nn.Module):
    """A conditional encoder and the heads of its tasks. A task's id is its index in `tasks`."""

    def __init__(self, config: NetworkConfig, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.config = config
        self.tasks = check_tasks(tasks, config.max_length)
        self.output_slices = output_slices(self.tasks)
        if config.task_rows and len(config.task_rows) != len(self.tasks):
            raise ValueError(f"task_rows has {len(config.task_rows)} entries for {len(self.tasks)} tasks")
        self.task_embedding = TaskEmbedding(config.joint_rows or len(self.tasks), config.task_vector_size)
        self.encoder = Encoder(config)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size) if config.pooling is Pooling.CLS else None
        self.conditional_pooling = (
            ConditionalPooling(config.task_vector_size, config.hidden_size, config.film_rank)
            if config.conditional_pooling
            else None
        )
        pooled_size = config.hidden_size * (3 if config.pooling is Pooling.PAIRS else 1)
        self.heads = Heads(pooled_size, config.hidden_size, self.tasks, config.dropout)
        self.tuned_rows: TunedRows | None = None
        if config.num_tuned_rows or config.residual_rank:
            with torch.no_grad():
                self.tuned_rows = TunedRows(config, self._computed_rows(), len(self.task_embedding.weight))

    def condition(self) -> Tables:
        """The task tables, [T, ...] each: for every task the row that the hypernetwork computes or its tuned row."""
        rows = self._computed_rows()
        return rows if self.tuned_rows is None else cast(Tables, self.tuned_rows(rows))

    def _computed_rows(self) -> Tables:
        raw_TE, transformed_TE = self.task_embedding()
        tables = self.encoder.tables(raw_TE, transformed_TE)
        if self.conditional_pooling is None:
            return tables
        return replace(tables, pooling=self.conditional_pooling.table(transformed_TE))

    def head_of(self, task_id: int) -> HeadMatrix:
        """The matrix that holds the task's outputs, in the columns of `output_slices`."""
        return self.heads.token if self.tasks[task_id].token_level else self.heads.sentence

    def forward(self, batch: Batch, tables: Tables | JoinedTables) -> Outputs:
        """The logits of every head for every row."""
        return self.forward_from(self.lower(batch), batch, tables)

    def lower(self, batch: Batch) -> Tensor:
        """The token states [B, L, D] of a batch in front of the first conditioned layer: the same for all tasks."""
        return self.encoder.lower(batch.input_ids, batch.segment_ids, _is_token(batch))

    def forward_from(self, states_BLD: Tensor, batch: Batch, tables: Tables | JoinedTables) -> Outputs:
        """The same as `forward`, from the states of `lower`."""
        is_token_BL = _is_token(batch)
        constants = tables.gather(batch.task_ids)
        states = self.encoder.upper(states_BLD, is_token_BL, constants)
        # Behind a bfloat16 encoder, pooling and heads stay in float32: bfloat16 cannot hold a count of 257 tokens.
        states = states.to(self.heads.sentence.weight.dtype)
        pooled = self._pool(states, is_token_BL, batch.segment_ids, constants.pooling)
        return cast(Outputs, self.heads(pooled, states, batch.token_level))

    def _pool(self, states_BLD: Tensor, is_token_BL: Tensor, segment_ids_BL: Tensor, query_BD: Tensor | None) -> Tensor:
        if self.pooler is not None:
            return torch.tanh(self.pooler(states_BLD[:, 0]))
        if self.conditional_pooling is not None:
            return cast(Tensor, self.conditional_pooling(states_BLD, is_token_BL, query_BD))
        if self.config.pooling is Pooling.PAIRS:
            return pool_pairs(states_BLD, is_token_BL, segment_ids_BL)
        return pool_mean(states_BLD, is_token_BL)


def _is_token(batch: Batch) -> Tensor:
    """Which positions hold a token: [B, L]."""
    positions = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    return positions < batch.lengths[:, None]


def parameter_counts(network: Network) -> ParameterCounts:
    """Counts the parameters by owner, and those that `freeze_backbone` has left trainable."""
    parameters = list(network.parameters())
    total, heads = _size(parameters), _size(network.heads.parameters())
    backbone = _size(backbone_parameters(network)) - heads
    trainable = _size(parameter for parameter in parameters if parameter.requires_grad)
    return ParameterCounts(backbone, total - backbone - heads, heads, trainable)


def _size(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def backbone_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """The backbone's parameters in a module: those outside every `Conditional` module."""
    for child in module.children():
        if not isinstance(child, Conditional):
            yield from backbone_parameters(child)
    yield from module.parameters(recurse=False)


def freeze_backbone(
    network: Network, num_layers: int, *, embeddings: bool = True, attention_film: bool = False
) -> None:
    """Freezes the lowest `num_layers` layers and, by default, the embeddings; conditional modules there still learn.

    `attention_film` freezes the FiLM of the conditional attention in those layers too, but not its matrix R. The
    released CA-MTL code does so, as its filter by name misses that FiLM. Raises ValueError for too many layers.
    """
    if not 0 <= num_layers <= network.config.num_layers:
        raise ValueError(f"cannot freeze {num_layers} of {network.config.num_layers} layers")
    layers = network.encoder.layers[:num_layers]
    modules = [*([network.encoder.embeddings] if embeddings else []), *layers]
    fixed = [parameter for module in modules for parameter in backbone_parameters(module)]
    if attention_film:
        biases = (module for module in layers.modules() if isinstance(module, ConditionalAttentionBias))
        fixed += [parameter for bias in biases for parameter in bias.film.parameters()]
    for parameter in fixed:
        parameter.requires_grad_(False)


def init_random(modules: Iterable[nn.Module]) -> None:
    """Initialises each given module, but not its children, as BERT does: weights N(0, 0.02²), biases 0.

    Given all modules of a new network, this is the start of the released CA-MTL code: no FiLM is zero, only the matrix
    R of the conditional attention is. Given the modules of a layer, that layer starts without published weights.
    """
    for module in modules:
        if isinstance(module, nn.Linear | nn.Embedding | TaskEmbedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
