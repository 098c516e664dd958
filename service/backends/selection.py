"""Backend selection: the fastest export of a version that passed its checks, or the backend that the settings name."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch

from polytask.model.network import Network
from polytask.model.tasks import Task
from polytask.model_store.errors import ExportInvalid
from polytask.model_store.exports import EXPORT_AGAIN, Candidate, exported_file, read_exports
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


_MAX_REASON = 500
"""Characters of a library's error that are repeated."""


def load_backend(settings: Settings) -> tuple[Checkpoint, Backend]:
    """The checkpoint, and a backend that runs it on this process's device. Raises StoreError or StartupError.

    The checkpoint's golden answers are those of the export that runs, where it has its own.
    """
    version = resolve(settings.store, settings.model)
    device = pick_device(settings.device).type
    warn_of_two_onnx_runtimes(device)
    threads = settings.threads or available_cores()
    checkpoint = load(version)
    candidate, file = _select_export(settings, version, checkpoint.manifest.tasks, device)
    if candidate is not None:
        logger.info("runs as exported for %s in %s", candidate.backend, candidate.precision)
        if candidate.goldens:
            checkpoint = replace(checkpoint, manifest=replace(checkpoint.manifest, goldens=candidate.goldens))
    if candidate is None or file is None:
        buckets = graph_buckets(settings, checkpoint.network) if device == "cuda" else None
        return checkpoint, open_torch(checkpoint.network, threads, device, buckets)
    num_streams = 1 if device == "cuda" else min(threads, settings.streams or threads)
    backend = open_export(candidate.backend, file, candidate.precision, threads, device, num_streams)
    _free_weights(checkpoint.network)
    return checkpoint, backend


def _select_export(
    settings: Settings, version: Path, tasks: Sequence[Task], device: str
) -> tuple[Candidate | None, Path | None]:
    """The export to run and its file (None: torch runs the network). Raises StartupError if a named backend has none."""
    exports = None if settings.runner == "torch" else read_exports(version, tasks)
    candidate = None if exports is None else select_backend(exports[1].candidates, settings.runner, device)
    if exports is None or candidate is None:
        if settings.runner in {"auto", "torch"}:
            return None, None
        precision = " in float32" if device == "cuda" else ""
        raise StartupError(
            f"POLYTASK_RUNNER is {settings.runner}, but {settings.model} has no export for it{precision} that passed; make "
            f"one with `polytask export {settings.model}`, or set it to auto"
        )
    return candidate, None if candidate.file is None else exported_file(*exports, candidate.file)


def select_backend(candidates: Sequence[Candidate], runner: str, device: str) -> Candidate | None:
    """The fastest candidate that the setting `runner` allows; None where torch is to run, or no export suits.

    `auto` skips backends that are not installed. Raises StartupError for a named one that is not.
    """
    # The speeds were measured on a CPU. On CUDA torch computes in bfloat16, and 8 bits are for CPUs only.
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


def open_backend(name: str, precision: str, file: Path | None, network: Network, threads: int) -> Backend:
    """A backend on the CPU: of an exported `file`, or for torch of the network. Raises StartupError."""
    if file is not None:
        return open_export(name, file, precision, threads)
    assert name == "torch", f"{name} runs a file"
    return open_torch(network, threads)


def open_torch(network: Network, threads: int, device: str = "cpu", buckets: Buckets | None = None) -> Backend:
    """Torch with the network. Sets torch's options for the process. `buckets`: shapes to record as CUDA graphs."""
    torch.set_num_threads(threads)
    # oneDNN keeps code and buffers for every shape it meets, in the end more than the weights; a float32 forward on the
    # CPU is as fast without it.
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    return TorchBackend(network) if device == "cpu" else CudaBackend(network, torch.device(device), buckets)


def open_export(
    name: str, file: Path, precision: str, threads: int, device: str = "cpu", num_streams: int = 1
) -> Backend:
    """The backend of that name with an exported file. `num_streams`: share the threads, in ONNX Runtime only.

    Raises StartupError, or ExportInvalid for a file that the backend cannot run.
    """
    require_installed(name)
    try:
        if name == "onnxruntime":
            from polytask.service.backends.onnx_runtime import CPU, CUDA, OnnxRuntimeBackend  # noqa: PLC0415, not installed everywhere

            return OnnxRuntimeBackend(file, precision, threads, num_streams, CUDA if device == "cuda" else CPU)
        from polytask.service.backends.open_vino import OpenVinoBackend  # noqa: PLC0415, not installed everywhere

        return OpenVinoBackend(file, precision, threads)
    except StartupError:
        raise
    except Exception as error:  # the exceptions of these libraries have no common base class
        reason = " ".join(str(error).split())[:_MAX_REASON]
        raise ExportInvalid(file, f"cannot be run by {name}: {reason}", EXPORT_AGAIN) from error


def _free_weights(network: Network) -> None:
    """Frees the network's memory: the export has its own weights."""
    for parameter in network.parameters():
        parameter.data = torch.empty(0)


def graph_buckets(settings: Settings, network: Network) -> Buckets | None:
    """The shapes to record as CUDA graphs; None where the settings turn them off."""
    if settings.cuda_graphs == "off":
        return None
    longest = aligned(max(task.max_length for task in network.tasks), network.config.max_length)
    most_tokens = min(MOST_TOKENS, settings.token_budget or MOST_TOKENS)
    return Buckets.up_to(longest, settings.max_rows or MOST_ROWS, most_tokens)


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def require_installed(backend: str) -> None:
    """Raises StartupError where the package of a backend is not installed."""
    if not is_installed(backend):
        raise StartupError(
            f"the backend {backend} is not installed: {_INSTALL[backend]}, or set POLYTASK_RUNNER to torch"
        )


def warn_of_two_onnx_runtimes(device: str) -> None:
    """Warns where `onnxruntime` and `onnxruntime-gpu` are both installed: they overwrite each other's files."""
    unwanted, wanted = ("onnxruntime", "onnxruntime-gpu") if device == "cuda" else ("onnxruntime-gpu", "onnxruntime")
    if _has_distribution(unwanted) and _has_distribution(wanted):
        logger.warning(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; for %s: "
            "pip uninstall %s, then pip install --force-reinstall --no-deps %s",
            device,
            unwanted,
            wanted,
        )


def _has_distribution(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
