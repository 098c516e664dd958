"""Saves that are killed, as a program: `python interrupted_saves.py STORE`.

It kills a save before its first fsync, before its second, and so on until a save completes, and prints the versions in
the store after each.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from polytask.model_store.save import save
from polytask.model_store.versions import versions
from tests.model_store.support import stores
from tests.support import tiny


def die_before(step: int) -> None:
    """Kills this process without clean-up before the `step`-th fsync or rename."""
    steps = itertools.count(1)

    def lethal(function: Any) -> Any:
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)

        return wrapped

    os.fsync, os.rename = lethal(os.fsync), lethal(os.rename)


def main(store: Path) -> None:
    """Tries each step in a child process until a save completes."""
    # A child that is forked while other threads run could hang.
    torch.set_num_threads(1)
    contents = stores.contents(tiny.network())
    for step in itertools.count(1):
        child = os.fork()
        if not child:
            die_before(step)
            save(store, "demo", contents)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(step, os.WIFSIGNALED(status), *versions(store, "demo"))  # noqa: T201, this is what it is for
        if not os.WIFSIGNALED(status):
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
