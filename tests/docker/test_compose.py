"""Compose files as text: consistent with settings, proxy and `.env.example`."""

from __future__ import annotations

import re

from polytask.service.config.settings import RENAMED, Settings, all_settings
from tests.docker.support.engine import ROOT

OF_THE_IMAGE = {"POLYTASK_HOST", "POLYTASK_PORT", "POLYTASK_STORE"}


def test_every_setting_is_passed_on() -> None:
    """Compose passes on every setting, former names too, except those that the image sets."""
    listed = re.findall(r"^      - (POLYTASK_\w+)$", (ROOT / "compose.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == listed
    assert set(listed) == {setting.env_name for setting in all_settings()} - OF_THE_IMAGE | RENAMED.keys()


def test_the_example_names_what_there_is() -> None:
    """Each variable of .env.example is read by a Compose file or by Compose itself."""
    files = "".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("compose*.yaml")))
    read = {"COMPOSE_FILE", *re.findall(r"(?:^      - |\$\{)([A-Z_]+)(?=$|:?-)", files, re.MULTILINE)}
    names = re.findall(r"^(?:# )?([A-Z_]+)=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)
    assert names
    assert set(names) <= read


def test_replicas_have_time_to_leave() -> None:
    """The proxy notices a draining replica before its port closes, and its timeout covers the longest deadline."""
    replicas = (ROOT / "compose.replicas.yaml").read_text(encoding="utf-8")
    proxy = (ROOT / "docker" / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8")
    drain_s, grace_s = int(found(r"POLYTASK_DRAIN_S:-(\d+)", replicas)), int(found(r"period: (\d+)s", replicas))
    check_ms, refusals = int(found(r"inter (\d+)ms", proxy)), int(found(r"fall (\d+)", proxy))
    assert drain_s > 2 * refusals * check_ms / 1000
    assert grace_s > drain_s + Settings().deadline_s + 15
    assert int(found(r"timeout server (\d+)s", proxy)) > Settings().deadline_s


def found(pattern: str, text: str) -> str:
    """The group of the first match."""
    match = re.search(pattern, text)
    assert match is not None, pattern
    return match[1]
