"""Processes started like those of torchrun. Their function must be importable by name."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
# What every run imports, once for all of them; optimizers import torch._dynamo when they are made.
CONTEXT.set_forkserver_preload([__name__, "tests.training.conftest", "torch._dynamo"])


def run_together(size: int, target: Callable[..., None], *args: Any) -> list[int | None]:
    """Runs `target(*args)` in `size` processes that find each other like torchrun's. Returns their exit codes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = [CONTEXT.Process(target=_as_rank, args=(rank, size, port, target, args)) for rank in range(size)]
    for process in processes:
        process.start()
    return [_ended(process) for process in processes]


def _ended(process: BaseProcess) -> int | None:
    process.join()
    return process.exitcode


def _as_rank(rank: int, size: int, port: int, target: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    torch.set_num_threads(1)
    target(*args)
