"""CPU rewrites: other nodes with the same outputs."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import onnx
import onnxruntime

from polytask.service.backends.exported import feed
from polytask.training.export.cpu_rewrites import rewrite_for_cpu
from tests.support import exported, tiny

TINY = tiny.config()


def rewritten() -> onnx.ModelProto:
    """The tiny network's graph after the rewrites."""
    model = copy.deepcopy(exported.graph())
    rewrite_for_cpu(model.graph)
    return model


def test_the_outputs_stay_the_same() -> None:
    """The logits agree but for rounding, for rows of several tasks and lengths."""
    batch = exported.batch([11, 5, 30, 8, 8, 17, 25])
    before, after = (
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, dict(feed(batch))
        )
        for model in (exported.graph(), rewritten())
    )
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4)


def test_norms_that_tasks_modulate_have_no_weights() -> None:
    """Conditional layer norms, and the embeddings' before an alignment, become instance norms; the others stay."""
    kinds = Counter(node.op_type for node in rewritten().graph.node)
    conditional = 1 + 2 * len(TINY.conditional_layer_norm)
    assert kinds["InstanceNormalization"] == conditional
    assert kinds["LayerNormalization"] == 1 + 2 * TINY.num_layers - conditional


def test_rows_are_gathered_at_once() -> None:
    """One gather yields scales and shifts of all modules, and at most one other those of attention biases."""
    graph = rewritten().graph
    gathers = [node for node in graph.node if "task_ids" in node.input and node.op_type == "Gather"]
    assert len(gathers) == 1
    assert sum(node.op_type == "GatherND" for node in graph.node) <= 1
    tables = next(tensor for tensor in graph.initializer if tensor.name == gathers[0].input[0])
    assert list(tables.dims)[::2] == [len(tiny.tasks()), TINY.hidden_size]
