"""Presets: the published layouts of CA-MTL, as keys of a recipe.

Source: Pilault et al., "Conditionally Adaptive Multi-Task Learning", ICLR 2021. `released-*` follows the authors' code,
`paper-*` the paper where the two differ. Presets do not set sampling or learning rates.
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


def _merge_sections(keys: _Keys, changes: _Keys) -> _Keys:
    """`keys` updated with `changes`, section by section."""
    return {section: {**keys.get(section, {}), **changes.get(section, {})} for section in {**keys, **changes}}


_RELEASED: _Keys = {
    # The released code starts all new weights at random, and its filter of frozen parameters misses one projection.
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
    "losses": {"task_mean": True, "prior": False},
}
# Half of the layers frozen; a matrix for the alignment; conditional attention in the layers of the conditional norm.
_PAPER = _merge_sections(
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
    # `0-4` of BERT-base's 12 layers, as the released README says. The released code's last layer has other parameter
    # names, so it gets no published weights.
    Preset.RELEASED_BASE: _merge_sections(
        _merge_sections(_RELEASED, _BASE), {"backbone": {"frozen_layers": "5/12", "fresh_layers": "last"}}
    ),
    Preset.RELEASED_LARGE: _merge_sections(_merge_sections(_RELEASED, _LARGE), {"backbone": {"frozen_layers": "1/2"}}),
    Preset.PAPER_BASE: _merge_sections(_PAPER, _BASE),
    Preset.PAPER_LARGE: _merge_sections(_PAPER, _LARGE),
}
_REGRESSION = {"regression": "mse"}


def with_preset(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a recipe, as parsed from TOML, completed by those of its preset. The recipe's own fields win.

    Without a preset, or with an unknown one, the fields are unchanged: the recipe's checks report the error.
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
    return {**recipe, **_merge_sections(_KEYS[Preset(name)], given), "tasks": tasks}
