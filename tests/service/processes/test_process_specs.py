"""Which processes there are, and what each is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from polytask.service.config.settings import Settings
from polytask.service.processes.process_specs import engine_specs, environment


def test_each_engine_sees_its_own_device_and_engines_on_the_cpu_share_its_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number counts among the devices that the service itself may see; the rest of the settings is the same for all."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr("polytask.service.processes.process_specs.available_cores", lambda: 6)
    slots = engine_specs(Settings(devices="1,cpu,cpu", deadline_s=7), tmp_path, "module")
    assert [slot.environment.get("CUDA_VISIBLE_DEVICES") for slot in slots] == ["5", None, None]
    found = [Settings.from_environment(slot.environment) for slot in slots]
    assert [settings.device for settings in found] == ["cuda", "cpu", "cpu"]
    assert {settings.threads for settings in found} == {3}
    assert {settings.deadline_s for settings in found} == {7}
    assert not any(settings.devices for settings in found)


def test_a_process_gets_the_settings_of_its_slot_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this process's variables all but the settings go along."""
    monkeypatch.setenv("POLYTASK_PORT", "1")
    monkeypatch.setenv("POLYTASK_WHATEVER", "1")
    monkeypatch.setenv("OTHER", "1")
    (slot,) = engine_specs(Settings(port=5, frontends=1), tmp_path, "module")
    found = environment(slot)
    assert found["OTHER"] == "1"
    assert Settings.from_environment(found).port == 5
