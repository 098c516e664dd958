"""Report of a training run: one HTML page from what the run has written into its folder, finished or not."""

from __future__ import annotations

import shlex
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from polytask.model_store.durable_files import replace_text
from polytask.training.report.charts import COLOURS, PAGE_STYLE
from polytask.training.report.run_charts import overall_charts, scores_chart, share_chart
from polytask.training.report.tables import (
    KIND_NAMES,
    parameters_line,
    scores_table,
    task_curves,
    task_scores,
    tiles,
    use_table,
)
from polytask.training.report.task_section import task_section
from polytask.training.runs.run_reader import RunFolderError, read_run

_WIDE, _NARROW = 560, 360


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run's folder, one file that loads nothing else, and returns its path.

    Reads `history.jsonl` and, if there is one, `results.json`; may be called again at any time. Raises RunFolderError if
    `folder` holds no run or a broken one, or cannot be written to.
    """
    run = read_run(folder)
    scores, curves = task_scores(run), task_curves(run)
    environment = Environment(
        loader=PackageLoader("polytask.training.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.get_template("report.html").render(
        name=run.start.get("recipe", folder.resolve().name),
        run=run,
        tiles=list(tiles(run, scores)),
        kinds={KIND_NAMES[kind]: COLOURS[kind] for kind in dict.fromkeys(run.kinds.values())},
        parameters=parameters_line(run),
        style=PAGE_STYLE,
        scores=scores_table(scores),
        use=use_table(run),
        charts={
            "scores": scores_chart(scores, _NARROW) if scores else None,
            "share": [share_chart(run, width) for width in (_WIDE, _NARROW)] if run.progress else [],
            "run": overall_charts(run, list(curves.values())),
        },
        sections=[task_section(score, curves[score.task], run) for score in scores],
    )
    path = folder / "report.html"
    try:
        replace_text(path, page)
    except OSError as error:
        remedy = f"make room, then: polytask report {shlex.quote(str(folder))}"
        raise RunFolderError(f"{path}: cannot be written ({error.strerror}); {remedy}") from error
    return path
