"""Omissions: the end of a run names what it left out, and where a program is required its lack is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("required", "ending"), [("", "1 tests or files need promtool: apt install prometheus"), ("promtool", "1 failed")]
)
def test_a_missing_program_is_announced_or_fails(required: str, ending: str, tmp_path: Path) -> None:
    """Without promtool its tests are left out aloud; where TESTS_REQUIRE names it, they fail."""
    chosen = ["tests/operations/test_rules.py", "-k", "prometheus_accepts", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *chosen],
        cwd=ROOT,
        env=os.environ | {"PATH": str(tmp_path), "TESTS_REQUIRE": required},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ending in done.stdout
    assert (done.returncode != 0) == bool(required)
