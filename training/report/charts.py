"""Charts as SVG: text stays text, and colours are CSS variables, so that charts follow the page's light or dark mode.

matplotlib draws them on figures without a window.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polytask.model.tasks import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    Kind.CLASSIFICATION: "#4c78c8",
    Kind.MULTILABEL: "#9a6bc4",
    Kind.REGRESSION: "#3f9b5f",
    Kind.RANKING: "#e08a2e",
    Kind.MULTIPLE_CHOICE: "#d4505f",
    Kind.TAGGING: "#2f9fa5",
    Kind.SPAN: "#b59a1f",
}
"""One colour for each kind of task, for light and dark mode."""

PAGE_STYLE = """
:root{--ink:#1b2330;--muted:#5c6675;--line:#dfe3ea;--paper:#fff;--desk:#f4f6f9}
@media (prefers-color-scheme:dark){:root{--ink:#e8ecf2;--muted:#9aa5b4;--line:#303a48;--paper:#161b22;--desk:#0d1117}}
svg text{font-family:system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif!important}
"""
"""The style that charts need on their page."""

# Placeholder colours: drawn by matplotlib, then replaced by CSS variables.
INK, MUTED, LINE, PAPER = "#010203", "#040506", "#070809", "#0a0b0c"
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", PAPER: "var(--paper)"}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "polytask",
    "text.parse_math": False,  # a name may have a dollar sign
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}
_POINTS_PER_INCH = 72  # one point is drawn as one CSS pixel
_MARGINS = (22, 12, 38, 44)
_MARKUP = re.compile(r"<[^>]*>")
_NUMBER = re.compile(r"(?<![\w#])-?\d+\.\d{2,}")

Draw = Callable[["Figure"], object]


@dataclass(frozen=True, slots=True)
class Chart:
    """An SVG and its width in CSS pixels."""

    svg: str
    width: int


def render(
    title: str,
    description: str,
    size: tuple[int, int],
    draw: Draw,
    *,
    margins: tuple[int, int, int, int] = _MARGINS,
) -> Chart:
    """Draws a chart. `size`, `margins` (top, right, bottom, left): in CSS pixels.

    `title` and `description` are read aloud to people who cannot see the chart.
    """
    import matplotlib as mpl  # noqa: PLC0415 - only reports need it
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser's fonts have the glyphs that ours lacks
        figure = Figure(figsize=(size[0] / _POINTS_PER_INCH, size[1] / _POINTS_PER_INCH))
        draw(figure)
        top, right, bottom, left = margins
        figure.subplots_adjust(left / size[0], bottom / size[1], 1 - right / size[0], 1 - top / size[1])
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return Chart(_minify(out.getvalue(), title, description, size), size[0])


def _minify(svg: str, title: str, description: str, size: tuple[int, int]) -> str:
    """The SVG without metadata, coordinates rounded to tenths, ids unique in a page, and title and description added."""
    body = svg[svg.index("<defs>", svg.index("<metadata>")) : svg.rindex("</svg>")]
    name = re.sub(r"[^a-z0-9]+", "-", f"{title} {size[0]}".lower()).strip("-")
    body = re.sub(r'<!--.*?-->|(?<=<g) id="[^"]*"', "", body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(url\(#|href="#)', rf"\1{name}-", body)
    body = _MARKUP.sub(lambda tag: _NUMBER.sub(_round_number, tag[0]), body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    words = f'<title id="{name}-t">{html.escape(title)}</title><desc id="{name}-d">{html.escape(description)}</desc>'
    root = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" height="{size[1]}" '
        f'aria-labelledby="{name}-t {name}-d">'
    )
    return re.sub(r"\n\s*", "\n", f"{root}{words}{body}</svg>")


def _round_number(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")


def short_count(count: float, _place: float = 0) -> str:
    """A count in short form: 950, 12k, 1.5M. The second argument makes it a formatter for the ticks of an axis."""
    for size, sign in ((1_000_000, "M"), (1_000, "k")):
        if abs(count) >= size:
            return f"{count / size:.3g}{sign}"
    return f"{count:.3g}"


def limit_ticks(axes: Axes, *, x: int | None = None, y: int | None = None, whole: bool = False) -> None:
    """Sets the largest numbers of intervals between ticks. `whole`: ticks at whole numbers only."""
    if x is not None:
        axes.locator_params(axis="x", nbins=x, integer=whole)
    if y is not None:
        axes.locator_params(axis="y", nbins=y, integer=whole)


def fit_names(names: Sequence[str], most: int) -> tuple[int, list[str]]:
    """The width in pixels for the longest name, at most `most`, and the names cut to that width."""
    width = 6.4  # of a letter, on average
    room = min(most, round(width * max(map(len, names), default=0)) + 12)
    letters = int((room - 10) / width)
    return room, [name if len(name) <= letters else f"{name[: letters - 1]}…" for name in names]
