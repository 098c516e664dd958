"""The methods compared, each as a change of the suite's own recipe, which is the default CA-MTL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from polytask.training.evaluation.simple_models import FROZEN, TFIDF
from polytask.training.recipes.schema import Recipe
from polytask.training.teachers.single_task import teacher_recipe

_SHARED_RATE = 1e-4
_LORA_RATE = 1e-3
_SINGLE_PASSES = 3
_LAYER_DECAY = 0.87
_SINGLE_RATES = {"cola": 5e-5, "sst2": 5e-5, "stsb": 5e-5}
_SINGLE_RATE = 1e-4
"""Fine-tuning's rate, where no other was found better on validation by an outside measurement."""

_NO_CONDITIONING: Mapping[str, Any] = {
    "alignment": False,
    "attention": (),
    "layer_norm": (),
    "bottleneck": (),
    "pooling": False,
}


@dataclass(frozen=True, slots=True)
class Method:
    """A way to train the tasks of a suite. `recipe` gives the recipe of a trial from the suite's.

    `epochs`: passes over all examples; None leaves the recipe's own length. `per_task`: one model a task, trained by
    itself; else one model for all. `lora`: the backbone is fixed, and low-rank updates of its query and value
    matrices are learnt beside the heads (peft). `teaches`: its models are the teachers of taught methods. `simple`: the
    name of the simple model that it is, by scikit-learn; then nothing else of it counts.
    """

    name: str
    title: str
    recipe: Callable[[Recipe], Recipe]
    epochs: int | None = None
    per_task: bool = False
    lora: bool = False
    teaches: bool = False
    simple: str | None = None


def changed(recipe: Recipe, **sections: Mapping[str, Any]) -> Recipe:
    """The recipe with some keys of some sections changed, validated like any recipe."""
    fields = recipe.model_dump(exclude_unset=True)
    for section, keys in sections.items():
        fields[section] = fields.get(section, {}) | dict(keys)
    return Recipe.model_validate(fields)


def only(recipe: Recipe, task: str) -> Recipe:
    """The recipe for one of its tasks."""
    return recipe.model_copy(update={"tasks": tuple(own for own in recipe.tasks if own.name == task)})


def plain(recipe: Recipe) -> Recipe:
    """Ordinary fine-tuning: every weight, drawn in proportion, one linear head a task on the mean, no conditioning."""
    equal = {"weight": 1.0, "balanced": False}
    recipe = recipe.model_copy(update={"tasks": tuple(own.model_copy(update=equal) for own in recipe.tasks)})
    return changed(
        recipe,
        backbone={"frozen_layers": 0, "frozen_embeddings": False, "dropout": 0.1, "pooling": "mean"},
        conditioning=_NO_CONDITIONING,
        optimizer={
            "learning_rate": _SHARED_RATE,
            "added_learning_rate": _SHARED_RATE,
            "average": 0.0,
            "weight_decay": 0.01,
        },
        sampler={"name": "proportional"},
        losses={"task_mean": False, "prior": False},
    )


def taught(recipe: Recipe) -> Recipe:
    """The default with one single-task teacher a task, fine-tuned as `single`."""
    rates = {task.name: _SINGLE_RATES[task.name] for task in recipe.tasks if task.name in _SINGLE_RATES}
    return changed(
        recipe, teachers={"seeds": 1, "passes": _SINGLE_PASSES, "learning_rate": _SINGLE_RATE, "learning_rates": rates}
    )


def taught_scaled(recipe: Recipe) -> Recipe:
    """As `taught`, with losses divided by their start in place of the weights that the recipe gives to tasks."""
    tasks = tuple(own.model_copy(update={"weight": 1.0}) for own in recipe.tasks)
    return changed(taught(recipe.model_copy(update={"tasks": tasks})), losses={"scaled": True})


def taught_by_layers(recipe: Recipe) -> Recipe:
    """As `taught`, with lower rates for lower layers in place of frozen ones."""
    return changed(taught(recipe), backbone={"frozen_layers": 0}, optimizer={"layer_decay": _LAYER_DECAY})


def single(recipe: Recipe) -> Recipe:
    """Ordinary fine-tuning on one task: the recipe of a teacher."""
    of_teacher = teacher_recipe(taught(recipe), recipe.tasks[0], recipe.seed, num_examples=1)
    return of_teacher.model_copy(update={"length": recipe.length})


def lora(recipe: Recipe) -> Recipe:
    """As `plain`, at the rate that low-rank updates need."""
    rates = {"learning_rate": _LORA_RATE, "added_learning_rate": _LORA_RATE}
    return changed(plain(recipe), optimizer=rates)


def step(*parts: str, chosen: bool = False) -> Callable[[Recipe], Recipe]:
    """A step of the ablation: of the conditioning only `parts`; the default's sampler only if `chosen`."""

    def change(recipe: Recipe) -> Recipe:
        off = {key: value for key, value in _NO_CONDITIONING.items() if key not in parts}
        return changed(recipe, conditioning=off, sampler={} if chosen else {"name": "proportional"})

    return change


def uncertainty(*, amortised: bool) -> Callable[[Recipe], Recipe]:
    """The default with MT-Uncertainty as its sampler, for a sixth of the examples: the exact form is slow."""

    def change(recipe: Recipe) -> Recipe:
        sampler = {"name": "mt-uncertainty", "amortised": amortised}
        assert recipe.length.examples is not None, "the recipes of the suites name their length"
        return changed(recipe, sampler=sampler, length={"examples": recipe.length.examples // 6})

    return change


METHODS = {
    method.name: method
    for method in (
        Method("tfidf", "TF-IDF + linear (scikit-learn)", lambda recipe: recipe, per_task=True, simple=TFIDF),
        Method("frozen", "frozen + linear (scikit-learn)", lambda recipe: recipe, per_task=True, simple=FROZEN),
        Method("single", "single-task fine-tuning", single, epochs=_SINGLE_PASSES, per_task=True, teaches=True),
        Method("lora", "single-task LoRA", lora, epochs=3, per_task=True, lora=True),
        Method("shared", "hard sharing", plain, epochs=3),
        Method("sharing", "default without conditioning, proportional", step()),
        Method("attention", "+ conditional attention", step("attention")),
        Method("bottleneck", "+ bottleneck", step("attention", "bottleneck")),
        Method("layer-norm", "+ alignment and layer norm", step(*_NO_CONDITIONING)),
        Method("ca-mtl", "+ sampler = CA-MTL, default", lambda recipe: recipe),
        Method("taught", "default with a teacher for each task", taught),
        Method("taught-scaled", "the same, losses divided by their start", taught_scaled),
        Method("taught-layers", "the same, rates by layer and none frozen", taught_by_layers),
        Method("mt-exact", "MT-Uncertainty, exact, a sixth of the examples", uncertainty(amortised=False)),
        Method("mt-amortised", "MT-Uncertainty, amortised, a sixth of the examples", uncertainty(amortised=True)),
    )
}
