"""Which engine runs a version: the fastest that passed when it was exported, or the one that the settings name."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from polytask.model.network import Network
from polytask.model_store.exports import Candidate, exported_file, read_exports
from polytask.model_store.load import Checkpoint, load
from polytask.model_store.versions import resolve
from polytask.service.backends.contract import Backend
from polytask.service.backends.cuda import CudaBackend
from polytask.service.backends.device import pick_device
from polytask.service.backends.shape_buckets import MOST_ROWS, MOST_TOKENS, Buckets, aligned
from polytask.service.backends.torch_cpu import TorchBackend
from polytask.service.config.cpu_cores import available_cores
from polytask.service.config.settings import Settings
from polytask.service.errors import StartupError

logger = logging.getLogger(__name__)

_INSTALL = {"onnxruntime": "pip install 'polytask[onnx]'", "openvino": "pip install 'polytask[openvino]'"}


def load_backend(settings: Settings) -> tuple[Checkpoint, Backend]:
    """The checkpoint, and what runs it on this process's device. Raises StoreError or StartupError.

    Its golden answers are those that the engine gave when it was exported, where it has answers of its own.
    """
    version = resolve(settings.store, settings.model)
    device = pick_device(settings.device)
    threads = settings.threads or available_cores()
    checkpoint = load(version)
    found = None if settings.runner == "torch" else read_exports(version)
    candidate = None if found is None else select_backend(found[1].candidates, settings.runner, device.type)
    if found is None or candidate is None:
        if settings.runner not in {"auto", "torch"}:
            raise StartupError(_nothing_for(settings, device.type))
        buckets = graph_buckets(settings, checkpoint.network) if device.type == "cuda" else None
        runner = open_backend("torch", "float32", None, checkpoint.network, threads, device.type, buckets=buckets)
        return checkpoint, runner
    logger.info("runs as it was exported for %s in %s", candidate.backend, candidate.precision)
    file = None if candidate.file is None else exported_file(*found, candidate.file)
    num_streams = 1 if device.type == "cuda" else min(threads, settings.streams or threads)
    runner = open_backend(
        candidate.backend, candidate.precision, file, checkpoint.network, threads, device.type, num_streams
    )
    if file is not None:
        # The engine has weights of its own.
        for parameter in checkpoint.network.parameters():
            parameter.data = torch.empty(0)
    if not candidate.goldens:
        return checkpoint, runner
    return replace(checkpoint, manifest=replace(checkpoint.manifest, goldens=candidate.goldens)), runner


def select_backend(candidates: Sequence[Candidate], runner: str, device: str) -> Candidate | None:
    """The fastest candidate that may serve with that setting; None where torch should, or nothing of that engine is there.

    `auto` passes over engines that are not installed. Raises StartupError for a named one that is not.
    """
    # The speeds were measured on a CPU. On CUDA torch computes in bfloat16, and 8 bits are for CPUs alone.
    if device == "cuda" and runner != "onnxruntime":
        return None
    passed = [candidate for candidate in candidates if candidate.refused is None]
    if device == "cuda":
        passed = [candidate for candidate in passed if candidate.precision == "float32"]
    if runner == "auto":
        passed = [candidate for candidate in passed if is_installed(candidate.backend)]
    else:
        passed = [candidate for candidate in passed if candidate.backend == runner]
        if passed:
            require_installed(runner)
    return passed[0] if passed else None


def open_backend(
    backend: str,
    precision: str,
    file: Path | None,
    network: Network,
    threads: int,
    device: str = "cpu",
    num_streams: int = 1,
    buckets: Buckets | None = None,
) -> Backend:
    """A runner of that engine: of an exported `file`, or for torch of the network.

    `streams`: how many batches share the threads, where the engine can do that. `buckets`: for which torch records
    forwards on CUDA. Raises StartupError.
    """
    require_installed(backend)
    if backend == "torch":
        torch.set_num_threads(threads)
        # oneDNN keeps code and buffers for every shape it meets, in the end more than the weights; a float32 forward on
        # the CPU is as fast without it.
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
        if device == "cpu":
            return TorchBackend(network)
        return CudaBackend(network, torch.device(device), buckets)
    assert file is not None, f"{backend} runs a file"
    if backend == "onnxruntime":
        from polytask.service.backends.onnx_runtime import CPU, CUDA, OnnxRuntimeBackend  # noqa: PLC0415, not installed everywhere

        return OnnxRuntimeBackend(file, precision, threads, num_streams, CUDA if device == "cuda" else CPU)
    from polytask.service.backends.open_vino import OpenVinoBackend  # noqa: PLC0415, not installed everywhere

    return OpenVinoBackend(file, precision, threads)


def graph_buckets(settings: Settings, network: Network) -> Buckets | None:
    """The shapes whose forwards are recorded; None where the settings say so."""
    if settings.cuda_graphs == "off":
        return None
    longest = aligned(max(task.max_length for task in network.tasks), network.config.max_length)
    most_tokens = min(MOST_TOKENS, settings.token_budget or MOST_TOKENS)
    return Buckets.up_to(longest, settings.max_rows or MOST_ROWS, most_tokens)


def is_installed(backend: str) -> bool:
    """Whether the package of an engine is there."""
    return importlib.util.find_spec(backend) is not None


def require_installed(backend: str) -> None:
    """Raises StartupError where the package of an engine is not there."""
    if not is_installed(backend):
        raise StartupError(
            f"the engine {backend} is not installed: {_INSTALL[backend]}, or set POLYTASK_RUNNER to torch"
        )


def _nothing_for(settings: Settings, device: str) -> str:
    precision = " in float32" if device == "cuda" else ""
    return (
        f"POLYTASK_RUNNER is {settings.runner}, but {settings.model} has no export for it{precision} that passed; make one "
        f"with `polytask export {settings.model}`, or set it to auto"
    )
