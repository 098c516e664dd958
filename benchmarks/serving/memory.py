"""Resident memory and speed of the embedded checkpoint over batches of many shapes, with and without oneDNN.

    python -m benchmarks.serving.memory [--batches 400]

oneDNN keeps code and buffers for every shape that it meets. Each setting runs in a process of its own.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time

import psutil
import torch

from polytask.model.batch import collate
from polytask.model.encoding import Encoding
from polytask.model_store import DEFAULT_STORE
from polytask.model_store.load import load
from polytask.model_store.versions import resolve

_TOKENS = 1024


def main() -> None:
    """Prints a line for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=400)
    parser.add_argument("--onednn", choices=("on", "off"), help="only this setting, in this process")
    options = parser.parse_args()
    if options.onednn is not None:
        print(f"oneDNN {options.onednn}: {measure(options.batches, onednn=options.onednn == 'on')}")
        return
    for setting in ("on", "off"):
        command = [sys.executable, "-m", "benchmarks.serving.memory", "--onednn", setting]
        subprocess.run([*command, "--batches", str(options.batches)], check=True)


def measure(batches: int, *, onednn: bool) -> str:
    """Resident megabytes before and after random batches of 5 to 384 tokens, and tokens a second."""
    torch.backends.mkldnn.enabled = onednn  # type: ignore[assignment]
    network, process, shapes = load(resolve(DEFAULT_STORE, "demo")).network, psutil.Process(), random.Random(0)
    before, tokens, started = process.memory_info().rss, 0, time.perf_counter()
    with torch.inference_mode():
        tables = network.condition()
        for _ in range(batches):
            length = shapes.randint(5, 384)
            rows = shapes.randint(1, max(1, min(32, _TOKENS // length)))
            row = Encoding((5,) * length, (0,) * length)
            network(collate([row] * rows, [0] * rows, token_level=True), tables)
            tokens += rows * length
    speed = tokens / (time.perf_counter() - started)
    return f"{before / 1e6:.0f} MB loaded, {process.memory_info().rss / 1e6:.0f} MB after {batches} batches, {speed:.0f} tokens/s"


if __name__ == "__main__":
    main()
