"""Process specs: the processes, their environment, and when one that died is restarted."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from polytask.service.config.settings import Settings
from polytask.service.processes.process_specs import RestartPolicy, engine_specs, environment


def test_each_engine_sees_its_own_device_and_engines_on_the_cpu_share_its_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device number counts among the devices that the service may use, and engines on the CPU share its cores."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr("polytask.service.processes.process_specs.available_cores", lambda: 6)
    specs = engine_specs(Settings(devices="1,cpu,cpu", deadline_s=7), tmp_path, "module")
    assert [spec.environment.get("CUDA_VISIBLE_DEVICES") for spec in specs] == ["5", None, None]
    parsed = [Settings.from_environment(spec.environment) for spec in specs]
    assert [settings.device for settings in parsed] == ["cuda", "cpu", "cpu"]
    assert {settings.threads for settings in parsed} == {3}
    assert {settings.deadline_s for settings in parsed} == {7}
    assert not any(settings.devices for settings in parsed)


def test_a_process_gets_the_settings_of_its_spec_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process inherits all environment variables except settings, which come from its spec."""
    monkeypatch.setenv("POLYTASK_PORT", "1")
    monkeypatch.setenv("POLYTASK_WHATEVER", "1")
    monkeypatch.setenv("OTHER", "1")
    (spec,) = engine_specs(Settings(port=5, frontends=1), tmp_path, "module")
    variables = environment(spec)
    assert variables["OTHER"] == "1"
    assert Settings.from_environment(variables).port == 5


def test_the_first_death_is_made_good_at_once_and_each_further_one_later() -> None:
    """Pauses before restarts double up to half a minute."""
    restart_policy = RestartPolicy()
    pauses = [restart_policy.next_delay_s(ready=True, run_s=5) or 0.0 for _ in range(20)]
    assert pauses[0] == 0.1
    assert all(later in {2 * sooner, 30.0} for sooner, later in pairwise(pauses))
    assert pauses[-1] == 30.0


def test_a_long_life_is_a_new_beginning() -> None:
    """A process that ran for a minute is restarted at once when it dies."""
    restart_policy = RestartPolicy()
    for _ in range(10):
        restart_policy.next_delay_s(ready=True, run_s=5)
    restart_policy.next_delay_s(ready=True, run_s=60)
    assert restart_policy.next_delay_s(ready=True, run_s=5) == 0.1


def test_who_never_gets_ready_is_given_up() -> None:
    """A process is given up after five starts in a row without getting ready."""
    restart_policy = RestartPolicy()
    for ready in (False, False, False, False, True, False, False, False, False):
        assert restart_policy.next_delay_s(ready=ready, run_s=1) is not None
    assert restart_policy.next_delay_s(ready=False, run_s=1) is None
