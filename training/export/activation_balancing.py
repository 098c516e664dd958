"""Activation balancing: folds SmoothQuant's divisors into an ONNX graph, so that they cost nothing at run time.

Outlier features of an activation are divided where the activation is produced, and the rows of the weights that read
them are multiplied by as much. The graph's outputs stay the same but for rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

_ConstantInput = tuple[onnx.NodeProto, int]
"""A node, and the index of one of its inputs, which is a constant."""


def fold_scales(graph: onnx.GraphProto, divisors: Mapping[str, NDArray[np.float32]]) -> set[str]:
    """Divides the features of activations by `divisors` [I], by the activation's name. Returns the names it could fold.

    An activation can be folded if it comes from attention or from a task's table, and only products with constant weights,
    or with rows of a task's table, read it:

        before:  producer(constants) ─ activation ─ MatMul(weights)
        after:   producer(constants / divisors) ─ activation / divisors ─ MatMul(divisors · weights)
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    folded = set()
    for activation, divisor in divisors.items():
        weights = [_weights(graph, node, constants) for node in graph.node if activation in node.input]
        if any(found is None for found in weights):
            continue
        if produced_by := _producers(graph, activation, constants):
            divided = [(constant, 1 / divisor) for constant in produced_by]
            multiplied = [(found, divisor[:, None]) for found in weights if found is not None]
            for (node, index), factor in divided + multiplied:
                name = node.input[index]
                # A new tensor: constants that happen to be equal share one.
                node.input[index] = f"{name}.{node.output[0]}.balanced"
                values = numpy_helper.to_array(constants[name]) * factor
                graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.input[index]))
            folded.add(activation)
    return folded


def _weights(
    graph: onnx.GraphProto, product: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> _ConstantInput | None:
    """The constant weights of a product: its own, or rows of a task's table, the halves of a residual; None for others."""
    if product.op_type != "MatMul":
        return None
    if product.input[1] in constants:
        return product, 1
    gather = next((node for node in graph.node if product.input[1] in node.output), None)
    is_row = gather is not None and gather.op_type == "GatherND" and gather.input[0] in constants
    readers = sum(product.input[1] in node.input for node in graph.node)
    return (gather, 0) if gather is not None and is_row and readers == 1 else None


def _producers(
    graph: onnx.GraphProto, activation: str, constants: Mapping[str, onnx.TensorProto]
) -> list[_ConstantInput]:
    """The constants that together scale an activation, its features their last axis; empty if there are none.

    Attention is linear in its values, so in their weights and bias, [D, D] and [D]:

        states ─ MatMul(weights) ─ Add(bias) ─ values ─┐
                                 query, key, padding ──┴ Attention ─ activation

    A residual may be added to the values, inner ─ MatMul(rows of a table) ─ Add; it is scaled alike.

    A task's scale and shift are two slices of a row of its table, [T, 2, D]:

        table ─ GatherND ─┬ Slice ─ scale ─────┐
                          ├ Slice ─ shift ─────┼──────┐
                                       states ─┴ Mul ─┴ Add ─ activation

    Nothing else may read what lies between the constants and the activation.
    """
    makers = {output: node for node in graph.node for output in node.output}
    num_readers = Counter(name for node in graph.node for name in node.input)
    maker = makers[activation]
    scaled: list[_ConstantInput] = []
    between: list[str] = []
    if maker.op_type == "Attention":
        values = maker.input[2]
        add = makers[values]
        residual = makers.get(add.input[0])
        own_rows = None if residual is None else _weights(graph, residual, constants)
        if own_rows is not None and own_rows[0] is not residual:
            scaled, between = [own_rows], [values, add.input[0]]
            values = add.input[1]
            add = makers[values]
        product = makers.get(add.input[0])
        if product is not None and product.op_type == "MatMul" and add.op_type == "Add":
            scaled, between = [*scaled, (product, 1), (add, 1)], [*between, values, add.input[0]]
    elif maker.op_type == "Add":
        multiply = makers.get(maker.input[0])
        if multiply is not None and multiply.op_type == "Mul":
            slices = [makers.get(node.input[1]) for node in (multiply, maker)]
            rows = {node.input[0] for node in slices if node is not None and node.op_type == "Slice"}
            gather = makers.get(rows.pop()) if len(rows) == 1 and None not in slices else None
            if gather is not None and num_readers[gather.output[0]] == len(slices):
                scaled, between = [(gather, 0)], [maker.input[0], multiply.input[1], maker.input[1]]
    read_once = all(num_readers[name] == 1 for name in between)
    return scaled if read_once and all(node.input[index] in constants for node, index in scaled) else []
