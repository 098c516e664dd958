"""CPU cores: those that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from polytask.service.config.cpu_cores import available_cores


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may run on eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def machine(root: Path, membership: str, files: dict[str, str]) -> Path:
    """A folder like `/`, with the control groups in `files`."""
    for name, text in {"proc/self/cgroup": membership, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="ascii")
    return root


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/", {"sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        ("0::/", {"sys/fs/cgroup/cpu.max": "max 100000"}, 8),
        ("0::/", {"sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
        ("0::/", {"sys/fs/cgroup/cpu.max": "10000 100000"}, 1),
        ("0::/", {"sys/fs/cgroup/cpu.max": "9900000 100000"}, 8),
        ("0::/", {}, 8),
        ("0::/a/b", {"sys/fs/cgroup/a/cpu.max": "300000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 3),
        (
            "3:cpuset:/x\n2:cpu,cpuacct:/box\n0::/",
            {"sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "400000", "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000"},
            4,
        ),
        (
            "2:cpu:/",
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            8,
        ),
    ],
)
def test_the_tightest_quota_counts(tmp_path: Path, membership: str, files: dict[str, str], cores: int) -> None:
    """Quotas of both versions of control groups, also of outer groups, are rounded up and limit the number of cores."""
    assert available_cores(machine(tmp_path, membership, files)) == cores


@pytest.mark.usefixtures("eight_cores")
def test_affinity_counts_where_there_are_no_control_groups(tmp_path: Path) -> None:
    """Without /proc only the affinity counts."""
    assert available_cores(tmp_path) == 8
