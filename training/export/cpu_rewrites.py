"""Parts of an ONNX graph in the forms that ONNX Runtime computes fastest on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def rewrite_for_cpu(graph: onnx.GraphProto) -> None:
    """Rewrites the graph in place; what it gives stays the same but for rounding."""
    _normalise_by_token(graph)
    _gather_at_once(graph)


def _normalise_by_token(graph: onnx.GraphProto) -> None:
    """Layer norms without weights, which a table of tasks scales and shifts, as instance norms, which take less time."""
    constants = {tensor.name: tensor for tensor in graph.initializer}

    def is_filled(name: str, value: float) -> bool:
        return name in constants and bool(np.all(numpy_helper.to_array(constants[name]) == value))

    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if (
            node.op_type == "LayerNormalization"
            and is_filled(node.input[1], 1)
            and all(is_filled(name, 0) for name in node.input[2:])
        ):
            epsilon = next(attribute.f for attribute in node.attribute if attribute.name == "epsilon")
            # A token is a channel here, and those have weights and biases.
            inputs = [node.input[0], "channel.weights", "channel.biases"]
            nodes.append(helper.make_node("InstanceNormalization", inputs, node.output[:1], epsilon=epsilon))
        else:
            nodes.append(node)
    if any(node.op_type == "InstanceNormalization" for node in nodes):
        fill = [helper.make_node("Shape", ["input_ids"], ["channel.count"], start=1, end=2)]
        for name, number in (("channel.weights", 1.0), ("channel.biases", 0.0)):
            value = helper.make_tensor("value", onnx.TensorProto.FLOAT, [1], [number])
            fill.append(helper.make_node("ConstantOfShape", ["channel.count"], [name], value=value))
        nodes = fill + nodes
    _put(graph, nodes)


def _gather_at_once(graph: onnx.GraphProto) -> None:
    """One table [T, C, D] of all those [T, 2, D] that are read as [B, 1, D] twice, a row's scale and its shift."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    columns: dict[str, NDArray[np.float32]] = {}
    gone: list[onnx.NodeProto] = []
    for node in graph.node:
        table = constants.get(node.input[0]) if node.op_type == "GatherND" else None
        if table is None or table.ndim != 3 or (columns and table[:, 0].shape != next(iter(columns.values())).shape):
            continue
        cuts = readers[node.output[0]]
        if len(cuts) == table.shape[1] == 2 and all(cut.op_type == "Slice" for cut in cuts):
            starts = [int(constants[cut.input[1]].item()) for cut in cuts]
            columns |= {cut.output[0]: table[:, start] for cut, start in zip(cuts, starts, strict=True)}
            gone += [node, *cuts]
    if not columns:
        return
    graph.initializer.append(numpy_helper.from_array(np.stack(list(columns.values()), axis=1), "tables"))
    gather = helper.make_node("Gather", ["tables", "task_ids"], ["rows"], axis=0)
    split = helper.make_node("Split", ["rows"], list(columns), axis=1, num_outputs=len(columns))
    _put(graph, [gather, split, *(node for node in graph.node if node not in gone)])


def _put(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Makes these the graph's nodes, with no constants but those that they read."""
    kept = list(nodes)
    read = {name for node in kept for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(constants)
