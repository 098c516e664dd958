"""ONNX Runtime: an exported network, on the CPU in float32 or 8 bits, on CUDA in float32 from the same file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime

from polytask.model.batch import Batch
from polytask.model.heads import Outputs
from polytask.service.backends.contract import DeviceLost
from polytask.service.backends.exported import feed, outputs, require_inputs
from polytask.service.errors import StartupError

CPU = ("CPUExecutionProvider",)
CUDA = ("CUDAExecutionProvider", *CPU)
"""With `TensorrtExecutionProvider` before them, TensorRT runs the parts that it supports."""

_SLOWER = ("SkipLayerNormFusion",)
"""Optimisations to leave out on a CPU: a sum followed by a layer norm is faster there than the fused form."""


class OnnxRuntimeBackend:
    """A file from `polytask export`. On the CPU a row's logits depend neither on padding nor on other rows of the batch."""

    name = "onnxruntime"
    is_async = False

    def __init__(
        self, file: Path, precision: str, threads: int, num_streams: int = 1, providers: Sequence[str] = CPU
    ) -> None:
        """`threads`: on the CPU, shared by the streams. `providers`: execution providers of ONNX Runtime, preferred first.

        Raises StartupError.
        """
        self.num_streams = num_streams
        self.device = "cpu" if providers[0] in CPU else "cuda"
        self.precision = precision
        available = onnxruntime.get_available_providers()
        if providers[0] not in available:
            raise StartupError(
                f"this build of ONNX Runtime has no {providers[0]}, only {', '.join(available)}; "
                "install onnxruntime-gpu in its place, or set POLYTASK_DEVICE to cpu"
            )
        disabled = _SLOWER if self.device == "cpu" else ()
        self._session = onnxruntime.InferenceSession(
            file, _options(max(1, threads // num_streams)), providers=list(providers), disabled_optimizers=disabled
        )
        require_inputs([each.name for each in self._session.get_inputs()])
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, batch: Batch) -> Outputs:
        try:
            results = self._session.run(None, feed(batch))
        except Exception as error:  # its exceptions have no common base class
            if _is_out_of_memory(error):
                raise MemoryError(f"a batch of {list(batch.input_ids.shape)} tokens does not fit") from error
            if self.device == "cuda" and "CUDA" in str(error):
                raise DeviceLost(f"cuda failed for good: {error}") from error
            raise
        return outputs(dict(zip(self._names, results, strict=True)), batch)

    def start(self, batch: Batch) -> Callable[[], Outputs]:
        return partial(self.run, batch)


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # It would keep a memory plan for every shape.
    options.enable_mem_pattern = False
    # Its threads share the cores with those that answer HTTP, so they must not spin after a batch.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Errors only: warnings are about the file, and were shown when it was exported.
    options.log_severity_level = 3
    return options


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or any(
        sign in text for sign in ("bad_alloc", "Failed to allocate memory", "out of memory")
    )
