"""Quantisation: 8-bit outputs stay near those of the network, and no row depends on another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from polytask.service.backends.exported import feed
from polytask.training.export.quantisation import Target, choose_scales, quantise
from tests.model.support.networks import random_batch
from tests.support import exported, tiny


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """The graph in ONNX Runtime."""
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_the_outputs_stay_near(target: Target) -> None:
    """For both targets, logits of rows not used in calibration differ by a small share of their deviation."""
    batch = random_batch(tiny.config(), [30] * 14, list(range(7)) * 2, seed=1)
    expected = session(exported.graph()).run(None, dict(feed(batch)))
    found = session(exported.eight_bits(target)).run(None, dict(feed(batch)))
    for one, other in zip(expected, found, strict=True):
        assert 0 < np.abs(one - other).mean() < 0.05 * one.std()


def test_both_targets_have_the_same_outputs() -> None:
    """The graphs for both targets agree but for the order of float sums."""
    batch = exported.batch([12])
    plain, fused = (
        session(exported.eight_bits(target)).run(None, dict(feed(batch))) for target in ("openvino", "onnxruntime")
    )
    for one, other in zip(plain, fused, strict=True):
        np.testing.assert_allclose(one, other, atol=0.02 * one.std())


def test_every_product_with_weights_is_one_of_integers() -> None:
    """No weight matrix stays in float32, and there are as many integer products as there were float products."""
    before, after = exported.graph().graph, exported.eight_bits("onnxruntime").graph
    assert not [node for node in after.node if node.op_type in {"MatMul", "Gemm"} and "weight" in node.input[1]]
    integers = [node for node in after.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(integers) == sum(node.op_type in {"MatMul", "Gemm"} for node in before.node)


def test_some_products_can_stay_in_float32() -> None:
    """The products of the given number of activations stay in float32, and the graph runs."""
    feeds = [feed(exported.padded(exported.batch([9, 14, 21]), row, length)) for row, length in enumerate([9, 14, 21])]
    scales = replace(choose_scales(exported.graph(), feeds), num_float_products=3)
    spared = quantise(exported.graph(), scales, target="onnxruntime")
    inputs = {
        node.input[0] for node in exported.eight_bits("onnxruntime").graph.node if node.op_type == "QuantizeLinear"
    }
    left = {node.input[0] for node in spared.graph.node if node.op_type == "QuantizeLinear"}
    assert len(left) == len(inputs) - 3
    session(spared).run(None, dict(feed(exported.batch([5, 6]))))


def product(weights: NDArray[np.float32], bias: NDArray[np.float32]) -> onnx.ModelProto:
    """A graph that multiplies `input_ids`, read as numbers, by weights and adds a bias."""
    size, width = weights.shape
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["input_ids", "lengths"], ["states"]),
            helper.make_node("MatMul", ["states", "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["out"]),
        ],
        "product",
        [
            helper.make_tensor_value_info("input_ids", onnx.TensorProto.FLOAT, ["tokens", size]),
            helper.make_tensor_value_info("lengths", onnx.TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, ["tokens", width])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def error_of(states: NDArray[np.float32], weights: NDArray[np.float32]) -> float:
    """The mean error of a quantised product, as a share of its outputs; half of the rows are for calibration."""
    bias = np.linspace(-1, 1, weights.shape[1], dtype=np.float32)
    half = len(states) // 2
    # As many "tokens" as values keeps every row of the sample.
    feed = {"input_ids": states[:half], "lengths": np.ones(1, np.float32)}
    model = product(weights, bias)
    quantised = quantise(model, choose_scales(model, [feed]), target="onnxruntime")  # type: ignore[list-item]
    found = session(quantised).run(None, feed | {"input_ids": states[half:]})[0]
    wanted = states[half:] @ weights + bias
    return float(np.abs(found - wanted).mean() / wanted.std())


def test_large_features_do_not_cost_the_others_their_levels() -> None:
    """A feature a hundred times larger than the others makes the error at most three times larger."""
    random = np.random.default_rng(0)
    states = random.standard_normal((400, 48)).astype(np.float32)
    weights = random.standard_normal((48, 16)).astype(np.float32)
    even = error_of(states, weights)
    states[:, 7] *= 100
    weights[7] /= 100
    assert even < 0.01
    assert error_of(states, weights) < 3 * even
