"""Versions: list, resolve, promote and roll back."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.model_store import DEFAULT_STORE
from polytask.model_store.errors import NameInvalid, NothingToRollBack, PointerCorrupt, StoreMissing, VersionNotFound
from polytask.model_store.versions import POINTER, current, names, parse_reference, promote, resolve, rollback, versions

_BAD_NAMES = ["", ".", "..", "../demo", "/demo", "demo\n", "Demo", "-demo", "x" * 64, "dëmo", "a b", "a\0"]


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A store of empty version folders: demo 1, 2 and 10, other 1, and things that are not versions."""
    for folder in ("demo/1", "demo/2", "demo/10", "other/1", "demo/.saving-abc", "demo/03", "demo/x", "empty"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "demo" / "7").write_text("a file", encoding="utf-8")
    (tmp_path / "README.md").write_text("a file", encoding="utf-8")
    return tmp_path


def test_the_default_store_is_in_the_package() -> None:
    """The store that comes with the package lies beside its code."""
    assert DEFAULT_STORE.parent.name == "model_store"
    assert DEFAULT_STORE.name == "checkpoints"


def test_only_versions_are_listed(filled: Path) -> None:
    """Names that have versions are listed, and versions by number; files, temporary folders and other names are not."""
    assert names(filled) == ["demo", "other"]
    assert versions(filled, "demo") == [1, 2, 10]
    assert versions(filled, "nobody") == []


def test_a_store_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    """A store that does not exist is an error, not an empty store."""
    with pytest.raises(StoreMissing, match="nowhere"):
        names(tmp_path / "nowhere")
    with pytest.raises(StoreMissing, match="nowhere"):
        resolve(tmp_path / "nowhere", "demo")


def test_a_reference_resolves_to_a_folder(filled: Path) -> None:
    """NAME/VERSION gives that version, NAME the promoted one, which need not be the highest."""
    assert resolve(filled, "demo/2") == filled / "demo" / "2"
    promote(filled, "demo", 1)
    assert resolve(filled, "demo") == filled / "demo" / "1"


def test_without_a_promotion_there_is_no_current_version(filled: Path) -> None:
    """Without a promotion a name alone is an error, which lists the versions."""
    assert current(filled, "demo") is None
    with pytest.raises(VersionNotFound, match="no version was promoted; promote one, or name one: demo/1, demo/2"):
        resolve(filled, "demo")


def test_what_is_not_there_is_listed_by_what_is(filled: Path) -> None:
    """The error for an unknown name lists the names, that for an unknown version the versions."""
    with pytest.raises(VersionNotFound, match="the store has: demo, other"):
        resolve(filled, "nobody")
    with pytest.raises(VersionNotFound, match="demo has: 1, 2, 10"):
        resolve(filled, "demo/3")
    with pytest.raises(VersionNotFound, match="demo has: 1, 2, 10"):
        promote(filled, "demo", 3)
    with pytest.raises(VersionNotFound, match="the store has: demo, other"):
        rollback(filled, "nobody")
    assert current(filled, "demo") is None


@pytest.mark.parametrize("name", _BAD_NAMES)
def test_a_bad_name_is_refused_everywhere(filled: Path, name: str) -> None:
    """Every function refuses a name that could lead out of the store."""
    for function in (versions, current, rollback):
        with pytest.raises(NameInvalid):
            function(filled, name)
    with pytest.raises(NameInvalid):
        promote(filled, name, 1)
    with pytest.raises(NameInvalid):
        resolve(filled, f"{name}/1")


@pytest.mark.parametrize(
    "reference", ["demo/", "demo/x", "demo/0", "demo/01", "demo/-1", "demo/1/2", "demo/1\n", "demo/..", "/1"]
)
def test_a_bad_reference_is_refused(reference: str) -> None:
    """A reference is NAME or NAME/VERSION and nothing else."""
    with pytest.raises(NameInvalid):
        parse_reference(reference)


def test_rolling_back_goes_to_what_was_current(filled: Path) -> None:
    """Rolling back follows promotions, not numbers, and stops at the first."""
    for version in (2, 10, 1):
        promote(filled, "demo", version)
    assert rollback(filled, "demo") == 10
    assert rollback(filled, "demo") == 2
    with pytest.raises(NothingToRollBack, match="no other version was current before"):
        rollback(filled, "demo")
    assert current(filled, "demo") == 2


def test_promoting_the_current_version_changes_nothing(filled: Path) -> None:
    """A second promotion of the same version is not one to roll back to."""
    for version in (1, 2, 2):
        promote(filled, "demo", version)
    assert rollback(filled, "demo") == 1


def test_rolling_back_to_a_deleted_version_is_an_error(filled: Path) -> None:
    """Rolling back to a deleted version is an error, and the current version stays."""
    promote(filled, "demo", 1)
    promote(filled, "demo", 2)
    (filled / "demo" / "1").rmdir()
    with pytest.raises(VersionNotFound, match="demo has: 2, 10"):
        rollback(filled, "demo")
    assert current(filled, "demo") == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"current": 1}',
        '{"current": "1", "before": []}',
        '{"current": true, "before": []}',
        '{"current": 1, "before": 1}',
        "\udcff",
    ],
)
def test_a_broken_pointer_is_said_to_be(filled: Path, text: str) -> None:
    """A pointer that names no version is an error with the file's path."""
    (filled / "demo" / POINTER).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(PointerCorrupt, match=POINTER):
        current(filled, "demo")


def test_a_pointer_that_was_being_written_does_not_count(filled: Path) -> None:
    """The rest of an interrupted promotion is not read and does not hinder the next one."""
    promote(filled, "demo", 1)
    (filled / "demo" / f".{POINTER}.new").write_text("half", encoding="utf-8")
    assert current(filled, "demo") == 1
    promote(filled, "demo", 2)
    assert current(filled, "demo") == 2


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([0, 1, 2, 3]), max_size=12))
def test_any_sequence_behaves_like_a_stack(commands: list[int]) -> None:
    """Promotions (1 to 3) push a version unless it is on top, rollbacks (0) pop all but the last; the top is current."""
    with tempfile.TemporaryDirectory() as folder:
        store, stack = Path(folder), list[int]()
        for version in (1, 2, 3):
            (store / "demo" / str(version)).mkdir(parents=True)
        for command in commands:
            if command:
                promote(store, "demo", command)
                stack += [command] if stack[-1:] != [command] else []
            elif len(stack) > 1:
                stack.pop()
                assert rollback(store, "demo") == stack[-1]
            else:
                with pytest.raises(NothingToRollBack):
                    rollback(store, "demo")
            assert current(store, "demo") == (stack[-1] if stack else None)
