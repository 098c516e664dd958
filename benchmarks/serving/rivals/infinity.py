"""infinity, from its own command line: engine torch, or optimum (ONNX Runtime) in fp32 or int8."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from benchmarks.serving.rivals.classifiers import ENGINE, MODELS, PORT, TASKS

# infinity takes the ONNX file that it finds, on a CPU rather a quantised one, and writes an optimised one beside it.
_FILES = {"onnx": ("model.onnx", "model.onnx"), "int8": ("model_int8.onnx", "model_quantized.onnx")}


def linked(task: str, folder: Path) -> Path:
    """A folder with the model of a task and no ONNX file but that of the engine."""
    own = folder / task
    own.mkdir()
    for file in (MODELS / task).iterdir():
        if file.suffix != ".onnx":
            (own / file.name).symlink_to(file.resolve())
    if ENGINE in _FILES:
        source, name = _FILES[ENGINE]
        (own / name).symlink_to((MODELS / task / source).resolve())
    return own


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp())
    models = [word for task in TASKS for word in ("--model-id", str(linked(task, folder)), "--served-model-name", task)]
    engine = "torch" if ENGINE == "torch" else "optimum"
    options = ["--device", "cpu", "--engine", engine, "--host", "127.0.0.1", "--port", str(PORT)]
    command = str(Path(sys.executable).with_name("infinity_emb"))
    os.execv(command, [command, "v2", *models, *options, "--no-model-warmup", "--log-level", "warning"])  # noqa: S606, its own command
