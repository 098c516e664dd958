"""The tables of recipe keys, of defaults and of metrics in `recipes.md`, made from the recipe schema: `make docs` writes them anew."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from polytask.model.config import Product
from polytask.training.recipes.architecture import BackboneConfig, ConditioningConfig, Section, Share
from polytask.training.recipes.defaults import DEFAULTS
from polytask.training.recipes.schema import (
    METRICS,
    ExampleConfig,
    LengthConfig,
    LossConfig,
    OptimizerConfig,
    Recipe,
    SamplerConfig,
    TaskConfig,
)
from polytask.training.recipes.second_stage import SecondStageConfig
from polytask.training.recipes.teaching import TeachersConfig

PAGE = Path(__file__).with_name("recipes.md")
SECTIONS: dict[str, type[Section]] = {
    "recipe": Recipe,
    "backbone": BackboneConfig,
    "conditioning": ConditioningConfig,
    "optimizer": OptimizerConfig,
    "sampler": SamplerConfig,
    "losses": LossConfig,
    "teachers": TeachersConfig,
    "length": LengthConfig,
    "second_stage": SecondStageConfig,
    "tasks": TaskConfig,
    "examples": ExampleConfig,
}
"""The section of each table. A table stands behind `<!-- keys: NAME -->`, up to the next comment."""

_TYPES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true`, `false`",
    dict: "table of texts",
    dict[str, float]: "table of numbers",
    Share: 'share such as `"1/2"`',
    tuple[str, ...]: "list of texts",
    tuple[int, ...]: "list of layers",
    tuple[float, float]: "two numbers",
    tuple[Product, ...]: "list of products",
    tuple[ExampleConfig, ...]: "list of tables",
}
_SHORT_FORMS = {"train": "text or ", "validation": "text or "}
"""Keys whose values may be shorter than their types say."""

_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def with_tables(page: str) -> str:
    """The page with every table made anew. Raises KeyError for a table that there is not."""

    def table(match: re.Match[str]) -> str:
        fields = SECTIONS[match[1]].model_fields.items()
        rows = [_row(name, field) for name, field in fields if field.description is not None]
        head = ["| key | value | default | meaning |", "|---|---|---|---|"]
        return "\n".join([match[0].partition("\n")[0], *head, *rows, "<!-- end -->"])

    page = re.sub(r"<!-- keys: (\w+) -->.*?<!-- end -->", table, page, flags=re.DOTALL)
    rows = [f"| `{kind}` | {', '.join(f'`{metric}`' for metric in metrics)} |" for kind, metrics in METRICS.items()]
    metrics_table = ["<!-- metrics -->", "| kind | metrics, the main one first |", "|---|---|", *rows, "<!-- end -->"]
    page = re.sub(r"<!-- metrics -->.*?<!-- end -->", "\n".join(metrics_table), page, flags=re.DOTALL)
    rows = [f"| `[{section}]` | {_keys(keys)} |" for section, keys in DEFAULTS.items()]
    defaults = ["<!-- defaults -->", "| left out | is |", "|---|---|", *rows, "<!-- end -->"]
    return re.sub(r"<!-- defaults -->.*?<!-- end -->", "\n".join(defaults), page, flags=re.DOTALL)


def _keys(keys: Mapping[str, Any]) -> str:
    """Keys with their values, as in a recipe."""
    return ", ".join(f"`{name} = {json.dumps(value)}`" for name, value in keys.items())


def _row(name: str, field: FieldInfo) -> str:
    value = _SHORT_FORMS.get(name, "") + _value(field.annotation) + _bounds(field.metadata)
    return f"| `{name}` | {value} | {_default(field)} | {field.description} |"


def _value(annotation: Any) -> str:
    """The values that a key may have, in words."""
    if annotation in _TYPES:
        return _TYPES[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in _TYPES:
        return _TYPES[origin]
    if origin is Annotated:
        inner, *metadata = arguments
        return _value(inner) + _bounds([part for each in metadata for part in getattr(each, "metadata", [each])])
    if origin in {Union, UnionType}:
        return " or ".join(_value(argument) for argument in arguments if argument is not type(None))
    choices = arguments if origin is Literal else list(annotation)
    return ", ".join(f"`{choice}`" for choice in choices)


def _bounds(metadata: list[Any]) -> str:
    bounds = [
        f"{sign} {getattr(bound, name)}" for bound in metadata for name, sign in _BOUNDS.items() if hasattr(bound, name)
    ]
    return f" {', '.join(bounds)}" if bounds else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None or default in ("", (), {}):
        return ""
    if isinstance(default, tuple):
        return ", ".join(f"`{value}`" for value in default)
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
