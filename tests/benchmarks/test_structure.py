"""Structure figures: boxes, floors and arrows of a package, and its largest folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.structure import Shape, largest_folder, shape


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in which `top` imports the sub-package `room`, whose module imports `left`; `left` and `right` form a circle."""
    folder = tmp_path / "house"
    sources = {
        "__init__.py": "",
        "top.py": "from house.room import table",
        "left.py": "import house.right",
        "right.py": "import house.left",
        "room/__init__.py": "",
        "room/table.py": "import house.left, house.room.chair",
        "room/chair.py": "",
    }
    for name, source in sources.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


@pytest.mark.usefixtures("house")
def test_a_sub_package_is_one_box_and_a_circle_is_one_floor() -> None:
    """Imports inside a sub-package are no arrows, and modules that import each other share a floor."""
    assert shape("house") == Shape(boxes=4, floors=3, arrows=4)


def test_the_largest_folder_has_the_most_modules(house: Path) -> None:
    """A folder's `__init__.py` and its sub-folders do not count."""
    assert largest_folder(house) == (3, "house")
