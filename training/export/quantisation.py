"""An ONNX graph with its matrix products in 8 bits, on scales fixed once and for all by calibration.

Every product with a matrix of weights becomes one of integers: activations as u8 with one scale and zero point for the
tensor, weights as s8 with a scale for each output. All scales are constants, and whole numbers add up to the same sum in
any order, so that no row depends on its batch mates. Attention, layer norm and Gelu stay as they are.

A few features of an activation are far larger than the others, and would leave those too few levels. They are divided down
and their weights multiplied by as much (after Xiao et al., "SmoothQuant", ICML 2023, which does so with every feature). The
mean error that is left goes into the bias.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from polytask.training.export.activation_balancing import fold_scales
from polytask.training.export.cpu_rewrites import rewrite_for_cpu

Values = NDArray[np.float32]
Feed = Mapping[str, NDArray[np.int64]]
"""The inputs of the graph by name: a batch, without padding."""

_SAMPLE = 2000
"""Tokens whose activations are kept for choosing the scales."""

_LARGE = 6
"""One feature in so many counts as large."""

_WORTH = 1.8
"""How many times smaller dividing must make the error: it takes another pass over the activation."""


@dataclass(frozen=True, slots=True)
class _Product:
    """A product with constant weights: its nodes, the activation's name, and weights [I, O] and bias [O]."""

    nodes: tuple[onnx.NodeProto, ...]
    activation: str
    weights: Values
    bias: Values

    @property
    def output(self) -> str:
        return str(self.nodes[-1].output[0])


@dataclass(frozen=True, slots=True)
class _Scales:
    """How an activation becomes u8: divided by `divisors` [I] (None: by nothing) and `scale`, plus `zero`.

    `offset`: the mean error in the outputs of its products, one after the other. `error`: the mean squared one, as
    a share of the outputs.
    """

    divisors: Values | None
    scale: float
    zero: int
    offset: Values
    error: float


def quantise(model: onnx.ModelProto, feeds: Sequence[Feed], *, fused: bool, spared: int = 0) -> onnx.ModelProto:
    """The same graph in 8 bits, calibrated on `feeds`.

    `spared`: of how many activations the products stay as they are, those that suffer most. `fused`: products are nodes
    of ONNX Runtime's own, which bring scales and bias along. Otherwise they are plain ONNX, a product between
    DequantizeLinear nodes, which any engine may fuse.
    """
    quantised = copy.deepcopy(model)
    products = _products(quantised.graph)
    samples = _sample(model, sorted({product.activation for product in products}), feeds)
    scales = _scales_of(products, samples)
    divisors = {name: own.divisors for name, own in scales.items() if own.divisors is not None}
    if balanced := fold_scales(quantised.graph, divisors):
        samples = {name: one / divisors[name] if name in balanced else one for name, one in samples.items()}
        products = _products(quantised.graph)
        scales = _scales_of(products, samples)
    chosen = sorted(scales, key=lambda name: scales[name].error)[: len(scales) - spared]
    replaced: dict[str, list[onnx.NodeProto]] = {}
    for name in chosen:
        replaced |= _Rewriter(quantised.graph, name, scales[name], fused=fused).rewrite(_readers(products, name))
    _replace(quantised.graph, [product for product in products if product.output in replaced], replaced)
    if fused:
        rewrite_for_cpu(quantised.graph)
        quantised.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return quantised


def _scales_of(products: Sequence[_Product], samples: Mapping[str, Values]) -> dict[str, _Scales]:
    return {
        name: _choose(sample, np.concatenate([product.weights for product in _readers(products, name)], axis=1))
        for name, sample in samples.items()
    }


def _readers(products: Sequence[_Product], name: str) -> list[_Product]:
    return [product for product in products if product.activation == name]


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
    """The bias of a product that has none."""
    return np.zeros(weights.shape[1], np.float32)


def _sample(model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Feed]) -> dict[str, Values]:
    """Activations of that name for a few hundred tokens, [tokens, I] each; of rows, where they have none."""
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
        places = np.flatnonzero(random.random(feed["input_ids"].size) < _SAMPLE / num_tokens)
        for name, values in zip(names, session.run(list(names), dict(feed)), strict=True):
            flat = values.reshape(-1, values.shape[-1])
            kept[name].append(flat[places] if len(flat) == feed["input_ids"].size else flat)
    return {name: np.concatenate(values) for name, values in kept.items()}


def _choose(sample: Values, weights: Values) -> _Scales:
    """The scales that change `sample @ weights` least; large features are divided only where it is worth its time."""
    wanted = sample @ weights
    plain = _scales(sample, None, weights, wanted)
    largest = np.abs(sample).max(axis=0)
    limit = max(float(np.sort(largest)[-1 - len(largest) // _LARGE]), 1e-6)
    divisors = np.maximum(1, largest / limit).astype(np.float32)
    divided = _scales(sample / divisors, divisors, weights * divisors[:, None], wanted)
    return divided if divided.error * _WORTH < plain.error else plain


def _scales(sample: Values, divisors: Values | None, weights: Values, wanted: Values) -> _Scales:
    """The scales for a sample [N, I] and weights that are divided and multiplied already, `wanted` being their product."""
    low, high = min(float(sample.min()), 0.0), max(float(sample.max()), 1e-6)
    scale = np.float32((high - low) / 255)
    zero = round(-low / float(scale))
    levels = np.clip(np.round(sample / scale) + zero, 0, 255) - zero
    whole, steps = _eight_bits(weights)
    errors = (levels * scale) @ (whole * steps) - wanted
    offset = errors.mean(axis=0)
    # Of each token as a share of its own outputs: what follows is normalised, and the largest tokens matter least.
    sizes = (wanted**2).mean(axis=1) + 1e-3 * (wanted**2).mean() + 1e-12
    error = float((((errors - offset) ** 2).mean(axis=1) / sizes).mean())
    return _Scales(divisors, float(scale), zero, offset, error)


def _eight_bits(weights: Values) -> tuple[NDArray[np.int8], Values]:
    """Weights [I, O] as whole numbers, and the step of each output [O]."""
    steps = np.maximum(np.abs(weights).max(axis=0) / 127, 1e-12).astype(np.float32)
    return np.clip(np.round(weights / steps), -127, 127).astype(np.int8), steps


class _Rewriter:
    """Puts the products of one activation into integers; their constants go into the graph."""

    def __init__(self, graph: onnx.GraphProto, activation: str, scales: _Scales, *, fused: bool) -> None:
        self._graph = graph
        self._activation = activation
        self._scales = scales
        self._fused = fused

    def rewrite(self, products: Sequence[_Product]) -> dict[str, list[onnx.NodeProto]]:
        """The new nodes of each product, by the name of its output; those of the activation are with the first."""
        scale = self._constant(f"{self._activation}.scale", np.array(self._scales.scale, np.float32))
        zero = self._constant(f"{self._activation}.zero", np.array(self._scales.zero, np.uint8))
        nodes, name = [], self._activation
        if self._scales.divisors is not None:
            factors = self._constant(f"{name}.divisors", (1 / self._scales.divisors).astype(np.float32))
            nodes.append(helper.make_node("Mul", [name, factors], [f"{name}.divided"]))
            name = f"{name}.divided"
        nodes.append(helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}.u8"]))
        quantised = [f"{name}.u8", scale, zero]
        if not self._fused:
            nodes.append(helper.make_node("DequantizeLinear", quantised, [f"{name}.rounded"]))
        replaced = {}
        start = 0
        for product in products:
            stop = start + len(product.bias)
            nodes += self._product(product, quantised, f"{name}.rounded", self._scales.offset[start:stop])
            replaced[product.output] = nodes
            nodes, start = [], stop
        return replaced

    def _product(
        self, product: _Product, quantised: Sequence[str], rounded: str, offset: Values
    ) -> list[onnx.NodeProto]:
        weights = product.weights
        if self._scales.divisors is not None:
            weights = weights * self._scales.divisors[:, None]
        whole, steps = _eight_bits(weights)
        output = product.output
        names = [
            self._constant(f"{output}.s8", whole),
            self._constant(f"{output}.steps", steps),
            self._constant(f"{output}.zeros", np.zeros(len(steps), np.int8)),
        ]
        bias = self._constant(f"{output}.bias", (product.bias - offset).astype(np.float32))
        if self._fused:
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
    graph: onnx.GraphProto, products: Sequence[_Product], replaced: Mapping[str, Sequence[onnx.NodeProto]]
) -> None:
    """Puts the new nodes in the places of the old, and leaves out the constants that nothing reads any more."""
    old = {node.output[0] for product in products for node in product.nodes}
    first = {product.nodes[0].output[0]: product.output for product in products}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.output[0] in first:
            nodes += replaced[first[node.output[0]]]
        elif node.output[0] not in old:
            nodes.append(node)
    read = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
