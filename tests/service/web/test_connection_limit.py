"""Connection limit: how many connections a process may hold."""

from __future__ import annotations

import subprocess
import sys

import pytest

from polytask.service.web.connection_limit import MAX_CONNECTIONS


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [(1024, 1024, range(500, 1024)), (256, 8192, [MAX_CONNECTIONS]), (64, 64, range(1, 64))],
)
def test_the_limit_leaves_descriptors_for_other_things(soft: int, hard: int, expected: range | list[int]) -> None:
    """The limit is below that of open files, which is raised where the process may."""
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from polytask.service.web.connection_limit import max_connections
print(max_connections(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    limit, files = map(int, run.stdout.split())
    assert limit in expected
    assert limit < files
