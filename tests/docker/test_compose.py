"""`compose.yaml` as text: what must stay in step with the rest of the repository."""

from __future__ import annotations

import re
from dataclasses import fields

from service.settings import Settings, variable
from tests.docker.engine import ROOT

OF_THE_IMAGE = {"POLYTASK_HOST", "POLYTASK_PORT", "POLYTASK_STORE"}


def test_every_setting_is_passed_on() -> None:
    """The service gets each variable that may be set, but for those that the image decides."""
    listed = re.findall(r"^      - (POLYTASK_\w+)$", (ROOT / "compose.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == listed
    assert set(listed) == {variable(setting.name) for setting in fields(Settings)} - OF_THE_IMAGE


def test_the_example_names_what_there_is() -> None:
    """Each variable of .env.example is read by compose.yaml."""
    compose = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    names = re.findall(r"^(?:# )?([A-Z_]+)=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)
    assert names
    assert [name for name in names if f"- {name}\n" not in compose and f"${{{name}:-" not in compose] == []
