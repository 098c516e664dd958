"""Checkpoints of a run: everything its next step depends on, as tensors and JSON, so that reading one runs no code."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from polytask.model_store.durable_files import flush

_NUM_KEPT = 2
_STATE = "state"


class RunError(Exception):
    """A run that cannot start, resume or be written; the message names the path, the problem and the remedy."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run between two steps: its tensors, on the CPU, and its other state as JSON values."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Writes a file that is complete or, whenever the machine stops, not there. Raises OSError.

    The JSON is stored as a tensor of bytes, because the header of safetensors is limited in size.
    """
    text = bytearray(json.dumps(snapshot.state, separators=(",", ":")).encode())
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in snapshot.tensors.items()}
    temporary = path.with_name(f".{path.name}.new")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file(tensors | {_STATE: torch.frombuffer(text, dtype=torch.uint8)}, temporary)
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error
    flush(temporary)
    temporary.rename(path)
    flush(path.parent)


def read_snapshot(path: Path) -> Snapshot:
    """The snapshot that `write_snapshot` wrote. Raises RunError for any other file."""
    try:
        tensors = load_file(path)
        return Snapshot(tensors, json.loads(tensors.pop(_STATE).numpy().tobytes()))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RunError(f"{path}: no checkpoint of a run ({error}); remove it to go on from the one before") from error


def checkpoint_path(folder: Path, updates: int) -> Path:
    """The path of the checkpoint after that many updates."""
    return folder / f"{updates:09}.safetensors"


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run; None if it has none."""
    return max(folder.glob("[0-9]*.safetensors"), default=None)


def write_checkpoint(folder: Path, updates: int, snapshot: Snapshot) -> None:
    """Writes the checkpoint after that many updates, and removes all but the last two."""
    write_snapshot(checkpoint_path(folder, updates), snapshot)
    for path in sorted(folder.glob("[0-9]*.safetensors"))[:-_NUM_KEPT]:
        path.unlink()


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of Python's, numpy's and torch's random generators in this process, as JSON values."""
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 - the state of others' code, not ours
    assert isinstance(numpy_state, dict)
    numpy_state["state"] = {**numpy_state["state"], "key": numpy_state["state"]["key"].tolist()}
    states = {"python": [version, list(words), gauss], "numpy": numpy_state, "torch": torch.get_rng_state().tolist()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device).tolist()
    return states


def restore_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Sets every generator to the state that `random_states` returned."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    key = np.array(states["numpy"]["state"]["key"], dtype=np.uint32)
    numpy_state = {**states["numpy"], "state": {**states["numpy"]["state"], "key": key}}
    np.random.set_state(numpy_state)  # noqa: NPY002 - as above
    torch.set_rng_state(torch.tensor(states["torch"], dtype=torch.uint8))
    if device.type == "cuda":
        torch.cuda.set_rng_state(torch.tensor(states["cuda"], dtype=torch.uint8), device)
