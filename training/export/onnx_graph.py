"""ONNX graph of a network: the plain definition traced, with its task tables as constants.

Inputs: `input_ids`, `segment_ids` [B, L], `lengths`, `task_ids` [B], all int64. Outputs: `sentence` [B, S] and `token`
[B, L, K], each only where a task has such outputs. B and L are free, L up to the network's `max_length`.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import onnx
import torch
from torch import Tensor, nn

from polytask.model.batch import Batch
from polytask.model.encoder import Encoder, Tables
from polytask.model.network import Network

INPUTS = ("input_ids", "segment_ids", "lengths", "task_ids")
OUTPUTS = ("sentence", "token")

_OPSET = 23
"""The first opset with an attention operator. ONNX Runtime runs it as one kernel, like layer norm and Gelu."""

_EXAMPLE_LENGTH = 5


def onnx_graph(network: Network) -> onnx.ModelProto:
    """The graph of a network on the CPU, in float32."""
    module = _TensorNetwork(network)
    rows, length = torch.export.Dim("rows", max=2**16), torch.export.Dim("length", min=2, max=network.config.max_length)
    shape = (3, min(_EXAMPLE_LENGTH, network.config.max_length))
    # Separate tensors: one object passed twice would become one input of the graph.
    example = (
        torch.zeros(shape, dtype=torch.long),
        torch.zeros(shape, dtype=torch.long),
        torch.full(shape[:1], shape[1]),
        torch.zeros(shape[:1], dtype=torch.long),
    )
    # Without gradients the network uses the fused attention kernel, which becomes one node.
    with torch.no_grad(), warnings.catch_warnings(), _without_exporter_log():
        # One warning is about axes that share a name across inputs, as they should; the others concern the exporter only.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            verbose=False,
            opset_version=_OPSET,
            input_names=INPUTS,
            output_names=module.output_names,
            dynamic_shapes=({0: rows, 1: length}, {0: rows, 1: length}, {0: rows}, {0: rows}),
        )
    assert program is not None
    model = program.model_proto
    # These shapes are from before the exporter's simplifications; backends infer shapes themselves.
    del model.graph.value_info[:]
    _fold_head_transposes(model.graph, network.config.num_heads)
    return model


def _fold_head_transposes(graph: onnx.GraphProto, num_heads: int) -> None:
    """Removes the reshapes and transposes around attention, which can split [B, L, D] into heads itself.

    With H heads:

        before:  query [B, L, D] ─ Reshape ─ Transpose [B, H, L, D / H] ─┐
                 key ───────────── Reshape ─ Transpose ──────────────────┼ Attention ─ Transpose ─ Reshape ─ out [B, L, D]
                 value ─────────── Reshape ─ Transpose ──────────────────┘
        after:   query [B, L, D] ─┐
                 key ─────────────┼ Attention(q_num_heads = kv_num_heads = H) ─ out [B, L, D]
                 value ───────────┘
    """
    makers = {output: node for node in graph.node for output in node.output}
    readers = {name: node for node in graph.node for name in node.input}
    removed = set[str]()
    for node in graph.node:
        if node.op_type != "Attention":
            continue
        splits = [(makers[makers[name].input[0]], makers[name]) for name in node.input[:3]]
        transpose_back = readers[node.output[0]]
        join = readers[transpose_back.output[0]]
        around = [*(part for split in splits for part in split), join, transpose_back]
        assert [part.op_type for part in around] == ["Reshape", "Transpose"] * 4, "attention as the network writes it"
        removed.update(part.output[0] for part in around)
        for index, (reshape, _) in enumerate(splits):
            node.input[index] = reshape.input[0]
        node.output[0] = join.output[0]
        node.attribute.extend(onnx.helper.make_attribute(f"{kind}_num_heads", num_heads) for kind in ("q", "kv"))
    # The attention has the output of the reshape that it replaces.
    nodes = [node for node in graph.node if node.op_type == "Attention" or node.output[0] not in removed]
    del graph.node[:]
    graph.node.extend(nodes)


class _TensorNetwork(nn.Module):
    """The network with tensors as inputs and outputs, and with its current tables."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        with torch.no_grad():
            self.tables = _with_norm_in_alignment(self.network.encoder, network.condition())
        widths = (len(network.heads.sentence.bias), len(network.heads.token.bias))
        self.output_names = [name for name, width in zip(OUTPUTS, widths, strict=True) if width]

    def forward(
        self, input_ids_BL: Tensor, segment_ids_BL: Tensor, lengths_B: Tensor, task_ids_B: Tensor
    ) -> tuple[Tensor, ...]:
        batch = Batch(input_ids_BL, segment_ids_BL, lengths_B, task_ids_B, token_level="token" in self.output_names)
        outputs = self.network(batch, self.tables)
        return tuple(getattr(outputs, name) for name in self.output_names)


def _with_norm_in_alignment(encoder: Encoder, tables: Tables) -> Tables:
    """Moves the weights of the embeddings' layer norm into the tables' alignment, which comes right behind it.

    Tables and layer norm stay unchanged if there is something between the two.
    """
    norm = encoder.embeddings.norm
    if tables.alignment is None or encoder.alignment_layer:
        return tables
    if encoder.alignment_matrix is not None or encoder.embeddings.project is not None:
        return tables
    scale, shift = tables.alignment.unbind(1)
    folded = torch.stack([scale * norm.weight, scale * norm.bias + shift], dim=1)
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)
    return replace(tables, alignment=folded)


@contextmanager
def _without_exporter_log() -> Iterator[None]:
    """Silences the exporter's log lines about packages that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
