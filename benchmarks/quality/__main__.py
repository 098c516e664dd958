"""`python -m benchmarks.quality SUITE --data DATA`: runs every trial without a result, then prints the table.

A result is one line in `benchmarks/quality/results/SUITE.jsonl`; a command that was stopped resumes there.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.quality.methods import METHODS, Method, only
from benchmarks.quality.simple_trial import run_simple_trial
from benchmarks.quality.table import render
from benchmarks.quality.trial import Outcome, run_trial
from polytask.model.tasks import Kind
from polytask.training.recipes.schema import Recipe, read_recipe

_RESULTS = Path(__file__).parent / "results"
_RECIPES = Path(__file__).parents[2] / "training" / "recipes", Path(__file__).parent


def main(
    suite: Annotated[str, typer.Argument(help="glue8, all or catalogue: a recipe in training/recipes or here.")],
    data: Annotated[Path, typer.Option(help="The folder of the data sets.")],
    methods: Annotated[str, typer.Option(help="Names, with commas; default: all.")] = ",".join(METHODS),
    seeds: Annotated[str, typer.Option(help="With commas.")] = "0,1,2",
    tasks: Annotated[str, typer.Option(help="Of the methods with one model a task: only these tasks.")] = "",
    results: Annotated[Path | None, typer.Option(help="Another file of results than SUITE.jsonl.")] = None,
    keep: Annotated[bool, typer.Option(help="Whether trained weights stay in runs/quality.")] = False,
    threads: Annotated[int, typer.Option(help="Of torch; 0 leaves it to torch.")] = 0,
) -> None:
    """Runs the missing trials and prints the table."""
    if threads:
        torch.set_num_threads(threads)
    found = next(path for folder in _RECIPES if (path := folder / f"{suite}.toml").is_file())
    console, recipe = Console(), read_recipe(found)[0]
    path = results or _RESULTS / f"{suite}.jsonl"
    for seed in map(int, seeds.split(",")):
        for name in methods.split(","):
            if METHODS[name].simple and seed != 0:  # nothing of them is random
                continue
            for trial in _trials(METHODS[name], recipe, tasks.split(",") if tasks else []):
                if not _done(path, name, seed, trial):
                    seeded = trial.model_copy(update={"seed": seed})
                    _append(path, _run(suite, METHODS[name], seeded, data, console, keep=keep))
    console.print(render(path), markup=False, highlight=False, soft_wrap=True)


def _run(suite: str, method: Method, recipe: Recipe, data: Path, console: Console, *, keep: bool) -> Outcome:
    if method.simple:
        return run_simple_trial(suite, method, recipe, data)
    return run_trial(suite, method, recipe, data, console, keep=keep)


def _trials(method: Method, recipe: Recipe, tasks: list[str]) -> list[Recipe]:
    if not method.per_task:
        return [recipe]
    wanted = [own for own in recipe.tasks if not tasks or own.name in tasks]
    return [only(recipe, own.name) for own in wanted if not (method.simple and own.kind is Kind.SPAN)]


def _done(path: Path, method: str, seed: int, recipe: Recipe) -> bool:
    wanted = (method, seed, [task.name for task in recipe.tasks])
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return any((line["method"], line["seed"], line["tasks"]) == wanted for line in map(json.loads, lines))


def _append(path: Path, outcome: Outcome) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(asdict(outcome)) + "\n")


if __name__ == "__main__":
    typer.run(main)
