"""API keys: what each key allows. Only hashes of keys are stored, one key a line."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tomllib
from collections.abc import Sequence
from hmac import compare_digest
from pathlib import Path

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from polytask.model_store.durable_files import locked, replace_text
from polytask.service.config.validation import first_problem

_PREFIX = "polytask_"
"""Every key begins with it, so that people and scanners for leaked secrets recognise one."""

_NUM_BYTES = 32
_MOST = 1_000_000

_EXAMPLE = 'NAME = { sha256 = "…", requests_per_s = 50, burst = 100, concurrent = 8 }'


class KeyLineError(Exception):
    """A line that is not a key, or lines that cannot be read or written. The message never quotes a line."""


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class Key:
    """One key, by its hash. A limit of 0 means none.

    `admin`: whether it opens /admin as well. `requests_per_s`: on average, of which `burst` may come at once (0: those of
    a second). `concurrent`: requests in flight. Raises KeyLineError or pydantic's ValidationError.
    """

    name: str
    sha256: str
    admin: bool = False
    requests_per_s: float = Field(default=0.0, ge=0, le=_MOST)
    burst: int = Field(default=0, ge=0, le=_MOST)
    concurrent: int = Field(default=0, ge=0, le=_MOST)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.name):
            raise KeyLineError("a name has 1 to 64 letters, digits, _ and -")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise KeyLineError(
                "sha256 must be the 64 hexadecimal digits that `polytask key` prints, not the key itself"
            )
        if self.burst and not self.requests_per_s:
            raise KeyLineError("burst needs requests_per_s")


class Keys:
    """The keys of a service, by their hashes."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._by_digest = [(bytes.fromhex(key.sha256), key) for key in keys]

    def find(self, secret: bytes) -> Key | None:
        """The key for a secret, or None. The time that this takes reveals neither which key it is nor how close a guess is."""
        digest, matching = hashlib.sha256(secret).digest(), None
        for stored, key in self._by_digest:
            if compare_digest(stored, digest):
                matching = key
        return matching


def new_key(name: str, *, admin: bool = False) -> tuple[str, str]:
    """A new secret, and its line for a file of keys. Raises KeyLineError for an invalid name."""
    secret = _PREFIX + secrets.token_urlsafe(_NUM_BYTES)
    key = Key(name, hashlib.sha256(secret.encode()).hexdigest(), admin)
    return secret, f'{key.name} = {{ sha256 = "{key.sha256}"{", admin = true" if admin else ""} }}'


def add_key_line(file: Path, line: str) -> None:
    """Adds the line of a new key to a file, which is made if there is none. A reader sees the file before or after it.

    Raises KeyLineError where the file has a line that is no key, or a key of this name, or cannot be written.
    """
    # A link stays one, and its target is replaced.
    file = Path(os.path.realpath(file))
    try:
        with locked(file.parent):
            present = _read(file) if file.exists() else ""
            text = f"{present.rstrip()}\n{line}\n".lstrip()
            parse_keys(text)
            replace_text(file, text)
    except OSError as error:
        raise KeyLineError(f"cannot be written: {error}") from None


def load_keys(text: str, file: str) -> tuple[Key, ...]:
    """The keys in `text`, or in `file` if that is a path. None if both are empty; a file without keys is an error.

    Raises KeyLineError.
    """
    if file:
        return parse_keys(_read(Path(file)))
    return parse_keys(text) if text else ()


def _read(file: Path) -> str:
    if file.is_dir():
        raise KeyLineError(f"is a folder: {file}; Docker makes one where the file of a volume is not there")
    try:
        return file.read_text(encoding="utf-8-sig")
    except PermissionError as error:
        raise KeyLineError(f"cannot be read: {error}; let user {os.geteuid()}, who runs the service, read it") from None
    except (OSError, UnicodeError) as error:
        raise KeyLineError(f"cannot be read: {error}; `polytask key NAME --file FILE` makes one") from None


def parse_keys(text: str) -> tuple[Key, ...]:
    """The keys in lines of TOML, one per line; `#` starts a comment. Raises KeyLineError, also for a text without keys."""
    keys: list[Key] = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            key = _parse_line(line)
            if key and key.name in {other.name for other in keys}:
                raise KeyLineError("another line has this name")  # noqa: TRY301, all problems of a line get its number
            if key and key.sha256 in {other.sha256 for other in keys}:
                raise KeyLineError("another line has this sha256")  # noqa: TRY301
        except KeyLineError as error:
            raise KeyLineError(f"line {number}: {error}") from None
        keys += [key] if key else []
    if not keys:
        raise KeyLineError(
            "has no keys: add the line that `polytask key NAME` prints, or unset it to serve without keys"
        )
    return tuple(keys)


def _parse_line(line: str) -> Key | None:
    try:
        given = tomllib.loads(line)
    except tomllib.TOMLDecodeError as error:
        reason = re.sub(r"\(at line 1, (.*)\)", r"(\1)", str(error))
        raise KeyLineError(f"{reason}; a key is one line such as {_EXAMPLE}") from None
    if not given:
        return None
    ((name, value), *more) = given.items()
    if more or not isinstance(value, dict) or "sha256" not in value or "name" in value:
        raise KeyLineError(f"a key is one line such as {_EXAMPLE}")
    try:
        return Key(name, **value)
    except ValidationError as error:
        settable = {field: info for field, info in Key.__pydantic_fields__.items() if field != "name"}  # type: ignore[attr-defined]  # mypy sees a plain dataclass
        path, problem = first_problem(error, settable, show_input=False)
        raise KeyLineError(f"{' '.join(path)} {problem}") from None
