"""Exported networks: inputs and outputs by name, the same for ONNX Runtime and OpenVINO."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from polytask.model.batch import Batch
from polytask.model.heads import Outputs

INPUTS = frozenset({"input_ids", "segment_ids", "lengths", "task_ids"})
"""Names of the inputs of an exported network."""


def require_inputs(names: Collection[str]) -> None:
    """Raises ValueError unless these are the inputs of an exported network."""
    if set(names) != INPUTS:
        raise ValueError(f"its inputs are {', '.join(names)}, not {', '.join(sorted(INPUTS))}")


def feed(batch: Batch) -> dict[str, NDArray[np.int64]]:
    """The inputs of an exported network by name, without a copy."""
    return {
        "input_ids": batch.input_ids.numpy(),
        "segment_ids": batch.segment_ids.numpy(),
        "lengths": batch.lengths.numpy(),
        "task_ids": batch.task_ids.numpy(),
    }


def outputs(by_name: Mapping[str, NDArray[np.float32]], batch: Batch) -> Outputs:
    """The outputs of an exported network from those by name. A name is missing if no task has such outputs."""
    token = by_name.get("token") if batch.token_level else None
    sentence = by_name.get("sentence")
    return Outputs(
        torch.zeros(len(batch.lengths), 0) if sentence is None else torch.from_numpy(sentence),
        None if token is None else torch.from_numpy(token),
    )
