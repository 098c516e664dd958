"""OpenVINO: an exported network on the CPU, in float32, bfloat16 or 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from numpy.typing import NDArray

from polytask.model.batch import Batch
from polytask.model.heads import Outputs
from polytask.service.backends.exported import feed, outputs, require_inputs

_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
"""The type of computations that the file does not do in 8 bits."""


class OpenVinoBackend:
    """A file from `polytask export`.

    Its kernels sum in another order where a row is padded. In 8 bits such a rounding difference can become a whole step,
    so there rows of different lengths run separately, without padding.
    """

    name = "openvino"
    device = "cpu"
    is_async = False
    num_streams = 1

    def __init__(self, file: Path, precision: str, threads: int) -> None:
        self.precision = precision
        # Compiling gives the calling thread a stack for signals and frees it with the model: the next signal would end the
        # process. So it runs in a thread that gets no signals and ends at once.
        with ThreadPoolExecutor(1) as thread:
            self._model = thread.submit(_compiled, file, precision, threads).result()
        require_inputs([each.any_name for each in self._model.inputs])
        self._request = self._model.create_infer_request()
        self._names = [output.any_name for output in self._model.outputs]

    def run(self, batch: Batch) -> Outputs:
        if self.precision != "int8" or bool((batch.lengths == batch.lengths[0]).all()):
            return self._run(batch)
        sentence, token = None, None
        for length in sorted(set(batch.lengths.tolist())):
            rows = torch.nonzero(batch.lengths == length)[:, 0]
            part = self._run(_rows(batch, rows, length))
            if sentence is None:
                sentence = torch.zeros(len(batch.lengths), part.sentence.shape[1])
            sentence[rows] = part.sentence
            if part.token is not None:
                if token is None:
                    token = torch.zeros(*batch.input_ids.shape, part.token.shape[2])
                token[rows, :length] = part.token
        assert sentence is not None, "a batch has rows"
        return Outputs(sentence, token)

    def start(self, batch: Batch) -> Callable[[], Outputs]:
        return partial(self.run, batch)

    def _run(self, batch: Batch) -> Outputs:
        results = self._request.infer(feed(batch), share_inputs=True)
        # The request reuses its arrays for the next batch.
        copied: dict[str, NDArray[np.float32]] = {
            name: np.array(results[index]) for index, name in enumerate(self._names)
        }
        return outputs(copied, batch)


def _compiled(file: Path, precision: str, threads: int) -> Any:
    core = openvino.Core()
    return core.compile_model(
        core.read_model(file),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Other processes may use the same cores.
            "ENABLE_CPU_PINNING": False,
        },
    )


def _rows(batch: Batch, rows: torch.Tensor, length: int) -> Batch:
    """The given rows, all of `length` tokens, without padding."""
    return Batch(
        batch.input_ids[rows, :length].contiguous(),
        batch.segment_ids[rows, :length].contiguous(),
        batch.lengths[rows],
        batch.task_ids[rows],
        batch.token_level,
    )
