"""Settings of a deployment: their names and defaults, and values that are refused."""

from __future__ import annotations

import logging
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from polytask.service.config.api_keys import new_key
from polytask.service.config.settings import Settings, SettingsError, all_settings, warn_of_former_names
from polytask.service.config.task_policies import TaskPolicy


def test_the_settings_are_these() -> None:
    """The list of variables is an interface: a new one needs a reason, and a line here."""
    defaults = {setting.env_name: setting.default for setting in all_settings()}
    assert isinstance(defaults.pop("POLYTASK_STORE"), Path)
    assert defaults == {
        "POLYTASK_MODEL": "demo",
        "POLYTASK_HOST": "127.0.0.1",
        "POLYTASK_PORT": 8000,
        "POLYTASK_DEVICE": "auto",
        "POLYTASK_DEVICES": "",
        "POLYTASK_FRONTENDS": 0,
        "POLYTASK_RUNNER": "auto",
        "POLYTASK_THREADS": 0,
        "POLYTASK_STREAMS": 0,
        "POLYTASK_CUDA_GRAPHS": "auto",
        "POLYTASK_MAX_ROWS": 0,
        "POLYTASK_TOKEN_BUDGET": 0,
        "POLYTASK_BATCH_MS": 0.0,
        "POLYTASK_TASK_POLICIES": "{}",
        "POLYTASK_MAX_WAITING_TOKENS": 65_536,
        "POLYTASK_DEADLINE_S": 10.0,
        "POLYTASK_DRAIN_S": 0.0,
        "POLYTASK_KEEP_ALIVE_S": 75,
        "POLYTASK_SWAP_TOLERANCE": 0.5,
        "POLYTASK_API_KEYS": "",
        "POLYTASK_API_KEYS_FILE": "",
        "POLYTASK_CORS_ORIGINS": "",
        "POLYTASK_ROOT_PATH": "",
        "POLYTASK_LOG_FORMAT": "auto",
        "POLYTASK_LOG_REQUESTS": 0.0,
        "POLYTASK_LOG_TEXTS": "no",
        "POLYTASK_TRACES": "no",
        "POLYTASK_PREDICTION_METRICS": "no",
        "POLYTASK_MAX_INPUTS": 256,
        "POLYTASK_MAX_CANDIDATES": 128,
        "POLYTASK_MAX_BODY_BYTES": 524_288,
        "POLYTASK_MAX_ANSWER_BYTES": 8_388_608,
    }


def test_every_setting_says_what_it_is() -> None:
    """The command line and the documentation take their texts from the fields."""
    assert all(setting.help for setting in all_settings())
    choices = {setting.name: setting.choices for setting in all_settings() if setting.choices}
    assert choices["device"] == ("auto", "cpu", "cuda")
    assert choices["traces"] == ("no", "yes")
    assert "port" not in choices


def test_variables_become_settings() -> None:
    """Each variable sets its field in the field's type; other variables of the environment do not matter."""
    environ = {
        "POLYTASK_STORE": "/models",
        "POLYTASK_MODEL": "demo/3",
        "POLYTASK_PORT": "80",
        "POLYTASK_DEADLINE_S": "0.5",
        "PATH": "/bin",
        "polytask_port": "1",
    }
    assert Settings.from_environment(environ) == Settings(
        store=Path("/models"), model="demo/3", port=80, deadline_s=0.5
    )


def test_a_flag_goes_before_its_variable() -> None:
    """A flag takes precedence over its variable; without the flag the variable counts."""
    found = Settings.from_environment(
        {"POLYTASK_PORT": "80", "POLYTASK_HOST": "::1"}, {"port": "81", "host": None, "max_rows": "4"}
    )
    assert (found.port, found.host, found.max_rows) == (81, "::1", 4)


def test_what_clients_read_is_no_error() -> None:
    """A service can be started in a shell in which a key is set for the client."""
    assert Settings.from_environment({"POLYTASK_API_KEY": "secret"}) == Settings()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("POLYTASK_MAX_ROWZ", "did you mean POLYTASK_MAX_ROWS?"),
        ("POLYTASK_max_rows", "did you mean POLYTASK_MAX_ROWS?"),
        ("POLYTASK_DEADLINE", "did you mean POLYTASK_DEADLINE_S?"),
        ("POLYTASK_QQQQQQQQQQQQ", "there are POLYTASK_STORE, POLYTASK_MODEL"),
    ],
)
def test_an_unknown_variable_is_an_error_with_a_hint(name: str, hint: str) -> None:
    """A misspelt name does not pass silently; the nearest name is suggested."""
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment({name: "1"})
    assert name in str(refused.value)
    assert hint in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("PORT", "eighty", "must be a whole number, got 'eighty'"),
        ("PORT", "", "is set but empty: give it a value, or unset it for the default"),
        ("HOST", "", "is set but empty"),
        ("CORS_ORIGINS", " ", "is set but empty"),
        ("API_KEYS", "", "is set but empty: give it a value, or unset it to serve without keys"),
        ("API_KEYS", " \n", "is set but empty"),
        ("API_KEYS_FILE", "", "is set but empty: give it a value, or unset it to serve without keys"),
        ("API_KEYS_FILE", "/dev/null", "has no keys: add the line that `polytask key NAME` prints, or unset it"),
        ("API_KEYS_FILE", "/", "is a folder: /; Docker makes one where the file of a volume is not there"),
        ("PORT", "80.5", "must be a whole number"),
        ("PORT", "65536", "must be at least 0 and at most 65535, got '65536'"),
        ("PORT", "-1", "must be at least 0"),
        ("DEVICE", "gpu", "must be 'auto', 'cpu' or 'cuda', got 'gpu'"),
        ("DEVICES", "0,gpu", "must be numbers of CUDA devices, or cpu, separated by commas; got '0,gpu'"),
        ("DEVICES", "0,", "got '0,'"),
        ("FRONTENDS", "-1", "must be at least 0"),
        ("DEADLINE_S", "0", "must be at least 0.001 and at most 86400, got '0'"),
        ("DEADLINE_S", "nan", "must be a finite number"),
        ("DEADLINE_S", "inf", "must be a finite number"),
        ("DEADLINE_S", "86401", "must be at least 0.001 and at most 86400"),
        ("DEADLINE_S", "soon", "must be a number, got 'soon'"),
        ("MAX_ROWS", "100000000", "at least 0 and at most 4096"),
        ("TOKEN_BUDGET", "100000000", "at least 0 and at most 262144"),
        ("BATCH_MS", "-1", "must be at least 0"),
        ("TASK_POLICIES", "4", 'must be an object, got 4; an example is {"intent": {"weight": 4}}'),
        ("TASK_POLICIES", '{"intent": {"wait": 4}}', "of task 'intent': wait is none of weight"),
        (
            "API_KEYS",
            "\n# none",
            "has no keys: add the line that `polytask key NAME` prints, or unset it to serve without keys",
        ),
        ("API_KEYS", "\n\nweb = 4", "line 3: a key is one line such as NAME = "),
        ("API_KEYS_FILE", "/no/such/file", "cannot be read: [Errno 2]"),
        (
            "CORS_ORIGINS",
            "https://a.org,b.org",
            "must be * or origins such as https://example.org, without a path; got 'b.org'",
        ),
        ("CORS_ORIGINS", "https://a.org/", "got 'https://a.org/'"),
        *(
            ("ROOT_PATH", path, f"of the service does; got {path!r}")
            for path in ("nlp", "/", "/nlp/", "/a//b", "/a/../b", "/a b", "/é", "//evil.example", "/v1", "/docs/nlp")
        ),
        ("LOG_FORMAT", "logfmt", "must be 'auto', 'json' or 'text', got 'logfmt'"),
        ("LOG_REQUESTS", "1.5", "must be at least 0 and at most 1, got '1.5'"),
        ("LOG_REQUESTS", "all", "must be a number, got 'all'"),
        ("LOG_TEXTS", "maybe", "must be yes or no, got 'maybe'"),
        ("TRACES", "http://localhost:4318", "must be yes or no, got 'http://localhost:4318'"),
        ("MAX_INPUTS", "0", "must be at least 1"),
        ("MAX_CANDIDATES", "1", "must be at least 2"),
    ],
)
def test_a_bad_value_is_an_error_that_names_the_variable(name: str, value: str, problem: str) -> None:
    """The error for an invalid value has the variable's name and the value."""
    with pytest.raises(SettingsError, match=f"^POLYTASK_{name} ") as refused:
        Settings.from_environment({f"POLYTASK_{name}": value})
    assert problem in str(refused.value)


def test_keys_that_go_while_the_service_starts_do_not_open_it(tmp_path: Path) -> None:
    """A file that is emptied after the settings were read is an error where the keys are taken, and not a service without keys."""
    file = tmp_path / "keys"
    file.write_text(new_key("web")[1])
    settings = Settings(api_keys_file=str(file))
    file.write_text("")
    with pytest.raises(SettingsError, match="POLYTASK_API_KEYS_FILE has no keys"):
        _ = settings.keys


POLICIES = '{"intent": {"weight": 4}}'


def test_task_policies_are_read_with_the_other_settings() -> None:
    """The JSON of POLYTASK_TASK_POLICIES becomes policies by task."""
    found = Settings.from_environment({"POLYTASK_TASK_POLICIES": POLICIES})
    assert found.policies == {"intent": TaskPolicy(weight=4)}
    assert Settings().policies == {}


_VARIABLE_WARNING = "POLYTASK_LANES is now called POLYTASK_TASK_POLICIES; the former name still works"
_FLAG_WARNING = "--lanes is now called --task-policies; the former name still works"


@pytest.mark.parametrize(
    ("environ", "flags", "warnings"),
    [
        ({"POLYTASK_LANES": POLICIES}, {}, [_VARIABLE_WARNING]),
        ({"POLYTASK_LANES": "4"}, {"lanes": POLICIES}, [_VARIABLE_WARNING, _FLAG_WARNING]),
        ({"POLYTASK_LANES": "4"}, {"task_policies": POLICIES, "lanes": None}, [_VARIABLE_WARNING]),
        ({"POLYTASK_TASK_POLICIES": "4"}, {"lanes": POLICIES}, [_FLAG_WARNING]),
        ({"POLYTASK_TASK_POLICIES": POLICIES}, {"lanes": None}, []),
    ],
)
def test_a_former_name_still_works_and_warns(
    environ: dict[str, str], flags: dict[str, str | None], warnings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A renamed variable or flag has its effect, a flag under either name takes precedence, and former names are logged."""
    found = Settings.from_environment(environ, flags)
    assert found.policies == {"intent": TaskPolicy(weight=4)}
    assert Settings.from_environment(found.to_environment()) == found
    assert not caplog.records
    warn_of_former_names(environ, flags)
    assert [(level, message) for _, level, message in caplog.record_tuples] == [
        (logging.WARNING, message) for message in warnings
    ]


@pytest.mark.parametrize(
    ("environ", "flags", "names"),
    [
        (
            {"POLYTASK_LANES": "{}", "POLYTASK_TASK_POLICIES": "{}"},
            {},
            "POLYTASK_TASK_POLICIES or its former name POLYTASK_LANES",
        ),
        ({}, {"lanes": "{}", "task_policies": "{}"}, "--task-policies or its former name --lanes"),
    ],
)
def test_a_setting_under_both_its_names_is_an_error(environ: dict[str, str], flags: dict[str, str], names: str) -> None:
    """Which of two variables, or of two flags, counts is not guessed."""
    with pytest.raises(SettingsError, match=f"^set {names}, not both$"):
        Settings.from_environment(environ, flags)


@pytest.mark.parametrize("text", ["4", '{"intent": {"weight": 0}}'])
def test_a_bad_value_under_a_former_name_is_reported_under_that_name(text: str) -> None:
    """The message has the name that the user has set, not the one that replaced it."""
    with pytest.raises(SettingsError, match=r"^POLYTASK_LANES .*must be .*, got .*; an example is "):
        Settings.from_environment({"POLYTASK_LANES": text})


def test_blanks_around_numbers_switches_and_choices_do_not_matter() -> None:
    """A blank that a file of variables leaves at the end of a line stops no start; paths and texts keep theirs."""
    environ = {
        "POLYTASK_PORT": " 80",
        "POLYTASK_LOG_TEXTS": "yes ",
        "POLYTASK_DEVICE": " cpu\t",
        "POLYTASK_STORE": "/a ",
    }
    assert Settings.from_environment(environ) == Settings(port=80, log_texts=True, device="cpu", store=Path("/a "))


@pytest.mark.parametrize(("text", "on"), [("yes", True), ("true", True), ("1", True), ("no", False), ("False", False)])
def test_a_switch_is_on_or_off_in_the_usual_words(text: str, on: bool) -> None:
    """Besides yes and no, the words that other programs use for switches are accepted."""
    assert Settings.from_environment({"POLYTASK_LOG_TEXTS": text}).log_texts is on


def test_settings_pass_through_an_environment() -> None:
    """Other processes get the same settings from their variables, also those that are empty by default."""
    settings = Settings(cors_origins="https://example.org", frontends=2)
    variables = settings.to_environment()
    assert Settings.from_environment(variables) == settings
    assert "POLYTASK_API_KEYS" not in variables


def test_settings_do_not_change() -> None:
    """Settings are frozen."""
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "engines"),
    [
        (Settings(), ()),
        (Settings(device="cuda"), ()),
        (Settings(frontends=3), ("auto",)),
        (Settings(device="cpu", frontends=1), ("cpu",)),
        (Settings(devices="1"), ("1",)),
        (Settings(devices="0,1,cpu", frontends=2), ("0", "1", "cpu")),
    ],
)
def test_devices_and_frontends_decide_which_engines_there_are(settings: Settings, engines: tuple[str, ...]) -> None:
    """There is one engine per device, one for frontends without devices, and none if one process does everything."""
    assert settings.engine_devices == engines


def test_one_device_and_several_cannot_both_be_asked_for() -> None:
    """`device` and `devices` together are an error."""
    with pytest.raises(SettingsError, match="POLYTASK_DEVICE or POLYTASK_DEVICES, not both"):
        Settings(device="cpu", devices="0")


def test_settings_reach_another_process_as_they_are() -> None:
    """Settings that become variables and are read again are equal."""
    settings = Settings(store=Path("/a b"), port=0, deadline_s=0.1 + 0.2, devices="0,1", frontends=4)
    assert Settings.from_environment(settings.to_environment()) == settings
