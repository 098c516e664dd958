"""CPU rewrites: parts of an ONNX graph in the forms that ONNX Runtime computes fastest on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def rewrite_for_cpu(graph: onnx.GraphProto) -> None:
    """Rewrites the graph in place. Its outputs stay the same but for rounding."""
    _normalise_by_token(graph)
    _merge_table_gathers(graph)


def _normalise_by_token(graph: onnx.GraphProto) -> None:
    """Replaces layer norms without weights by instance norms, which take less time. The scale
    and shift of the task are applied after them.

        before:  states [B, L, D] ─ LayerNormalization(ones, zeros) ─ out
        after:   states [B, L, D] ─ InstanceNormalization(ones [L], zeros [L]) ─ out

    An instance norm normalises each channel, axis 1, over the axes behind it: here each token over its features. It has
    a weight and a bias for each channel; both are constant vectors as long as the batch's rows.
    """
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
            inputs = [node.input[0], "channel.weights", "channel.biases"]
            nodes.append(helper.make_node("InstanceNormalization", inputs, node.output[:1], epsilon=epsilon))
        else:
            nodes.append(node)
    if any(node.op_type == "InstanceNormalization" for node in nodes):
        vectors = [helper.make_node("Shape", ["input_ids"], ["channel.count"], start=1, end=2)]
        for name, number in (("channel.weights", 1.0), ("channel.biases", 0.0)):
            value = helper.make_tensor("value", onnx.TensorProto.FLOAT, [1], [number])
            vectors.append(helper.make_node("ConstantOfShape", ["channel.count"], [name], value=value))
        nodes = vectors + nodes
    _set_nodes(graph, nodes)


def _merge_table_gathers(graph: onnx.GraphProto) -> None:
    """Gathers the scales and shifts of a row's task from one table, instead of from one table for each module.

    Of N tables [T, 2, D]:

        before:  table_n ─ GatherND(task_ids) ─┬ Slice(0) ─ scale_n [B, 1, D]
                                               └ Slice(1) ─ shift_n [B, 1, D]
        after:   tables [T, 2 · N, D] ─ Gather(task_ids) ─ Split ─ scale_1, shift_1, … scale_N, shift_N [B, 1, D]
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    columns: dict[str, NDArray[np.float32]] = {}  # [T, D] by the name of the scale or shift
    merged: list[onnx.NodeProto] = []
    for node in graph.node:
        table = constants.get(node.input[0]) if node.op_type == "GatherND" else None
        if table is None or table.ndim != 3 or (columns and table[:, 0].shape != next(iter(columns.values())).shape):
            continue
        slices = readers[node.output[0]]
        if len(slices) == table.shape[1] == 2 and all(reader.op_type == "Slice" for reader in slices):
            starts = [int(constants[reader.input[1]].item()) for reader in slices]
            columns |= {reader.output[0]: table[:, start] for reader, start in zip(slices, starts, strict=True)}
            merged += [node, *slices]
    if not columns:
        return
    graph.initializer.append(numpy_helper.from_array(np.stack(list(columns.values()), axis=1), "tables"))
    gather = helper.make_node("Gather", ["tables", "task_ids"], ["rows"], axis=0)
    split = helper.make_node("Split", ["rows"], list(columns), axis=1, num_outputs=len(columns))
    _set_nodes(graph, [gather, split, *(node for node in graph.node if node not in merged)])


def _set_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Replaces the graph's nodes, and drops the constants that none of them reads."""
    kept = list(nodes)
    read = {name for node in kept for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(constants)
