"""The same bits: when one task is tuned, all others have the same logits with every engine and precision."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import onnx
import pytest
import torch

from polytask.model.batch import Batch
from polytask.model.config import Product
from polytask.model.network import Network
from polytask.model.unfolding import with_tuned_rows
from polytask.service.backends.exported import feed
from polytask.service.backends.selection import is_installed, open_backend
from polytask.training.export.activation_scales import GraphScales, read_scales, write_scales
from polytask.training.export.onnx_graph import onnx_graph
from polytask.training.export.quantisation import Target, choose_scales, quantise
from tests.model.support.networks import one_row, random_batch, randomise_conditioning
from tests.support import tiny

TUNED = 0
"""A sentence-level task."""

RESIDUALS = {
    "row": (0, ()),
    "all": (3, tuple(Product)),
}


@cache
def before() -> Network:
    """The tiny network with conditioning that changes something."""
    return randomise_conditioning(tiny.network(), 0.3)


@cache
def after(residual: str) -> Network:
    """The same after one task was tuned to anything: its row, its residual and its head."""
    rank, products = RESIDUALS[residual]
    network = with_tuned_rows(before(), [TUNED], rank=rank, layers=[0, 1], products=products)
    generator = torch.Generator().manual_seed(4)
    assert network.tuned_rows is not None
    with torch.no_grad():
        for parameter in network.tuned_rows.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        network.heads.sentence.weight[network.output_slices[TUNED]] *= 1.3
    return network.eval()


@cache
def graph(residual: str | None) -> onnx.ModelProto:
    """The graph of the network before, or after with that residual."""
    return onnx_graph(before() if residual is None else after(residual))


@cache
def scales(file: Path) -> GraphScales:
    """The 8-bit scales of the network before, as its exports keep them."""
    rows = [random_batch(tiny.config(), [length], [length % len(tiny.tasks())], seed=length) for length in range(3, 60)]
    write_scales(file, choose_scales(graph(None), [feed(one_row(row, 0)) for row in rows]))
    return read_scales(file)


def outputs(engine: str, residual: str | None, batch: Batch, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of all tasks but the tuned one, of their rows, without padding."""
    backend, precision = engine.split("-")
    network, file = before() if residual is None else after(residual), None
    if backend != "torch":
        model, file = graph(residual), folder / f"{residual}.onnx"
        if precision == "int8":
            target: Target = "onnxruntime" if backend == "onnxruntime" else "openvino"
            model = quantise(model, scales(folder / "scales.safetensors"), target=target)
        onnx.save(model, file)
    found = open_backend(backend, precision, file, network, 1).run(batch)
    assert found.token is not None
    others, columns = batch.task_ids != TUNED, torch.ones(found.sentence.shape[1], dtype=torch.bool)
    columns[network.output_slices[TUNED]] = False
    is_token = torch.arange(found.token.shape[1]) < batch.lengths[others][:, None]
    return found.sentence[others][:, columns], found.token[others][is_token]


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize(
    "engine", ["torch-float32", "onnxruntime-float32", "onnxruntime-int8", "openvino-float32", "openvino-int8"]
)
def test_other_tasks_have_the_same_bits(engine: str, residual: str, tmp_path: Path) -> None:
    """In mixed batches and alone, the logits of tasks that were not tuned are equal to the bit; 8 bits by kept scales."""
    if not is_installed(engine.split("-", maxsplit=1)[0]):
        pytest.skip("is not installed")
    tasks = [index % len(tiny.tasks()) for index in range(10)]
    mixed = random_batch(tiny.config(), [9, 4, 17, 30, 12, 7, 21, 3, 28, 5], tasks)
    for batch in (mixed, one_row(mixed, 1), one_row(mixed, 3)):
        old, new = outputs(engine, None, batch, tmp_path), outputs(engine, residual, batch, tmp_path)
        assert torch.equal(old[0], new[0])
        assert torch.equal(old[1], new[1])
