"""Tuned card: what tuning single tasks came to, in the card of a run's version and in that of a version tuned afterwards."""

from __future__ import annotations

from collections.abc import Mapping

from polytask.training.evaluation.metrics import Scores
from polytask.training.evaluation.paired_gain import PairedGain

_SCORE = "validation"


def gains_section(gains: Mapping[str, PairedGain], origin: str = "") -> str:
    """What tuning came to by task, as a table; empty without any. `origin`: the version that was tuned, if it is another."""
    if not gains:
        return ""
    rows = [
        f"| `{task}` | {gain.metric} | {gain.before:.4f} | {gain.after:.4f} | {gain.error:.4f} "
        f"| {'yes' if gain.is_sure else 'no'} |\n"
        for task, gain in gains.items()
    ]
    title = f"Tuned from {origin}" if origin else "Second stage"
    return f"""
{title}: each task's own parameters were tuned alone. The figures are of training examples that no update has seen;
what was tuned is kept where it is better by more than one standard error of the difference.

| task | metric | before | tuned | standard error | kept |
|---|---|---:|---:|---:|---|
""" + "".join(rows)


def tuned_card(card: str, scores: Mapping[str, Scores], gains: Mapping[str, PairedGain], origin: str) -> str:
    """The card of `origin` with the new `scores` of the tasks that were tuned and kept, and the table of `gains`.

    Rows of these tasks in other tables hold no longer and are left out. All other lines stay.
    """
    lines: list[str] = []
    headings: list[str] = []
    for line in card.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        headings = (cells if cells[0] == "task" else headings) if cells else []
        task = cells[0].strip("`") if cells else ""
        if task not in scores:
            lines.append(line)
        elif _SCORE in headings:
            cells[headings.index(_SCORE)] = f"{next(iter(scores[task].values())):.4f}"
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" + gains_section(gains, origin)
