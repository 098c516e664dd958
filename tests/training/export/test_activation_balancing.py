"""Activation balancing: features are divided where they are produced, and the outputs stay the same."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

from polytask.service.backends.exported import feed
from polytask.training.export.activation_balancing import fold_scales
from tests.support import exported


def outputs(model: onnx.ModelProto) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """The graph's outputs for rows of several tasks."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feed(exported.batch([11, 5, 30, 8, 8, 17, 25])))))


def activations(graph: onnx.GraphProto) -> dict[str, int]:
    """All activations that products with weights read, with their numbers of features."""
    sizes = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    return {node.input[0]: sizes[node.input[1]] for node in graph.node if node.op_type == "MatMul"}


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


def graph_count(graph: onnx.GraphProto, kind: str) -> int:
    """How many nodes of a kind there are."""
    return sum(node.op_type == kind for node in graph.node)


def test_an_activation_in_a_residual_is_not_divided(divided: tuple[onnx.ModelProto, set[str]]) -> None:
    """The input of an expansion is also added to its output, so it is left alone."""
    expansions = {node.input[0] for node in exported.graph().graph.node if "expand" in "".join(node.input)}
    assert not divided[1] & expansions
