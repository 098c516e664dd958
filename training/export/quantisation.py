"""Quantisation: the matrix products of an ONNX graph in 8 bits, with scales fixed by calibration.

Every product with constant weights becomes a product of integers: activations as u8 with one scale and zero point per
tensor, weights as s8 with one scale per output. All scales are constants, and integers add up to the same sum in any
order, so no row depends on the others of its batch. Attention, layer norm and Gelu stay in float32.

A few features of an activation are far larger than the others, which would leave the others too few levels. They are
divided down and their weights multiplied by as much (after Xiao et al., "SmoothQuant", ICML 2023, which does so with
every feature). The mean of the remaining error goes into the bias.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from polytask.training.export.activation_balancing import fold_scales
from polytask.training.export.activation_scales import GraphScales, Scales, Values, best_scales, eight_bits
from polytask.training.export.cpu_rewrites import rewrite_for_cpu

Feed = Mapping[str, NDArray[np.int64]]
"""The inputs of the graph by name: a batch without padding."""

Target = Literal["onnxruntime", "openvino"]
"""The backend that the graph is for."""

_SAMPLE_TOKENS = 2000
"""Number of tokens whose activations are kept for choosing the scales."""


@dataclass(frozen=True, slots=True)
class _Product:
    """A product with constant weights: its nodes, the activation's name, weights [I, O] and bias [O]."""

    nodes: tuple[onnx.NodeProto, ...]
    activation: str
    weights: Values
    bias: Values

    @property
    def output(self) -> str:
        return str(self.nodes[-1].output[0])


def choose_scales(model: onnx.ModelProto, feeds: Sequence[Feed]) -> GraphScales:
    """The scales of the graph's activations that change its products with constant weights least on `feeds`."""
    balanced = copy.deepcopy(model)
    products = _products(balanced.graph)
    names = _activations(products)
    samples = _sample(model, names, feeds)
    scales = _scales_by_activation(products, samples)
    divisors = {name: own.divisors for name, own in scales.items() if own.divisors is not None}
    folded = fold_scales(balanced.graph, divisors)
    if folded:
        samples = {name: sample / divisors[name] if name in folded else sample for name, sample in samples.items()}
        scales = _scales_by_activation(_products(balanced.graph), samples)
    return GraphScales(
        {place: scales[name] for place, name in enumerate(names)},
        {place: divisors[name] for place, name in enumerate(names) if name in folded},
    )


def quantise(model: onnx.ModelProto, scales: GraphScales, *, target: Target) -> onnx.ModelProto:
    """A copy of the graph in 8 bits, by scales that were chosen for it, or for that of the version it was tuned from.

    `target`: "onnxruntime" makes each product one of its own nodes, with scales and bias in it. "openvino" makes plain ONNX, a
    product between DequantizeLinear nodes, which any backend can fuse.
    """
    quantised = copy.deepcopy(model)
    names = _activations(_products(quantised.graph))
    assert set(scales.scales) == set(range(len(names))), "the scales are those of another graph"
    divisors = {names[place]: values for place, values in scales.folded.items()}
    folded = fold_scales(quantised.graph, divisors)
    assert folded == set(divisors), "the graph can be balanced where that of the scales could"
    products = _products(quantised.graph)
    by_error = sorted(scales.scales, key=lambda place: scales.scales[place].error)
    new_nodes: dict[str, list[onnx.NodeProto]] = {}
    for place in by_error[: len(names) - (scales.num_float_products or 0)]:
        rewriter = _Rewriter(quantised.graph, names[place], scales.scales[place], target)
        new_nodes |= rewriter.rewrite(_products_of(products, names[place]))
    _replace(quantised.graph, [product for product in products if product.output in new_nodes], new_nodes)
    if target == "onnxruntime":
        rewrite_for_cpu(quantised.graph)
        quantised.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return quantised


def _activations(products: Sequence[_Product]) -> list[str]:
    """The names of the products' activations, in the graph's order."""
    return list(dict.fromkeys(product.activation for product in products))


def _scales_by_activation(products: Sequence[_Product], samples: Mapping[str, Values]) -> dict[str, Scales]:
    return {
        name: best_scales(sample, np.concatenate([product.weights for product in _products_of(products, name)], axis=1))
        for name, sample in samples.items()
    }


def _products_of(products: Sequence[_Product], activation: str) -> list[_Product]:
    return [product for product in products if product.activation == activation]


def _products(graph: onnx.GraphProto) -> list[_Product]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    products = []
    for node in graph.node:
        if node.op_type not in {"MatMul", "Gemm"} or node.input[1] not in constants:
            continue
        weights = numpy_helper.to_array(constants[node.input[1]])
        if node.op_type == "Gemm":
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            weights = weights.T if transposed else weights
            has_bias = len(node.input) > 2
            bias = numpy_helper.to_array(constants[node.input[2]]) if has_bias else _zeros(weights)
            products.append(_Product((node,), node.input[0], weights, bias))
        elif weights.ndim == 2:
            nodes: tuple[onnx.NodeProto, ...] = (node,)
            bias = _zeros(weights)
            match readers.get(node.output[0], []):
                case [reader] if reader.op_type == "Add":
                    added = [constants[name] for name in reader.input if name in constants]
                    if added and list(added[0].dims) == [weights.shape[1]]:
                        nodes, bias = (node, reader), numpy_helper.to_array(added[0])
            products.append(_Product(nodes, node.input[0], weights, bias))
    return products


def _zeros(weights: Values) -> Values:
    """The bias of a product without one."""
    return np.zeros(weights.shape[1], np.float32)


def _sample(model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Feed]) -> dict[str, Values]:
    """Activations by name for randomly chosen tokens, [tokens, I]; those with one value per row come for all rows."""
    watched = copy.deepcopy(model)
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in names
        if name not in {output.name for output in watched.graph.output}
    )
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    num_tokens = sum(int(feed["lengths"].sum()) for feed in feeds)
    kept: dict[str, list[Values]] = {name: [] for name in names}
    for feed in feeds:
        chosen = np.flatnonzero(random.random(feed["input_ids"].size) < _SAMPLE_TOKENS / num_tokens)
        for name, values in zip(names, session.run(list(names), dict(feed)), strict=True):
            flat = values.reshape(-1, values.shape[-1])
            kept[name].append(flat[chosen] if len(flat) == feed["input_ids"].size else flat)
    return {name: np.concatenate(values) for name, values in kept.items()}


class _Rewriter:
    """Makes the integer products of one activation. Their constants are added to the graph.

    For ONNX Runtime:

        before:  activation ─ MatMul(weights) ─ Add(bias) ─ out
        after:   activation ─ QuantizeLinear ─ MatMulIntegerToFloat(s8 weights, scales, bias) ─ out

    For other backends:

        after:   activation ─ QuantizeLinear ─ DequantizeLinear ─┐
                          s8 weights ───────── DequantizeLinear ─┴ MatMul ─ Add(bias) ─ out

    A Mul in front divides large features where `fold_scales` could not.
    """

    def __init__(self, graph: onnx.GraphProto, activation: str, scales: Scales, target: Target) -> None:
        self._graph = graph
        self._activation = activation
        self._scales = scales
        self._target = target

    def rewrite(self, products: Sequence[_Product]) -> dict[str, list[onnx.NodeProto]]:
        """The new nodes of each product, by the name of its output. The first also has the nodes of the activation."""
        scale = self._constant(f"{self._activation}.scale", np.array(self._scales.scale, np.float32))
        zero = self._constant(f"{self._activation}.zero", np.array(self._scales.zero, np.uint8))
        nodes, name = [], self._activation
        if self._scales.divisors is not None:
            factors = self._constant(f"{name}.divisors", (1 / self._scales.divisors).astype(np.float32))
            nodes.append(helper.make_node("Mul", [name, factors], [f"{name}.divided"]))
            name = f"{name}.divided"
        nodes.append(helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}.u8"]))
        quantised = [f"{name}.u8", scale, zero]
        if self._target == "openvino":
            nodes.append(helper.make_node("DequantizeLinear", quantised, [f"{name}.rounded"]))
        new_nodes = {}
        start = 0
        for product in products:
            stop = start + len(product.bias)
            nodes += self._product(product, quantised, f"{name}.rounded", self._scales.offset[start:stop])
            new_nodes[product.output] = nodes
            nodes, start = [], stop
        return new_nodes

    def _product(
        self, product: _Product, quantised: Sequence[str], rounded: str, offset: Values
    ) -> list[onnx.NodeProto]:
        weights = product.weights
        if self._scales.divisors is not None:
            weights = weights * self._scales.divisors[:, None]
        integers, steps = eight_bits(weights)
        output = product.output
        names = [
            self._constant(f"{output}.s8", integers),
            self._constant(f"{output}.steps", steps),
            self._constant(f"{output}.zeros", np.zeros(len(steps), np.int8)),
        ]
        bias = self._constant(f"{output}.bias", (product.bias - offset).astype(np.float32))
        if self._target == "onnxruntime":
            inputs = [quantised[0], names[0], quantised[1], names[1], quantised[2], names[2], bias]
            return [helper.make_node("MatMulIntegerToFloat", inputs, [output], domain="com.microsoft")]
        return [
            helper.make_node("DequantizeLinear", names, [f"{output}.weights"], axis=1),
            helper.make_node("MatMul", [rounded, f"{output}.weights"], [f"{output}.product"]),
            helper.make_node("Add", [f"{output}.product", bias], [output]),
        ]

    def _constant(self, name: str, values: NDArray[np.generic]) -> str:
        self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


def _replace(
    graph: onnx.GraphProto, products: Sequence[_Product], new_nodes: Mapping[str, Sequence[onnx.NodeProto]]
) -> None:
    """Replaces the nodes of the products by the new ones, and drops the constants that nothing reads any more."""
    removed = {node.output[0] for product in products for node in product.nodes}
    outputs = {product.nodes[0].output[0]: product.output for product in products}  # by the output of its first node
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.output[0] in outputs:
            nodes += new_nodes[outputs[node.output[0]]]
        elif node.output[0] not in removed:
            nodes.append(node)
    read = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
