"""CPU cores: how many this process may use, by its affinity and its control group, not by the size of the machine."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available_cores(root: Path = Path("/")) -> int:
    """Number of cores within affinity and cgroup quotas (v2 or v1), at least 1. `root` holds proc/ and sys/."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The quotas, in cores, of this process's control groups and of their parents."""
    membership = _read(root / "proc/self/cgroup")
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = PurePosixPath(path.lstrip("/"))
        for level in (group, *group.parents):
            quota = _quota(mount / level)
            if quota is not None:
                yield quota


def _quota(group: Path) -> float | None:
    # v2 has "quota period" or "max period" in one file. v1 has two files; -1 means no quota.
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    quota = quota or _read(group / "cpu.cfs_quota_us").strip()
    period = period or _read(group / "cpu.cfs_period_us").strip()
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
