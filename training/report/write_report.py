"""A run to look at: `report.html` and `report.md` from what the run has written down, finished or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from polytask.training.report.charts import COLOURS, PAGE_STYLE, Chart
from polytask.training.report.run_charts import (
    calibration_chart,
    curves_chart,
    overall_charts,
    scores_chart,
    share_chart,
)
from polytask.training.report.tables import (
    KIND_NAMES,
    Curve,
    TaskScore,
    markdown_cell,
    parameters_line,
    scores_table,
    task_curves,
    task_scores,
    tiles,
    use_table,
)
from polytask.training.report.task_section import close_up
from polytask.training.runs.run_reader import Recorded, read_run

_WIDE, _NARROW = 560, 360


def write_report(folder: Path) -> tuple[Path, Path]:
    """Writes `report.html` (one file, nothing from elsewhere) and `report.md` with its charts in `report/`.

    Reads `history.jsonl` and, where there is one, `results.json`; may be called again at any time. Returns the paths
    of both. Raises RunFolderError where `folder` is not a run's or what is in it is broken.
    """
    run = read_run(folder)
    scores, curves = task_scores(run), task_curves(run)
    shown = {
        "name": run.start.get("recipe", folder.resolve().name),
        "run": run,
        "tiles": list(tiles(run, scores)),
        "kinds": {KIND_NAMES[kind]: COLOURS[kind] for kind in dict.fromkeys(run.kinds.values())},
        "parameters": parameters_line(run),
        "style": PAGE_STYLE,
        "scores": scores_table(scores),
        "use": use_table(run),
    }
    return _write_html(folder, run, scores, curves, shown), _write_markdown(folder, run, scores, curves, shown)


def _environment(*, autoescape: bool) -> Environment:
    return Environment(
        loader=PackageLoader("polytask.training.report"),
        autoescape=autoescape,  # noqa: S701 - on for HTML; Markdown escapes cell by cell
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _write_html(
    folder: Path, run: Recorded, scores: Sequence[TaskScore], curves: Mapping[str, Curve], shown: dict[str, Any]
) -> Path:
    charts: dict[str, Any] = {
        "scores": scores_chart(scores, _NARROW) if scores else None,
        "share": [share_chart(run, width) for width in (_WIDE, _NARROW)] if run.progress else [],
        "run": overall_charts(run, list(curves.values())),
    }
    closeups = [close_up(score, curves[score.task], run) for score in scores]
    page = _environment(autoescape=True).get_template("report.html")
    path = folder / "report.html"
    path.write_text(page.render(**shown, charts=charts, closeups=closeups), encoding="utf-8")
    return path


def _write_markdown(
    folder: Path, run: Recorded, scores: Sequence[TaskScore], curves: Mapping[str, Curve], shown: dict[str, Any]
) -> Path:
    (folder / "report").mkdir(exist_ok=True)
    drawn: dict[str, Chart | None] = {
        "scores": scores_chart(scores, 800, alone=True) if scores else None,
        "share": share_chart(run, 800, alone=True) if run.progress else None,
        "curves": curves_chart(list(curves.values())) if run.progress or run.evaluations else None,
        "calibration": calibration_chart(run),
    }
    for name, chart in drawn.items():
        if chart is not None:
            (folder / "report" / f"{name}.svg").write_text(chart.svg, encoding="utf-8")
    page = _environment(autoescape=False)
    page.filters["cell"] = markdown_cell
    closeups = [close_up(score, curves[score.task], run, draw=False) for score in scores]
    path = folder / "report.md"
    path.write_text(page.get_template("report.md").render(**shown, drawn=drawn, closeups=closeups), encoding="utf-8")
    return path
