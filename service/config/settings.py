"""One deployment: addresses and limits, read once from `POLYTASK_*` variables or the flags of the same names."""

from __future__ import annotations

import difflib
import importlib.util
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from polytask.model_store import DEFAULT_STORE
from polytask.service.config.api_keys import Key, KeyLineError, configured
from polytask.service.config.task_policies import PolicyError, TaskPolicy, parse_task_policies
from polytask.service.errors import StartupError

SHUTDOWN_S = 5
"""What shutting down may take beyond the longest deadline of a request."""

PREFIX = "POLYTASK_"
CLIENT = frozenset({"POLYTASK_API_KEY"})
"""What clients read: it may be set where the service is started, too."""


class SettingsError(StartupError):
    """A variable that does not exist, or a value it cannot have."""


def _about(
    text: str, *, least: float | None = None, most: float = math.inf, choices: tuple[str, ...] = ()
) -> dict[str, Any]:
    return {"help": text, "least": least, "most": most, "choices": choices}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a deployment may choose. Each field is a variable: `max_rows` is POLYTASK_MAX_ROWS.

    A field's metadata has `help`, and `least` and `most` or `choices` where they bound it. Raises SettingsError.
    """

    store: Path = field(default=DEFAULT_STORE, metadata=_about("folder of the model store"))
    model: str = field(
        default="demo", metadata=_about("checkpoint to serve: NAME for its current version, or NAME/VERSION")
    )
    host: str = field(default="127.0.0.1", metadata=_about("address to listen on; 0.0.0.0 for all"))
    port: int = field(default=8000, metadata=_about("port to listen on; 0 for any free one", least=0, most=65_535))
    device: str = field(
        default="auto", metadata=_about("auto takes CUDA where there is one", choices=("auto", "cpu", "cuda"))
    )
    devices: str = field(
        default="", metadata=_about("an engine process for each of these: CUDA devices by number, or cpu; as in 0,1")
    )
    frontends: int = field(
        default=0,
        metadata=_about(
            "HTTP processes; 0 for one an engine of `devices`, or without these for one process that does everything",
            least=0,
            most=256,
        ),
    )
    runner: str = field(
        default="auto",
        metadata=_about(
            "engine; auto takes the fastest that `polytask export` has measured here, without exports torch",
            choices=("auto", "torch", "onnxruntime", "openvino"),
        ),
    )
    threads: int = field(
        default=0, metadata=_about("threads of a forward on the CPU; 0 for the cores this process may use", least=0)
    )
    streams: int = field(
        default=0,
        metadata=_about(
            "batches side by side, which share the threads, where the engine can; 0 for one a thread, 1 answers a lone "
            "request soonest",
            least=0,
            most=256,
        ),
    )
    cuda_graphs: str = field(
        default="auto",
        metadata=_about(
            "on CUDA, whether forwards of small batches are recorded at the start and replayed: auto where that is faster",
            choices=("auto", "off"),
        ),
    )
    max_rows: int = field(
        default=0, metadata=_about("rows in a batch; 0 for what suits the device", least=0, most=4096)
    )
    token_budget: int = field(
        default=0,
        metadata=_about("tokens in a batch, padding included; 0 measures what takes batch_ms", least=0, most=262_144),
    )
    batch_ms: float = field(
        default=0.0,
        metadata=_about(
            "milliseconds that the largest batches may take; 0 for what suits the device", least=0, most=60_000
        ),
    )
    lanes: str = field(
        default="{}",
        metadata=_about(
            'policies of single tasks as JSON, such as {"intent": {"weight": 4, "max_waiting_tokens": 20000, '
            '"max_rows": 8, "mix": false}}; weight: of its share of the device'
        ),
    )
    max_waiting_tokens: int = field(
        default=65_536, metadata=_about("tokens that may wait for the device before requests get 429", least=1)
    )
    deadline_s: float = field(
        default=10.0, metadata=_about("seconds after which a request gets 504", least=0.001, most=86_400)
    )
    drain_s: float = field(
        default=0.0,
        metadata=_about(
            "seconds after SIGTERM in which /readyz says 503 and requests are answered still, so that a proxy can turn away",
            least=0,
            most=600,
        ),
    )
    swap_tolerance: float = field(
        default=0.5,
        metadata=_about(
            "how far a golden answer may move from one version to the next, from 0 to 1, before POST /admin/models/load "
            "refuses it",
            least=0,
            most=1,
        ),
    )
    api_keys: str = field(
        default="",
        metadata=_about(
            "keys that open the service, as the lines that `polytask key` prints; without keys it is open to all"
        ),
    )
    api_keys_file: str = field(default="", metadata=_about("file with these lines, read at the start"))
    cors_origins: str = field(
        default="",
        metadata=_about(
            "origins whose pages may call, with commas between them, such as https://example.org; * for any"
        ),
    )
    log_format: str = field(
        default="auto",
        metadata=_about(
            "lines of the log; auto writes text to a terminal and JSON elsewhere", choices=("auto", "json", "text")
        ),
    )
    log_requests: float = field(
        default=0.0,
        metadata=_about(
            "share of requests that have a line in the log, from 0 to 1; those that were accepted and failed always have",
            least=0,
            most=1,
        ),
    )
    log_texts: str = field(
        default="no",
        metadata=_about(
            "whether the log may have messages of errors that could quote texts of clients", choices=("no", "yes")
        ),
    )
    traces: str = field(
        default="no",
        metadata=_about(
            "whether requests are traced by OpenTelemetry; the standard OTEL_ variables say where to and which",
            choices=("no", "yes"),
        ),
    )
    prediction_metrics: str = field(
        default="no",
        metadata=_about("whether /metrics counts the labels and the confidence of answers", choices=("no", "yes")),
    )
    max_inputs: int = field(default=256, metadata=_about("inputs in a request", least=1))
    max_candidates: int = field(default=128, metadata=_about("candidates or choices of an input", least=2))
    max_body_bytes: int = field(default=512 * 1024, metadata=_about("bytes in a request body", least=1))

    def __post_init__(self) -> None:
        self._check_values()
        self._check_access()
        if not re.fullmatch(r"((cpu|\d{1,3})(,(cpu|\d{1,3}))*)?", self.devices):
            raise SettingsError(
                f"{env_name('devices')} must be numbers of CUDA devices, or cpu, with commas between them; got {self.devices!r}"
            )
        if self.devices and self.device != "auto":
            raise SettingsError(f"set {env_name('device')} or {env_name('devices')}, not both")
        if self.traces == "yes" and not _tracing_is_installed():
            raise SettingsError(
                f"{env_name('traces')} needs OpenTelemetry, which is not installed: pip install 'polytask[tracing]', or set it to no"
            )
        try:
            parse_task_policies(self.lanes)
        except PolicyError as error:
            raise SettingsError(f"{env_name('lanes')} {error}") from None

    def _check_values(self) -> None:
        for setting in fields(self):
            value, limits = getattr(self, setting.name), setting.metadata
            # `not within` rather than `outside`: NaN is refused as well.
            if limits["least"] is not None and not limits["least"] <= value <= limits["most"]:
                most = "" if limits["most"] == math.inf else f" and at most {limits['most']}"
                raise SettingsError(f"{env_name(setting.name)} must be at least {limits['least']}{most}, got {value}")
            if limits["choices"] and value not in limits["choices"]:
                raise SettingsError(
                    f"{env_name(setting.name)} must be one of {', '.join(limits['choices'])}; got {value!r}"
                )

    def _check_access(self) -> None:
        if self.api_keys and self.api_keys_file:
            raise SettingsError(f"set {env_name('api_keys')} or {env_name('api_keys_file')}, not both")
        try:
            configured(self.api_keys, self.api_keys_file)
        except KeyLineError as error:
            raise SettingsError(f"{env_name('api_keys_file' if self.api_keys_file else 'api_keys')} {error}") from None
        for origin in self.origins:
            if not re.fullmatch(r"\*|https?://[^/\s]+", origin):
                raise SettingsError(
                    f"{env_name('cors_origins')} must be * or origins such as https://example.org, without a path; got {origin!r}"
                )

    @property
    def engine_devices(self) -> tuple[str, ...]:
        """The device of each engine process: an entry of `devices`, else `device`. None where one process does everything."""
        return tuple(self.devices.split(",")) if self.devices else (self.device,) * bool(self.frontends)

    @property
    def num_frontends(self) -> int:
        """HTTP processes; 0 where one process does everything."""
        return self.frontends or len(self.engine_devices)

    @property
    def keys(self) -> tuple[Key, ...]:
        """The API keys, none of which open the service to all."""
        return configured(self.api_keys, self.api_keys_file)

    @property
    def counts_predictions(self) -> bool:
        """Whether `prediction_metrics` says yes."""
        return self.prediction_metrics == "yes"

    @property
    def origins(self) -> list[str]:
        """What `cors_origins` lists."""
        return [origin.strip() for origin in self.cors_origins.split(",")] if self.cors_origins else []

    def to_environment(self) -> dict[str, str]:
        """The variables from which `from_environment` makes the same settings."""
        return {env_name(setting.name): str(getattr(self, setting.name)) for setting in fields(self)}

    @property
    def policies(self) -> dict[str, TaskPolicy]:
        """What `lanes` says, by task."""
        return parse_task_policies(self.lanes)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], flags: Mapping[str, str | None] | None = None) -> Settings:
        """The settings in `environ`; flags that are given, by field name, go before variables.

        Raises SettingsError for a `POLYTASK_` variable that is none of ours and for a value that does not fit.
        """
        given = {name: text for name, text in environ.items() if name.startswith(PREFIX)}
        given |= {env_name(name): text for name, text in (flags or {}).items() if text is not None}
        known = {env_name(setting.name): setting for setting in fields(cls)}
        for name in given:
            if name not in known and name not in CLIENT:
                raise SettingsError(_unknown(name, list(known)))
        values = {
            known[name].name: _parse(name, text, type(known[name].default))
            for name, text in given.items()
            if name in known
        }
        return cls(**values)


def env_name(name: str) -> str:
    """The environment variable of a field."""
    return PREFIX + name.upper()


def _tracing_is_installed() -> bool:
    try:
        return all(importlib.util.find_spec(f"opentelemetry.{part}") for part in ("sdk", "exporter.otlp.proto.http"))
    except ModuleNotFoundError:
        return False


def _parse(name: str, text: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        noun = "a whole number" if kind is int else "a number"
        raise SettingsError(f"{name} must be {noun}, got {text!r}") from None


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.7)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
    return f"{name} is not a setting; {hint}"
