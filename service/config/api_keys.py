"""API keys: who may call, what each may do, and how a key is known without being kept."""

from __future__ import annotations

import hashlib
import re
import secrets
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from hmac import compare_digest
from pathlib import Path
from typing import Any

_PREFIX = "polytask_"
"""Of every key, so that people and scanners for leaked secrets see what it is."""

_NUM_BYTES = 32
_MOST_A_S = 1e6
_MOST_AT_ONCE = 1_000_000

_EXAMPLE = 'NAME = { sha256 = "…", requests_per_s = 50, burst = 100, concurrent = 8 }'


class KeyLineError(ValueError):
    """A line that is no key; the message says which line and why, never what is in it."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key, by its hash. A limit of 0 is none.

    `admin`: it opens /admin as well. `requests_per_s` on average, of which `burst` may come at once (0: a second's worth).
    `concurrent`: requests that may be worked on at a time. Raises KeyLineError.
    """

    name: str
    sha256: str
    admin: bool = False
    requests_per_s: float = 0.0
    burst: int = 0
    concurrent: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.name):
            raise KeyLineError("a name has 1 to 64 letters, digits, _ and -")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise KeyLineError(
                "sha256 must be the 64 hexadecimal digits that `polytask key` prints, not the key itself"
            )
        if not 0 <= self.requests_per_s <= _MOST_A_S:
            raise KeyLineError(
                f"requests_per_s must be at least 0 and at most {_MOST_A_S:.0f}, got {self.requests_per_s}"
            )
        for name in ("burst", "concurrent"):
            if not 0 <= getattr(self, name) <= _MOST_AT_ONCE:
                raise KeyLineError(f"{name} must be at least 0 and at most {_MOST_AT_ONCE}, got {getattr(self, name)}")
        if self.burst and not self.requests_per_s:
            raise KeyLineError("burst means nothing without requests_per_s")


class Keys:
    """All keys of a service, to be searched."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._by_digest = [(bytes.fromhex(key.sha256), key) for key in keys]

    def find(self, secret: bytes) -> Key | None:
        """The key that `secret` is. How long that takes does not tell which one, or how near it is."""
        digest, found = hashlib.sha256(secret).digest(), None
        for stored, key in self._by_digest:
            if compare_digest(stored, digest):
                found = key
        return found


def new_key(name: str, *, admin: bool = False) -> tuple[str, str]:
    """A new secret, and the line that stands for it in a file of keys. Raises KeyLineError for a name that cannot be."""
    secret = _PREFIX + secrets.token_urlsafe(_NUM_BYTES)
    key = Key(name, hashlib.sha256(secret.encode()).hexdigest(), admin)
    return secret, f'{key.name} = {{ sha256 = "{key.sha256}"{", admin = true" if admin else ""} }}'


def configured(text: str, file: str) -> tuple[Key, ...]:
    """The keys in `text` or in the file of that name; none where both are empty. Raises KeyLineError."""
    if not file:
        return parse_keys(text)
    try:
        return parse_keys(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise KeyLineError(f"cannot be read: {error}") from None


def parse_keys(text: str) -> tuple[Key, ...]:
    """The keys in lines of TOML, one a line; `#` begins a comment. Raises KeyLineError, also where there are none."""
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
    if text and not keys:
        raise KeyLineError("has no keys; unset it to serve without keys")
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
    if more or not isinstance(value, dict) or "sha256" not in value:
        raise KeyLineError(f"a key is one line such as {_EXAMPLE}")
    return Key(name, **{field: _checked(field, text) for field, text in value.items()})


def _checked(name: str, value: Any) -> Any:
    kinds = {field.name: field.default for field in fields(Key)} | {"sha256": ""}
    if name not in kinds or name == "name":
        raise KeyLineError(f"{name[:40]!r} is none of {', '.join(kind for kind in kinds if kind != 'name')}")
    kind = type(kinds[name])
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise KeyLineError(f"{name} must be a {_NOUNS[kind]}")
    return value


_NOUNS: dict[type, str] = {str: "string", float: "number", int: "whole number", bool: "boolean"}
