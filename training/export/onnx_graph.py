"""A network as an ONNX graph: the plain definition traced, its task tables inside as constants.

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
"""The first with an attention of its own: ONNX Runtime runs it as one kernel, as it does layer norm and Gelu."""

_EXAMPLE_LENGTH = 5


def onnx_graph(network: Network) -> onnx.ModelProto:
    """The graph of a network on the CPU, in float32."""
    module = _Tensors(network)
    rows, length = torch.export.Dim("rows", max=2**16), torch.export.Dim("length", min=2, max=network.config.max_length)
    shape = (3, min(_EXAMPLE_LENGTH, network.config.max_length))
    # A tensor of its own for each: what is one object here would be one input in the graph.
    example = (
        torch.zeros(shape, dtype=torch.long),
        torch.zeros(shape, dtype=torch.long),
        torch.full(shape[:1], shape[1]),
        torch.zeros(shape[:1], dtype=torch.long),
    )
    # Without gradients the network attends by the fused kernel, which becomes one node.
    with torch.no_grad(), warnings.catch_warnings(), _without_notes():
        # Both axes go by one name in all inputs, which is what we want; the others are the exporter's own affairs.
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
    # They name shapes from before the exporter's own simplifications, and engines find them out by themselves.
    del model.graph.value_info[:]
    _attend_in_place(model.graph, network.config.num_heads)
    return model


def _attend_in_place(graph: onnx.GraphProto, num_heads: int) -> None:
    """Lets attention find the heads in [B, L, D] by itself, instead of [B, H, L, D / H] transposed for it and back."""
    makers = {output: node for node in graph.node for output in node.output}
    readers = {name: node for node in graph.node for name in node.input}
    gone = set[str]()
    for node in graph.node:
        if node.op_type != "Attention":
            continue
        views = [(makers[name], makers[makers[name].input[0]]) for name in node.input[:3]]
        back = readers[node.output[0]]
        joined = readers[back.output[0]]
        around = [*(one for view in views for one in view), back, joined]
        assert [one.op_type for one in around] == ["Transpose", "Reshape"] * 4, "attention as the network writes it"
        gone.update(one.output[0] for one in around)
        for place, (_, reshape) in enumerate(views):
            node.input[place] = reshape.input[0]
        node.output[0] = joined.output[0]
        node.attribute.extend(onnx.helper.make_attribute(f"{one}_num_heads", num_heads) for one in ("q", "kv"))
    nodes = [node for node in graph.node if node.op_type == "Attention" or node.output[0] not in gone]
    del graph.node[:]
    graph.node.extend(nodes)


class _Tensors(nn.Module):
    """The network with tensors for inputs and outputs, and its tables as they are now."""

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
    """Tables whose alignment scales and shifts for the embeddings' layer norm too, which is left without weights.

    The tables as they are, and the layer norm too, where something is between the two.
    """
    norm = encoder.embeddings.norm
    if tables.alignment is None or encoder.alignment_matrix is not None or encoder.embeddings.project is not None:
        return tables
    scale, shift = tables.alignment.unbind(1)
    folded = torch.stack([scale * norm.weight, scale * norm.bias + shift], dim=1)
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)
    return replace(tables, alignment=folded)


@contextmanager
def _without_notes() -> Iterator[None]:
    """Keeps the exporter from logging which packages it does not find."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
