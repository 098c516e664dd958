"""Quality benchmark: methods differ only where they claim to, and the table adds up."""

from __future__ import annotations

import json
import statistics
import tomllib
from pathlib import Path
from typing import Any

import pytest

import benchmarks.quality
from benchmarks.quality.methods import METHODS, changed, only
from benchmarks.quality.table import render
from polytask import training
from polytask.model.config import Pooling
from polytask.training.recipes.schema import Recipe, SamplerName, read_recipe

RECIPES = Path(training.__file__).parent / "recipes"


def test_the_catalogue_is_the_shortest_recipe() -> None:
    """The recipe of the catalogue has files, kinds and columns, and nothing that was tuned."""
    _, text = read_recipe(Path(benchmarks.quality.__file__).parent / "catalogue.toml")
    recipe = tomllib.loads(text)
    assert set(recipe) == {"name", "tasks"}
    assert {key for own in recipe["tasks"] for key in own} <= {
        "name",
        "kind",
        "train",
        "validation",
        "columns",
        "metric",
    }


@pytest.fixture(scope="module", params=["glue8", "all"])
def recipe(request: pytest.FixtureRequest) -> Recipe:
    """The recipe of a suite."""
    return read_recipe(RECIPES / f"{request.param}.toml")[0]


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith("mt-")])
def test_methods_keep_backbone_tasks_and_batches(recipe: Recipe, name: str) -> None:
    """Every method keeps the suite's backbone, examples, seed, batch size and precision.

    Only the weights of the losses, of tasks and of labels, are the method's own.
    """
    recipe = only(recipe, recipe.tasks[0].name) if METHODS[name].per_task else recipe
    found, equal = METHODS[name].recipe(recipe), {"weight": 1.0, "balanced": False}
    assert found.backbone.name == recipe.backbone.name
    unweighted = [[own.model_copy(update=equal) for own in one.tasks] for one in (found, recipe)]
    assert unweighted[0] == unweighted[1]
    assert found.seed == recipe.seed
    assert found.length == recipe.length


def test_both_forms_of_mt_uncertainty_differ_in_nothing_else(recipe: Recipe) -> None:
    """Both forms of MT-Uncertainty are the default with another sampler, for the same smaller number of examples."""
    exact, amortised = (METHODS[name].recipe(recipe) for name in ("mt-exact", "mt-amortised"))
    assert (exact.sampler.amortised, amortised.sampler.amortised) == (False, True)
    assert changed(exact, sampler={"amortised": True}) == amortised
    assert (exact.length.examples or 0) < (recipe.length.examples or 0)
    as_default = {"sampler": recipe.sampler, "length": recipe.length}
    assert exact.model_copy(update=as_default) == recipe


@pytest.mark.parametrize("name", ["single", "lora", "shared"])
def test_rivals_are_plain(recipe: Recipe, name: str) -> None:
    """The rivals have no conditioning, no frozen layers of the recipe, no average, and sample in proportion."""
    found = METHODS[name].recipe(recipe)
    switches = found.conditioning
    assert not any((switches.alignment, switches.attention, switches.layer_norm, switches.bottleneck))
    assert (found.backbone.frozen_layers, found.backbone.frozen_embeddings) == (0, False)
    assert found.optimizer.average == 0
    assert found.sampler.name is SamplerName.PROPORTIONAL
    assert found.backbone.pooling is Pooling.MEAN
    assert {own.weight for own in found.tasks} == {1.0}
    assert METHODS[name].epochs == 3


def test_the_default_is_the_recipe_itself(recipe: Recipe) -> None:
    """CA-MTL is measured with the recipe unchanged."""
    assert METHODS["ca-mtl"].recipe(recipe) is recipe


def test_the_ablation_adds_one_part_at_a_time(recipe: Recipe) -> None:
    """Each step switches on one more part of the default's conditioning, and only the sampler remains."""

    def parts(name: str) -> list[bool]:
        switches = METHODS[name].recipe(recipe).conditioning
        return [bool(switches.attention), bool(switches.bottleneck), bool(switches.layer_norm)]

    assert parts("sharing") == [False, False, False]
    assert parts("attention") == [True, False, False]
    assert parts("bottleneck") == [True, True, False]
    whole = METHODS["layer-norm"].recipe(recipe)
    assert whole.conditioning == recipe.conditioning
    assert changed(whole, sampler=recipe.sampler.model_dump()) == recipe


def test_a_task_alone_is_the_same_task(recipe: Recipe) -> None:
    """A trial on one task has that task of the recipe and no other."""
    for own in recipe.tasks:
        assert only(recipe, own.name).tasks == (own,)


def _line(method: str, seed: int, scores: dict[str, float], **changes: Any) -> dict[str, Any]:
    line = {"suite": "s", "method": method, "seed": seed, "tasks": [*scores], "examples": 100, "updates": 4}
    line |= {"scores": {task: {"accuracy": score, "other": 0.0} for task, score in scores.items()}}
    line |= {"backbone": 1000, "added": 120, "trainable": 500, "seconds": 60.0, "threads": 1, "commit": "abc"}
    return line | {"examples_by_task": dict.fromkeys(scores, 50)} | changes


def _table(tmp_path: Path, *lines: dict[str, Any]) -> list[list[str]]:
    path = tmp_path / "s.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in render(path).splitlines() if row]


def test_the_table_has_mean_and_spread(tmp_path: Path) -> None:
    """The mean is over tasks and seeds, the spread over seeds' means, sigma over tasks' means."""
    rows = _table(
        tmp_path, _line("ca-mtl", 0, {"a": 0.5, "b": 0.7}), _line("ca-mtl", 1, {"a": 0.6, "b": 0.8}, commit="def")
    )
    scores = next(row for row in rows if row[1:2] == ["2"])
    spread, sigma = statistics.stdev([60, 70]), statistics.pstdev([55, 75])
    assert scores[2:] == ["65.00", f"{spread:.2f}", f"{sigma:.2f}", "55.00", "75.00"]
    costs = rows[-1]
    assert costs[1:] == ["100", "12.0%", "500", "1", "1.0", "2", "abc, def"]


def test_models_of_one_task_add_up(tmp_path: Path) -> None:
    """A seed of a method with one model per task counts once all tasks are there, with the sum of the costs."""
    whole = _line("ca-mtl", 0, {"a": 0.5, "b": 0.7})
    one = _line("single", 0, {"a": 0.4})
    assert len(_table(tmp_path, whole, one)) == len(_table(tmp_path, whole))
    rows = _table(tmp_path, whole, one, _line("single", 0, {"b": 0.6}))
    assert any(row[2:] == ["50.00", "-", "10.00", "40.00", "60.00"] for row in rows)
    assert any(row[1:2] == ["200"] and row[4] == "2" for row in rows)


def test_simple_models_count_without_the_tasks_that_they_cannot_answer(tmp_path: Path) -> None:
    """A simple model's row has a dash for a task that it has no line of, and the mean of the others."""
    rows = _table(tmp_path, _line("ca-mtl", 0, {"a": 0.5, "b": 0.7, "c": 0.9}), _line("tfidf", 0, {"c": 0.4}))
    assert next(row[2:] for row in rows if row[0].startswith("TF-IDF")) == ["40.00", "-", "0.00", "-", "-", "40.00"]
