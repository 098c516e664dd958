"""ONNX graph: networks with every option of the configuration are exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from polytask.model.config import AlignmentForm, BottleneckForm, LayerNormForm, Pooling
from polytask.model.network import Network
from polytask.model.tasks import Kind, Task
from polytask.model.word_shapes import FIRST_SHAPE_SEGMENT, WordShape
from polytask.service.backends.exported import feed
from polytask.training.export.onnx_graph import onnx_graph
from tests.model.support.networks import build, random_batch, randomise_conditioning, run
from tests.support import exported, tiny

TINY = tiny.config()
SENTENCE = (Task("mood", Kind.CLASSIFICATION, 32, labels=("good", "bad")),)
TOKEN = (Task("words", Kind.TAGGING, 32, labels=("a", "b", "c")),)

PLAIN = replace(
    TINY,
    conditional_alignment=False,
    conditional_attention=(),
    conditional_layer_norm=(),
    conditional_bottleneck=(),
)
NETWORKS = {
    # As RoBERTa, and without anything conditional.
    "plain": (replace(PLAIN, num_segments=0), SENTENCE),
    # As MPNet.
    "pooling": (
        replace(PLAIN, num_segments=0, relative_attention_buckets=32, conditional_pooling=True, task_size=8),
        TOKEN,
    ),
    "shapes": (replace(TINY, word_shapes=True), tiny.tasks()),
    # As ELECTRA.
    "pairs": (replace(TINY, embedding_size=20, pooling=Pooling.PAIRS, conditional_attention=(1,)), tiny.tasks()),
    "paper": (
        replace(
            TINY,
            alignment_form=AlignmentForm.MATRIX,
            layer_norm_form=LayerNormForm.BIAS_IN_SCALE,
            bottleneck_form=BottleneckForm.ADAPTER,
            conditional_layer_norm=(1,),
            film_rank=4,
        ),
        tiny.tasks(),
    ),
    "released": (
        replace(
            TINY,
            layer_norm_form=LayerNormForm.SCALE,
            bottleneck_form=BottleneckForm.LADDER,
            pooling=Pooling.CLS,
            attention_blocks=3,
        ),
        tiny.tasks(),
    ),
}
"""Between them every switch of `NetworkConfig`, and what sets the architectures of backbones apart."""


def outputs(
    network: Network, session: onnxruntime.InferenceSession, lengths: list[int], tasks: list[int]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of the outputs of torch and ONNX Runtime, for real tokens only."""
    batch = random_batch(network.config, lengths, tasks)
    if network.config.word_shapes:
        batch.segment_ids[:] = torch.arange(max(lengths)) % (FIRST_SHAPE_SEGMENT + len(WordShape))
    expected = run(network, batch)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, map(torch.from_numpy, session.run(None, dict(feed(batch)))), strict=True))
    pairs = []
    if "sentence" in found:
        pairs.append((expected.sentence, found["sentence"]))
    if "token" in found:
        assert expected.token is not None
        is_token = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        pairs.append((expected.token[is_token], found["token"][is_token]))
    return pairs


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_exported(name: str) -> None:
    """The graph has torch's outputs, those that some task needs, for batches of any size and a single row."""
    config, tasks = NETWORKS[name]
    network = randomise_conditioning(build(config, tasks), std=0.3)
    session = onnxruntime.InferenceSession(onnx_graph(network).SerializeToString(), providers=["CPUExecutionProvider"])
    last = len(tasks) - 1
    for lengths, task_ids in (([9, 2, 17, 5, 12], [0, last, 0, last, last]), ([13], [last])):
        pairs = outputs(network, session, lengths, task_ids)
        assert len(pairs) == len({task.token_level for task in tasks})
        for expected, found in pairs:
            assert expected.shape == found.shape
            assert expected.abs().max() > 0.01
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_onnx_runtime_fuses_the_graph(tmp_path: Path) -> None:
    """In ONNX Runtime's optimised graph attention, layer norm and Gelu with its bias are one node each."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        exported.graph().SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["SkipLayerNormFusion"],
    )
    kinds = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    layers = TINY.num_layers
    assert kinds.count("Attention") == layers
    assert kinds.count("LayerNormalization") == 1 + 2 * layers
    assert kinds.count("BiasGelu") + kinds.count("Gelu") == 2 * layers
    assert not {"Erf", "Softmax", "Pow", "Sqrt", "ReduceMean"} & set(kinds)
