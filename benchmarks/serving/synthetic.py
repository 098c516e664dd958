"""Networks of random weights and rows of random tokens, to measure backends."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import torch
from torch import nn

from polytask.model.batch import Batch, collate
from polytask.model.config import NetworkConfig
from polytask.model.encoding import Encoding
from polytask.model.network import Network
from polytask.model.tasks import Kind, Task
from polytask.service.backends.contract import Backend
from polytask.service.backends.exported import feed
from polytask.service.backends.selection import open_export, open_torch
from polytask.service.backends.shape_buckets import Buckets
from polytask.training.export.onnx_graph import onnx_graph
from polytask.training.export.quantisation import choose_scales, quantise

ENGINES = ("torch", "onnxruntime", "onnxruntime-int8", "openvino", "openvino-bfloat16", "openvino-int8")
"""Where no precision is named it is float32, or for torch what the device computes in."""

_LONGEST = 384
_CALIBRATION_ROWS = 64


def _sizes(hidden_size: int, num_layers: int, num_heads: int) -> NetworkConfig:
    return NetworkConfig(
        vocab_size=30_522,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        intermediate_size=4 * hidden_size,
        max_positions=512,
        max_length=_LONGEST,
    )


SIZES = {"tiny": _sizes(64, 2, 4), "minilm": _sizes(384, 6, 12), "bert-base": _sizes(768, 12, 12)}


@dataclass(frozen=True, slots=True)
class Bench:
    """A measurement: one of ENGINES, its threads, a device, the sizes of the network, and the number of rounds."""

    engine: str
    threads: int
    device: torch.device
    config: NetworkConfig
    rounds: int

    def backend(self, num_tasks: int = 8, *, conditional: bool = True) -> Backend:
        """A backend with a network of random weights; plain: without any conditional module."""
        network = Network(self.config if conditional else plain(self.config), synthetic_tasks(num_tasks)).eval()
        for name, parameter in network.named_parameters():
            if name.endswith("norm.weight"):
                # As in a trained network: one without weights may be had for less.
                nn.init.normal_(parameter, mean=1, std=0.1)
        backend, _, precision = self.engine.partition("-")
        if backend == "torch":
            buckets = Buckets.up_to(_LONGEST)  # of CUDA alone
            return open_torch(network, self.threads, self.device.type, buckets)
        graph = onnx_graph(network)
        if precision == "int8":
            feeds = [feed(batch) for batch in self.batches(lengths(_CALIBRATION_ROWS), 1, num_tasks)]
            graph = quantise(
                graph, choose_scales(graph, feeds), target="onnxruntime" if backend == "onnxruntime" else "openvino"
            )
        with tempfile.TemporaryDirectory() as folder:
            onnx.save(graph, file := Path(folder) / "network.onnx")
            return open_export(backend, file, precision or "float32", self.threads, self.device.type)

    def batches(self, lengths: Sequence[int], num_rows: int, num_tasks: int = 8) -> list[Batch]:
        """Rows of these lengths, in this order, in batches, their tasks at random; what is left over is left out."""
        drawn = random.Random(0)
        rows = [Encoding((drawn.randrange(1000, 30_000),) * length, (0,) * length) for length in lengths]
        parts = [rows[start : start + num_rows] for start in range(0, len(rows) - num_rows + 1, num_rows)]
        ids = [[drawn.randrange(num_tasks) for _ in part] for part in parts]
        return [collate(part, own, token_level=False) for part, own in zip(parts, ids, strict=True)]


def conditioned(config: NetworkConfig) -> NetworkConfig:
    """The conditioning of the embedded checkpoint: attention everywhere, layer norm and bottleneck in the upper half."""
    layers = tuple(range(config.num_layers))
    upper = layers[config.num_layers // 2 :]
    return replace(
        config,
        attention_blocks=3,
        bottleneck_size=config.hidden_size // 3,
        conditional_alignment=True,
        conditional_attention=layers,
        conditional_layer_norm=upper,
        conditional_bottleneck=upper,
    )


def plain(config: NetworkConfig) -> NetworkConfig:
    """The same encoder without any conditional module."""
    return replace(
        config,
        conditional_alignment=False,
        conditional_attention=(),
        conditional_layer_norm=(),
        conditional_bottleneck=(),
    )


def synthetic_tasks(count: int) -> list[Task]:
    """Classifications with four labels."""
    return [
        Task(f"task-{number}", Kind.CLASSIFICATION, _LONGEST, labels=("a", "b", "c", "d")) for number in range(count)
    ]


def lengths(count: int) -> list[int]:
    """Numbers of tokens as texts have them: most short, few long, 31 on average."""
    drawn = random.Random(0)
    return [min(_LONGEST, max(5, round(drawn.lognormvariate(3.2, 0.65)))) for _ in range(count)]


def encoder_flops(config: NetworkConfig, num_rows: int, length: int) -> float:
    """Floating-point operations of the matrix products of the plain encoder."""
    linear = 8 * config.hidden_size**2 + 4 * config.hidden_size * config.intermediate_size
    return config.num_layers * num_rows * length * (linear + 4 * length * config.hidden_size)
