"""Activation balancing: features are divided where they are produced, and the outputs stay the same."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from polytask.model.config import Product
from polytask.model.unfolding import with_tuned_rows
from polytask.service.backends.exported import feed
from polytask.training.export.activation_balancing import fold_scales
from polytask.training.export.onnx_graph import onnx_graph
from tests.support import exported, tiny


def outputs(model: onnx.ModelProto) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """The graph's outputs for rows of several tasks."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feed(exported.batch([11, 5, 30, 8, 8, 17, 25])))))


def activations(graph: onnx.GraphProto) -> dict[str, int]:
    """All activations that products with constant weights read, with their numbers of features."""
    sizes = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in sizes]
    return {node.input[0]: sizes[node.input[1]] for node in products}


@pytest.fixture(scope="module")
def divided() -> tuple[onnx.ModelProto, set[str]]:
    """The tiny network with all activations divided that can be, each feature by another number, and their names."""
    model, random = copy.deepcopy(exported.graph()), np.random.default_rng(0)
    divisors = {name: random.uniform(1, 4, size).astype(np.float32) for name, size in activations(model.graph).items()}
    return model, fold_scales(model.graph, divisors)


def test_outputs_stay_the_same(divided: tuple[onnx.ModelProto, set[str]]) -> None:
    """Dividing features and multiplying the weights that read them cancel out."""
    for before, after in zip(outputs(exported.graph()), outputs(divided[0]), strict=True):
        assert np.abs(before).max() > 0.01
        np.testing.assert_allclose(after, before, atol=1e-4)


def test_activations_from_attention_and_tables_are_divided(divided: tuple[onnx.ModelProto, set[str]]) -> None:
    """The attention of every layer and the input of each bottleneck from a task's table can be divided."""
    graph = exported.graph().graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    readers = [name for node in graph.node for name in node.input]
    expected = {name for name in activations(graph) if makers[name] == "Attention"}
    expected |= {name for name in activations(graph) if makers[name] == "Add" and readers.count(name) == 1}
    assert len(expected) > graph_count(graph, "Attention")
    assert divided[1] == expected


def test_a_sum_of_both_table_rows_is_not_divided() -> None:
    """A table's two rows added to an activation do not scale it, so it is left alone; multiplied and added they do."""
    table, weights = np.ones((2, 2, 3), np.float32), np.ones((3, 4), np.float32)
    text = """
        sums (float[B, L, 3] x, int64[B, 1] ids, int64[1] zero, int64[1] one, int64[1] two) => (float[B, L, 4] y) {
            rows = GatherND (table, ids)
            scale = Slice (rows, zero, one, one)
            shift = Slice (rows, one, two, one)
            first = Add (x, scale)
            both = Add (first, shift)
            y = MatMul (both, weights)
        }"""
    graph = onnx.parser.parse_graph(text)
    graph.initializer.extend([numpy_helper.from_array(table, "table"), numpy_helper.from_array(weights, "weights")])
    assert fold_scales(graph, {"both": np.full(3, 2, np.float32)}) == set()
    graph.node[3].op_type = "Mul"
    assert fold_scales(graph, {"both": np.full(3, 2, np.float32)}) == {"both"}


def test_a_network_with_residuals_is_divided_alike(divided: tuple[onnx.ModelProto, set[str]]) -> None:
    """With low-rank residuals on every product as many activations are divided, and the outputs stay the same."""
    network, random = tiny.network(), np.random.default_rng(0)
    network = with_tuned_rows(network, [0, 5], rank=2, layers=range(network.config.num_layers), products=tuple(Product))
    assert network.tuned_rows is not None
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.tuned_rows.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    before = onnx_graph(network.eval())
    after = copy.deepcopy(before)
    divisors = {name: random.uniform(1, 4, size).astype(np.float32) for name, size in activations(after.graph).items()}
    assert len(fold_scales(after.graph, divisors)) == len(divided[1])
    for old, new in zip(outputs(before), outputs(after), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-4)


def graph_count(graph: onnx.GraphProto, kind: str) -> int:
    """How many nodes of a kind there are."""
    return sum(node.op_type == kind for node in graph.node)


def test_an_activation_in_a_residual_is_not_divided(divided: tuple[onnx.ModelProto, set[str]]) -> None:
    """The input of an expansion is also added to its output, so it is left alone."""
    expansions = {node.input[0] for node in exported.graph().graph.node if "expand" in "".join(node.input)}
    assert not divided[1] & expansions
