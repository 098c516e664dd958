"""Results: a JSON line each, with the machine and the commit, and printed tables in Markdown."""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from polytask.training.runs.provenance import commit

_RESULTS = Path(__file__).parent / "results"
_WIDTH = 160


def append(name: str, lines: Iterable[Mapping[str, Any]]) -> None:
    """Adds lines to `results/NAME.jsonl`, each with time, machine and commit."""
    _RESULTS.mkdir(exist_ok=True)
    about = machine()
    with (_RESULTS / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(_without_nan({**line, **about})) + "\n" for line in lines)


def machine() -> dict[str, Any]:
    """The time, the processor and the cores that this process may use, the GPU, and the commit."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text(encoding="utf-8")) if cpuinfo.is_file() else None
    return {
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "processor": model[1] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "commit": commit(),
    }


def show(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table."""
    table = Table(*headings, box=box.MARKDOWN, title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print(table, markup=False)


def number(value: float | None, digits: int = 0) -> str:
    """A number for a table; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def _without_nan(line: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in line.items()}
