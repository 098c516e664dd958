"""The published layouts of CA-MTL as presets: the keys of a recipe that each stands for.

Source: Pilault et al., "Conditionally Adaptive Multi-Task Learning", ICLR 2021. `released-*` is what the authors' code
computes, `paper-*` what the paper says where the two differ. A preset says nothing about sampling or learning rates.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Preset(StrEnum):
    """The published layouts, for backbones like BERT-base and like BERT-large."""

    RELEASED_BASE = "released-base"
    RELEASED_LARGE = "released-large"
    PAPER_BASE = "paper-base"
    PAPER_LARGE = "paper-large"


_Keys = Mapping[str, Mapping[str, Any]]


def _over(keys: _Keys, changes: _Keys) -> _Keys:
    """`changes` over `keys`, section by section."""
    return {section: {**keys.get(section, {}), **changes.get(section, {})} for section in {**keys, **changes}}


_RELEASED: _Keys = {
    # The released code draws every new weight at random, and its filter of what is frozen misses one projection.
    "conditioning": {
        "start": "random",
        "freeze_attention_film": True,
        "alignment": True,
        "alignment_form": "film",
        "attention": "all",
        "attention_blocks": "published",
        "layer_norm": "upper",
        "layer_norm_form": "scale",
        "bottleneck_size": "1/3",
        "film_rank": 0,
        "task_size": 0,
        "pooling": False,
    },
    "backbone": {"pooling": "cls"},
    "losses": {"task_mean": True},
}
# Half of the layers fixed; a matrix for the alignment; attention steered where the layer norm is.
_PAPER = _over(
    _RELEASED,
    {
        "conditioning": {
            "freeze_attention_film": False,
            "alignment_form": "matrix",
            "attention": "upper",
            "layer_norm_form": "bias-in-scale",
        },
        "backbone": {"frozen_layers": "1/2"},
    },
)
_BASE: _Keys = {"conditioning": {"bottleneck": "last", "bottleneck_form": "adapter"}}
_LARGE: _Keys = {"conditioning": {"bottleneck": "all", "bottleneck_form": "ladder"}}

_KEYS = {
    # `0-4` of BERT-base's 12 layers, as the released README says. Its last layer has names of its own, so that no
    # published weight finds it.
    Preset.RELEASED_BASE: _over(
        _over(_RELEASED, _BASE), {"backbone": {"frozen_layers": "5/12", "fresh_layers": "last"}}
    ),
    Preset.RELEASED_LARGE: _over(_over(_RELEASED, _LARGE), {"backbone": {"frozen_layers": "1/2"}}),
    Preset.PAPER_BASE: _over(_PAPER, _BASE),
    Preset.PAPER_LARGE: _over(_PAPER, _LARGE),
}
_REGRESSION = {"regression": "mse"}


def with_preset(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe's fields, as parsed from TOML, with those of its preset beneath: what the recipe itself says, wins.

    Without a preset, or with a wrong one, they are as they were: the recipe's own checks say what is wrong.
    """
    conditioning = recipe.get("conditioning")
    name = conditioning.get("preset") if isinstance(conditioning, Mapping) else None
    if name not in [preset.value for preset in Preset]:
        return recipe
    given = {section: recipe.get(section, {}) for section in _KEYS[Preset(name)]}
    tasks = recipe.get("tasks")
    if not isinstance(tasks, list) or not all(isinstance(entry, Mapping) for entry in (*given.values(), *tasks)):
        return recipe
    tasks = [{**_REGRESSION, **task} if task.get("kind") == "regression" else task for task in tasks]
    return {**recipe, **_over(_KEYS[Preset(name)], given), "tasks": tasks}
