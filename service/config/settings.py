"""Settings of a deployment: addresses and limits, read once from `POLYTASK_*` variables or the flags of the same names."""

from __future__ import annotations

import difflib
import importlib.util
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pydantic import ConfigDict, Field, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from polytask.model_store import DEFAULT_STORE
from polytask.service.config.api_keys import Key, KeyLineError, load_keys
from polytask.service.config.task_policies import TaskPolicy, parse_task_policies
from polytask.service.config.validation import first_problem
from polytask.service.errors import StartupError

SHUTDOWN_S = 5
"""Seconds that shutting down may take beyond the longest deadline of a request."""

PREFIX = "POLYTASK_"
CLIENT = frozenset({"POLYTASK_API_KEY"})
"""Variables of clients: they may be set where the service is started, too."""

RENAMED = {"POLYTASK_LANES": "POLYTASK_TASK_POLICIES"}
"""Former names of variables, which still work, and their present names."""

_KEYS = {"api_keys", "api_keys_file"}
OWN_PATHS = frozenset({"admin", "docs", "livez", "metrics", "openapi.json", "playground", "readyz", "v1", "v2"})
"""How paths of the service begin. A proxy's path cannot begin so, or it could not be told whether the proxy removes it."""

logger = logging.getLogger(__name__)


class SettingsError(StartupError):
    """A variable that does not exist, or a value it cannot have."""


@dataclass(frozen=True, slots=True, config=ConfigDict(allow_inf_nan=False))
class Settings:
    """All settings of a deployment. Each field is a variable: `max_rows` is POLYTASK_MAX_ROWS.

    Raises SettingsError where settings contradict each other, and pydantic's ValidationError for a single bad value.
    """

    store: Path = Field(default=DEFAULT_STORE, description="folder of the model store")
    model: str = Field(default="demo", description="checkpoint to serve: NAME for its current version, or NAME/VERSION")
    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(default=8000, ge=0, le=65_535, description="port to listen on; 0 for any free one")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="device to run on; auto takes CUDA where there is one"
    )
    devices: str = Field(
        default="",
        description="one engine process for each of these devices: CUDA devices by number, or cpu; such as 0,1",
    )
    frontends: int = Field(
        default=0,
        ge=0,
        le=256,
        description="HTTP processes; 0: one for each engine of `devices`, or without `devices` one process for everything",
    )
    runner: Literal["auto", "torch", "onnxruntime", "openvino"] = Field(
        default="auto",
        description="backend; auto takes the fastest that `polytask export` has measured here, and torch where there is no "
        "export",
    )
    threads: int = Field(
        default=0, ge=0, description="threads of a forward on the CPU; 0 for the number of cores this process may use"
    )
    streams: int = Field(
        default=0,
        ge=0,
        le=256,
        description="batches run in parallel on the CPU, which share the threads (ONNX Runtime only); 0: one per thread, "
        "highest throughput; 1: lowest latency of a lone request",
    )
    cuda_graphs: Literal["auto", "off"] = Field(
        default="auto",
        description="CUDA graphs: auto records forwards of small batches at the start and replays them where that is faster",
    )
    max_rows: int = Field(default=0, ge=0, le=4096, description="rows in a batch; 0 for the default of the device")
    token_budget: int = Field(
        default=0,
        ge=0,
        le=262_144,
        description="tokens in a batch, padding included; 0 measures at the start how many take batch_ms",
    )
    batch_ms: float = Field(
        default=0.0,
        ge=0,
        le=60_000,
        description="milliseconds that the largest batches may take; 0 for the default of the device",
    )
    task_policies: str = Field(
        default="{}",
        description='policies of single tasks as JSON, such as {"intent": {"weight": 4, "max_waiting_tokens": 20000, '
        '"max_rows": 8, "mix": false}}; a task gets tokens in proportion to its weight',
    )
    max_waiting_tokens: int = Field(
        default=65_536, ge=1, description="tokens that may wait for the device before requests get 429"
    )
    deadline_s: float = Field(default=10.0, ge=0.001, le=86_400, description="seconds after which a request gets 504")
    drain_s: float = Field(
        default=0.0,
        ge=0,
        le=600,
        description="seconds after SIGTERM in which /readyz answers 503 and requests are still answered, so that a proxy can "
        "stop sending requests",
    )
    keep_alive_s: int = Field(
        default=75,
        ge=1,
        le=86_400,
        description="seconds that a connection is kept without a request. Longer than a proxy in front keeps it, so that the "
        "proxy never sends a request on a connection that is being closed",
    )
    swap_tolerance: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="largest difference between the golden answers of the active version and of a new one, from 0 to 1, "
        "with which POST /admin/models/load accepts the new one",
    )
    api_keys: str = Field(
        default="",
        description="API keys, as the lines that `polytask key` prints; without keys the service is open to all",
    )
    api_keys_file: str = Field(default="", description="file with these lines, read at the start")
    cors_origins: str = Field(
        default="",
        description="origins whose pages may call the service, separated by commas, such as https://example.org; * for any",
    )
    root_path: str = Field(
        default="",
        description="path below which a proxy shows the service, such as /nlp; it is part of the links that the service gives, "
        "and requests are answered with it and without it",
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="form of the log; auto writes text to a terminal and JSON elsewhere"
    )
    log_requests: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of requests that get a line in the log, from 0 to 1; accepted requests that fail always get one",
    )
    log_texts: bool = Field(
        default=False,
        description="whether the log may contain error messages that could quote texts of clients",
    )
    traces: bool = Field(
        default=False,
        description="whether requests are traced by OpenTelemetry; its standard OTEL_ variables say which and where to",
    )
    prediction_metrics: bool = Field(
        default=False,
        description="whether /metrics counts the labels and the confidence of answers",
    )
    max_inputs: int = Field(default=256, ge=1, description="inputs in a request")
    max_candidates: int = Field(default=128, ge=2, description="candidates or choices of an input")
    max_body_bytes: int = Field(default=512 * 1024, ge=1, description="bytes in a request body")
    max_answer_bytes: int = Field(
        default=8 * 1024 * 1024,
        ge=1024,
        description="bytes that the answers to a request may have; one whose answers may have more is refused before it runs",
    )

    @field_validator("task_policies")
    @classmethod
    def _check_task_policies(cls, text: str) -> str:
        parse_task_policies(text)
        return text

    def __post_init__(self) -> None:
        self._check_access()
        if not re.fullmatch(r"((cpu|\d{1,3})(,(cpu|\d{1,3}))*)?", self.devices):
            raise SettingsError(
                f"{env_name('devices')} must be numbers of CUDA devices, or cpu, separated by commas; got {self.devices!r}"
            )
        is_path = re.fullmatch(r"(/[\w.~-]*\w[\w.~-]*)*", self.root_path, re.ASCII)
        if not is_path or OWN_PATHS & set(self.root_path.split("/")[1:2]):
            raise SettingsError(
                f"{env_name('root_path')} must be like /nlp, without a slash at its end, and not begin as a path of the "
                f"service does; got {self.root_path!r}"
            )
        if self.devices and self.device != "auto":
            raise SettingsError(f"set {env_name('device')} or {env_name('devices')}, not both")
        if self.traces and not _tracing_is_installed():
            raise SettingsError(
                f"{env_name('traces')} needs OpenTelemetry, which is not installed: pip install 'polytask[tracing]', or set it to no"
            )

    def _check_access(self) -> None:
        if self.api_keys and self.api_keys_file:
            raise SettingsError(f"set {env_name('api_keys')} or {env_name('api_keys_file')}, not both")
        _ = self.keys
        for origin in self.origins:
            if not re.fullmatch(r"\*|https?://[^/\s]+", origin):
                raise SettingsError(
                    f"{env_name('cors_origins')} must be * or origins such as https://example.org, without a path; got {origin!r}"
                )

    @property
    def engine_devices(self) -> tuple[str, ...]:
        """The device of each engine process: the entries of `devices`, else `device`. Empty where one process does everything."""
        return tuple(self.devices.split(",")) if self.devices else (self.device,) * bool(self.frontends)

    @property
    def num_frontends(self) -> int:
        """Number of HTTP processes; 0 where one process does everything."""
        return self.frontends or len(self.engine_devices)

    @property
    def keys(self) -> tuple[Key, ...]:
        """The API keys; empty where the service is open to all. The file is read each time. Raises SettingsError."""
        try:
            return load_keys(self.api_keys, self.api_keys_file)
        except KeyLineError as error:
            raise SettingsError(f"{env_name('api_keys_file' if self.api_keys_file else 'api_keys')} {error}") from None

    @property
    def origins(self) -> list[str]:
        """The entries of `cors_origins`."""
        return [origin.strip() for origin in self.cors_origins.split(",")] if self.cors_origins else []

    @property
    def policies(self) -> dict[str, TaskPolicy]:
        """The parsed `task_policies`, by task."""
        return parse_task_policies(self.task_policies)

    def to_environment(self) -> dict[str, str]:
        """The variables from which `from_environment` makes the same settings."""
        values = {env_name(setting.name): str(getattr(self, setting.name)) for setting in fields(self)}
        return {name: text for name, text in values.items() if text}

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], flags: Mapping[str, str | None] | None = None) -> Settings:
        """The settings in `environ`. `flags`: by field name or former name; they take precedence over variables.

        Blanks around numbers, switches and choices are ignored. Raises SettingsError for an unknown `POLYTASK_` variable,
        for a value that is refused, and for a variable that is set though empty: a Secret with nothing in it, or a variable
        of a script that is not set, would otherwise open a service that was to be closed.
        """
        variables = {name: text for name, text in environ.items() if name.startswith(PREFIX) and name not in CLIENT}
        options = {env_name(name): text for name, text in (flags or {}).items() if text is not None}
        given = _by_present_name(variables) | _by_present_name(options, _flag)
        all_fields = cls.__pydantic_fields__  # type: ignore[attr-defined]  # mypy sees a plain dataclass
        names = {env_name(field): field for field in all_fields}
        values: dict[str, Any] = {}
        for present_name, (name, text) in given.items():
            if present_name not in names:
                raise SettingsError(_unknown(name, list(names)))
            field = names[present_name]
            if not text.strip():
                otherwise = "to serve without keys" if field in _KEYS else "for the default"
                raise SettingsError(f"{name} is set but empty: give it a value, or unset it {otherwise}")
            values[field] = text if all_fields[field].annotation in {str, Path} else text.strip()
        try:
            return cls(**values)
        except ValidationError as error:
            (field, *_), problem = first_problem(error, all_fields)
            name, _ = given[env_name(field)]
            raise SettingsError(f"{name} {problem}") from None


class Setting(NamedTuple):
    """One setting for the command line and the documentation. `choices`: empty where other values are allowed."""

    name: str
    default: Any
    help: str
    choices: tuple[str, ...]

    @property
    def env_name(self) -> str:
        """Its environment variable."""
        return env_name(self.name)


def all_settings() -> list[Setting]:
    """Every setting with its default and meaning, in the order of `Settings`."""
    described = []
    for name, field in Settings.__pydantic_fields__.items():  # type: ignore[attr-defined]  # mypy sees a plain dataclass
        switch = field.annotation is bool
        default = ("yes" if field.default else "no") if switch else field.default
        choices = ("no", "yes") if switch else get_args(field.annotation)
        described.append(Setting(name, default, field.description, choices))
    return described


def env_name(name: str) -> str:
    """The environment variable of a field."""
    return PREFIX + name.upper()


def warn_of_former_names(environ: Mapping[str, str], flags: Mapping[str, str | None]) -> None:
    """Logs a warning for each variable and flag that is set under its former name."""
    options = {env_name(name) for name, text in flags.items() if text is not None}
    for former, name in RENAMED.items():
        if former in environ:
            logger.warning("%s is now called %s; the former name still works", former, name)
        if former in options:
            logger.warning("%s is now called %s; the former name still works", _flag(former), _flag(name))


def _by_present_name(given: Mapping[str, str], shown: Callable[[str], str] = str) -> dict[str, tuple[str, str]]:
    """Variables by their present names: the name that was set, and its text. `shown`: the name as messages have it."""
    for former, name in RENAMED.items():
        if former in given and name in given:
            raise SettingsError(f"set {shown(name)} or its former name {shown(former)}, not both")
    return {RENAMED.get(name, name): (name, text) for name, text in given.items()}


def _flag(name: str) -> str:
    """The flag of a variable."""
    return "--" + name.removeprefix(PREFIX).lower().replace("_", "-")


def _tracing_is_installed() -> bool:
    try:
        return all(importlib.util.find_spec(f"opentelemetry.{part}") for part in ("sdk", "exporter.otlp.proto.http"))
    except ModuleNotFoundError:
        return False


def _unknown(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name.upper(), names, n=1, cutoff=0.7)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
    return f"{name} is not a setting; {hint}"
