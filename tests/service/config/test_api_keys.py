"""API keys: reading them from lines, and finding one."""

from __future__ import annotations

import hashlib
import stat
from hmac import compare_digest
from pathlib import Path

import pytest

from polytask.service.config import api_keys as keys
from polytask.service.config.api_keys import Key, KeyLineError, Keys, add_key_line, load_keys, new_key, parse_keys

HASH = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4


def digest(secret: bytes) -> str:
    """The hash of a key as its line has it."""
    return hashlib.sha256(secret).hexdigest()


def test_a_new_key_is_known_by_its_line() -> None:
    """The line that `polytask key` prints identifies the key, but does not contain it."""
    secret, line = new_key("web")
    (key,) = parse_keys(line)
    assert key == Key("web", digest(secret.encode()))
    assert Keys([key]).find(secret.encode()) == key
    assert secret not in line
    assert new_key("web")[0] != secret


def test_an_admin_key_says_so_in_its_line() -> None:
    """A line with `admin = true` makes an admin key."""
    _, line = new_key("ops", admin=True)
    assert parse_keys(line)[0].admin


def test_lines_have_limits_comments_and_blanks() -> None:
    """Each line is one key with its limits; comments and blank lines are skipped."""
    text = f"""
    # the shop
    web = {{ sha256 = "{HASH}", requests_per_s = 2.5, burst = 10, concurrent = 4 }}  # its pages

    ops-1 = {{ sha256 = "{OTHER}", admin = true, requests_per_s = 50 }}
    """
    assert parse_keys(text) == (
        Key("web", HASH, requests_per_s=2.5, burst=10, concurrent=4),
        Key("ops-1", OTHER, admin=True, requests_per_s=50),
    )


@pytest.mark.parametrize("text", ["", "\n", "# none\n", "\ufeff"])
def test_a_text_without_keys_is_an_error(tmp_path: Path, text: str) -> None:
    """Only what is not there at all means no keys: a file or a text without one is refused."""
    (tmp_path / "keys").write_text(text)
    with pytest.raises(KeyLineError):
        parse_keys(text)
    with pytest.raises(KeyLineError):
        load_keys("", str(tmp_path / "keys"))
    assert load_keys("", "") == ()


def test_a_key_is_added_to_a_file_that_is_whole_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file or one with keys gets one more line, keeps its mode, and is as it was where the line cannot be written."""
    file = tmp_path / "keys.toml"
    lines = [new_key(name)[1] for name in ("web", "ops")]
    add_key_line(file, lines[0])
    file.chmod(0o640)
    add_key_line(file, lines[1])
    assert file.read_text().splitlines() == lines
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    with pytest.raises(KeyLineError, match="another line has this name"):
        add_key_line(file, new_key("web")[1])
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(KeyLineError, match=r"cannot be written: .*No space left"):
        add_key_line(file, new_key("more")[1])
    assert file.read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("web", "a key is one line such as NAME = "),
        ("[web]", "a key is one line such as NAME = "),
        ('web = "secret"', "a key is one line such as NAME = "),
        ("web = {}", "a key is one line such as NAME = "),
        ('"a b" = { sha256 = "HASH" }', "a name has 1 to 64 letters"),
        ('web = { sha256 = "secret" }', "sha256 must be the 64 hexadecimal digits"),
        ("web = { sha256 = 4 }", "sha256 must be a valid string"),
        ('web = { sha256 = "HASH", burts = 4 }', "burts is none of sha256, admin, requests_per_s, burst, concurrent"),
        ('web = { sha256 = "HASH", name = "a" }', "a key is one line such as NAME = "),
        ('web = { sha256 = "HASH", admin = 1 }', "admin must be a valid boolean"),
        ('web = { sha256 = "HASH", burst = 4 }', "burst needs requests_per_s"),
        (
            'web = { sha256 = "HASH", requests_per_s = -1 }',
            "requests_per_s must be at least 0 and at most 1000000, got -1",
        ),
        ('web = { sha256 = "HASH", requests_per_s = nan }', "requests_per_s must be a finite number"),
        ('web = { sha256 = "HASH", concurrent = true }', "concurrent must be a whole number"),
        ('web = { sha256 = "HASH", burst = "secret", requests_per_s = 1 }', "burst must be a whole number"),
        ('first = { sha256 = "HASH" }', "another line has this name"),
        ('web = { sha256 = "OTHER" }', "another line has this sha256"),
    ],
)
def test_a_line_that_is_no_key_is_named_and_not_quoted(line: str, reason: str) -> None:
    """The message has the line number and the error, but nothing that could be a secret."""
    text = f'first = {{ sha256 = "{OTHER}" }}\n\n{line.replace("HASH", HASH).replace("OTHER", OTHER)}'
    with pytest.raises(KeyLineError, match=r"^line 3: ") as refused:
        parse_keys(text)
    assert reason in str(refused.value)
    assert "secret" not in str(refused.value)
    assert HASH not in str(refused.value)


def test_every_stored_hash_is_compared_whatever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search compares every stored hash, so its duration reveals neither whether a key exists nor its position."""
    compared: list[bytes] = []

    def compare(stored: bytes, given: bytes) -> bool:
        compared.append(stored)
        return compare_digest(stored, given)

    secrets = [f"secret {number}".encode() for number in range(5)]
    known = Keys([Key(f"key{number}", digest(secret)) for number, secret in enumerate(secrets)])
    monkeypatch.setattr(keys, "compare_digest", compare)
    for secret in (*secrets, b"", b"another"):
        compared.clear()
        found = known.find(secret)
        assert (found.name if found else None) == (f"key{secrets.index(secret)}" if secret in secrets else None)
        assert compared == [hashlib.sha256(secret).digest() for secret in secrets]
