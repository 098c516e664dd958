"""Defaults of the shortest recipe: what is meant by sections that it leaves out. Measured in `training/EXPERIMENTS.md`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    # Lower layers are frozen and read the same for all tasks; dropout of attention weights is slow on a CPU.
    "backbone": {"max_length": 256, "pooling": "pairs", "frozen_layers": "1/3", "attention_dropout": 0.0},
    "conditioning": {
        "attention": "upper",
        "attention_blocks": 4,
        "layer_norm": "upper",
        "bottleneck": "upper",
        "bottleneck_size": "1/6",
        "film_rank": 16,
    },
    "sampler": {"name": "temperature", "temperature": 2.0},
}


def with_defaults(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a recipe without a preset, as parsed from TOML, completed by what the sections that it leaves out mean.

    `[backbone]` is completed key by key unless it names a backbone, of which these keys may not be right.
    `[conditioning]` and `[sampler]` are each taken as a whole: a section that is there means what it says.
    """
    completed = {section: recipe.get(section, DEFAULTS[section]) for section in ("conditioning", "sampler")}
    backbone = recipe.get("backbone", {})
    if isinstance(backbone, Mapping) and "name" not in backbone:
        completed["backbone"] = {**DEFAULTS["backbone"], **backbone}
    return {**recipe, **completed}
