"""The tables of settings in `configuration.md`, made from the metadata of `Settings`: `make docs` writes them anew."""

from __future__ import annotations

import re
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from polytask.service.config.settings import Settings, env_name

PAGE = Path(__file__).with_name("configuration.md")
GROUPS = {
    "model": ("store", "model"),
    "http": ("host", "port", "deadline_s", "drain_s", "max_inputs", "max_candidates", "max_body_bytes"),
    "processes": ("device", "devices", "frontends"),
    "backend": ("runner", "threads", "streams", "cuda_graphs"),
    "batches": ("max_rows", "token_budget", "batch_ms", "max_waiting_tokens", "lanes"),
    "access": ("api_keys", "api_keys_file", "cors_origins"),
    "versions": ("swap_tolerance",),
    "observability": ("log_format", "log_requests", "log_texts", "traces", "prediction_metrics"),
}
"""The settings of each table. A table stands behind `<!-- settings: NAME -->`, up to the next comment."""


def with_tables(page: str) -> str:
    """The page with every table made anew. Raises KeyError for a table that there is not."""
    settings = {setting.name: setting for setting in fields(Settings)}

    def table(match: re.Match[str]) -> str:
        rows = [_row(settings[name]) for name in GROUPS[match[1]]]
        head = ["| variable | flag | default | meaning |", "|---|---|---|---|"]
        return "\n".join([match[0].partition("\n")[0], *head, *rows, "<!-- end -->"])

    return re.sub(r"<!-- settings: (\w+) -->.*?<!-- end -->", table, page, flags=re.DOTALL)


def _row(setting: Field[Any]) -> str:
    default = f"`{setting.default}`" if setting.default != "" else ""
    if isinstance(setting.default, Path):
        default = "the store in the package"
    meaning = setting.metadata["help"].replace("|", r"\|")
    if setting.metadata["choices"]:
        meaning += f". One of {', '.join(f'`{choice}`' for choice in setting.metadata['choices'])}"
    flag = "--" + setting.name.replace("_", "-")
    return f"| `{env_name(setting.name)}` | `{flag}` | {default} | {meaning} |"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
