"""Features divided down where an ONNX graph makes them, and their products' weights multiplied: no pass over them is needed.

What attention gives is linear in the weights of its values, and what a task scales and shifts in the task's table. So the
numbers that come out stay what they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

_GraphInput = tuple[onnx.NodeProto, int]
"""A node and which of its inputs."""


def fold_scales(graph: onnx.GraphProto, divisors: Mapping[str, NDArray[np.float32]]) -> set[str]:
    """Divides the features of activations by `divisors` [I], by the activation's name, and says of which it could.

    It can where an activation comes from attention or from a task's table, and nothing but products reads it.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    done = set()
    for name, by in divisors.items():
        readers = [node for node in graph.node if name in node.input]
        if any(node.op_type != "MatMul" or node.input[1] not in constants for node in readers):
            continue
        if makers := _producers(graph, name, constants):
            changes = [(place, 1 / by) for place in makers] + [((node, 1), by[:, None]) for node in readers]
            for (node, place), factors in changes:
                old = node.input[place]
                # A tensor of its own: what happens to be equal shares one.
                node.input[place] = f"{old}.{node.output[0]}.balanced"
                values = numpy_helper.to_array(constants[old]) * factors
                graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.input[place]))
            done.add(name)
    return done


def _producers(graph: onnx.GraphProto, name: str, constants: Mapping[str, onnx.TensorProto]) -> list[_GraphInput]:
    """The constants that an activation is linear in together, its features their last axis; none where there are no such."""
    makers = {output: node for node in graph.node for output in node.output}
    num_readers = Counter(name for node in graph.node for name in node.input)
    made = makers[name]
    places: list[_GraphInput] = []
    between: list[str] = []
    if made.op_type == "Attention":
        # Its values: a product with weights, and a bias.
        bias = makers[made.input[2]]
        product = makers.get(bias.input[0])
        if product is not None and product.op_type == "MatMul" and bias.op_type == "Add":
            places, between = [(product, 1), (bias, 1)], [made.input[2], bias.input[0]]
    elif made.op_type == "Add":
        # A table's gathered row: what something is multiplied by, and what is added.
        product = makers.get(made.input[0])
        if product is not None and product.op_type == "Mul":
            cuts = [makers.get(one.input[1]) for one in (product, made)]
            gathered = {cut.input[0] for cut in cuts if cut is not None and cut.op_type == "Slice"}
            gather = makers.get(gathered.pop()) if len(gathered) == 1 and None not in cuts else None
            if gather is not None and num_readers[gather.output[0]] == len(cuts):
                places, between = [(gather, 0)], [made.input[0], product.input[1], made.input[1]]
    alone = all(num_readers[one] == 1 for one in between)
    return places if alone and all(node.input[place] in constants for node, place in places) else []
