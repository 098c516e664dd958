"""Charts: texts, coordinates and colours of the SVG, and names and counts in it."""

from __future__ import annotations

import re

import matplotlib as mpl
import pytest

from polytask.training.report.charts import fit_names, render, short_count


def test_text_of_a_chart_is_kept_and_coordinates_are_shortened() -> None:
    """Numbers in texts are unchanged, coordinates are rounded, and colours become variables of the page."""
    chart = render("A $1 <title>", "words", (200, 100), lambda f: f.subplots().text(0.123, 0.5, "0.98765 <b> $x$"))
    assert "0.98765 &lt;b&gt; $x$</text>" in chart.svg
    assert "A $1 &lt;title&gt;" in chart.svg
    assert "var(--ink)" in chart.svg
    assert not re.search(r"#0[1-9a]0", chart.svg)
    assert not re.search(r' [xy]="\d+\.\d{2}', chart.svg)


def test_drawing_leaves_the_settings_alone() -> None:
    """Drawing does not change matplotlib's settings."""
    before = dict(mpl.rcParams)
    render("x", "y", (100, 100), lambda figure: figure.subplots().set_title("z"))
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0"), (950, "950"), (12_000, "12k"), (1_500_000, "1.5M"), (0.5, "0.5")]
)
def test_counts_are_short(count: float, said: str) -> None:
    """A count has three digits and a sign for its magnitude."""
    assert short_count(count) == said


def test_long_names_are_cut() -> None:
    """Names get the width of the longest one, up to a limit, and are cut to it."""
    assert fit_names(["a", "abc"], 200)[1] == ["a", "abc"]
    room, (name,) = fit_names(["a-name-of-fifty-letters-that-nobody-can-put-on-a-phone"], 100)
    assert (room, name[-1], len(name) < 16) == (100, "…", True)
