"""Release: `make release VERSION=x.y.z` sets the version, builds sources, wheels and images, commits and tags.

A release that cannot be built leaves no commit and no tag. Everything stays on this machine: pushing the tag and uploading
`dist/` and the images is left to the person who releases.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
_HOLDERS = ("pyproject.toml", "polytask_client/pyproject.toml", "docker/", "compose", "deploy/kubernetes/", "docs/")
_BEFORE_VERSION = r"""^version = "|polytask-client==|ARG VERSION=|polytask:|polytask-training:|newTag: |`(?=[\d.]+`)"""
_IMAGES = {"polytask": "docker/service.Dockerfile", "polytask-training": "docker/training.Dockerfile"}


def main() -> None:
    """Releases the version that is named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="three numbers, such as 1.2.0; CHANGELOG.md has its section")
    parser.add_argument("--dry-run", action="store_true", help="check, say what would be done, and change nothing")
    arguments = parser.parse_args()
    version, dry_run = arguments.version, arguments.dry_run
    if fault := refusal(version):
        sys.exit(f"no release of {version}: {fault}")
    changed = new_texts(version)
    print(f"version {version} in: {', '.join(changed) or 'all files already'}")
    print(
        f"sources and wheels in {DIST.name}/; {'images' if _has_docker() else 'no images: no docker'}; commit and tag v{version}"
    )
    if dry_run:
        return
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder) / "release"
        _run("git", "worktree", "add", "--quiet", "--detach", str(checkout))
        try:
            commit = build(version, changed, checkout)
        finally:
            _run("git", "worktree", "remove", "--force", str(checkout))
    _run("git", "merge", "--quiet", "--ff-only", commit)
    _run("git", "tag", "--annotate", "--message", f"Release {version}", f"v{version}")
    print(f"done; left to you: git push origin v{version}, and uploading what was built")


def refusal(version: str) -> str:
    """Why this version cannot be released now; "" if it can."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        return "a version is three numbers, such as 1.2.0"
    if _run("git", "status", "--porcelain"):
        return "the working tree has changes that are not committed"
    if _run("git", "tag", "--list", f"v{version}"):
        return f"the tag v{version} exists"
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n+### ", changelog, re.MULTILINE):
        return f"CHANGELOG.md has no section `## [{version}] - YYYY-MM-DD`: rename `[Unreleased]` and commit"
    return ""


def new_texts(version: str) -> dict[str, str]:
    """The files that hold the version, with the new one in its place."""
    old = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    pattern = re.compile(rf"({_BEFORE_VERSION}){re.escape(old)}(?![\d.]*\d)", re.MULTILINE)
    texts = {}
    for name in _run("git", "ls-files").splitlines():
        if name.startswith(_HOLDERS) and name.endswith((".toml", ".yaml", ".Dockerfile", ".md")):
            before = (ROOT / name).read_text(encoding="utf-8")
            after = pattern.sub(rf"\g<1>{version}", before)
            if after != before:
                texts[name] = after
    return texts


def build(version: str, changed: dict[str, str], checkout: Path) -> str:
    """Commits the changed files in a checkout without ignored files, and builds all from it. Returns the commit."""
    for name, text in changed.items():
        (checkout / name).write_text(text, encoding="utf-8")
    if changed:
        _run("git", "commit", "--quiet", "--message", f"Release {version}", *changed, cwd=checkout)
    for project in (checkout, checkout / "polytask_client"):
        _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(DIST), str(project))
    commit = _run("git", "rev-parse", "HEAD", cwd=checkout)
    if _has_docker():
        build_images(version, commit, checkout)
    return commit


def build_images(version: str, commit: str, checkout: Path) -> None:
    """The images of service and training, for CPU and for GPU. DOCKER_BUILD_FLAGS go to `docker build`."""
    flags = [
        *shlex.split(os.environ.get("DOCKER_BUILD_FLAGS", "")),
        "--build-arg",
        f"REVISION={commit}",
    ]
    for image, dockerfile in _IMAGES.items():
        for variant, suffix in (("cpu", ""), ("gpu", "-gpu")):
            variant_flags = [*flags, "--build-arg", f"VARIANT={variant}", "--tag", f"{image}:{version}{suffix}"]
            _run("docker", "build", *variant_flags, "--file", dockerfile, ".", cwd=checkout)


def _has_docker() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _run(*command: str, cwd: Path = ROOT) -> str:
    """What a command prints, without the last line's end. Its failure ends the release."""
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stdout}")
    return done.stdout.strip()


if __name__ == "__main__":
    main()
