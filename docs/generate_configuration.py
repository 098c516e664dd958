"""The tables of settings in `configuration.md`, made from the settings in the code: `make docs` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path

from polytask.service.config.settings import Setting, all_settings

PAGE = Path(__file__).with_name("configuration.md")
GROUPS = {
    "model": ("store", "model"),
    "http": (
        "host",
        "port",
        "root_path",
        "deadline_s",
        "drain_s",
        "keep_alive_s",
        "max_inputs",
        "max_candidates",
        "max_body_bytes",
        "max_answer_bytes",
    ),
    "processes": ("device", "devices", "frontends"),
    "backend": ("runner", "threads", "streams", "cuda_graphs"),
    "batches": ("max_rows", "token_budget", "batch_ms", "max_waiting_tokens", "task_policies"),
    "access": ("api_keys", "api_keys_file", "cors_origins"),
    "versions": ("swap_tolerance",),
    "observability": ("log_format", "log_requests", "log_texts", "traces", "prediction_metrics"),
}
"""The settings of each table. A table stands behind `<!-- settings: NAME -->`, up to the next comment."""


def with_tables(page: str) -> str:
    """The page with every table made anew. Raises KeyError for a table that there is not."""
    settings = {setting.name: setting for setting in all_settings()}

    def table(match: re.Match[str]) -> str:
        rows = [_row(settings[name]) for name in GROUPS[match[1]]]
        head = ["| variable | flag | default | meaning |", "|---|---|---|---|"]
        return "\n".join([match[0].partition("\n")[0], *head, *rows, "<!-- end -->"])

    return re.sub(r"<!-- settings: (\w+) -->.*?<!-- end -->", table, page, flags=re.DOTALL)


def _row(setting: Setting) -> str:
    default = f"`{setting.default}`" if setting.default != "" else ""
    if isinstance(setting.default, Path):
        default = "the store in the package"
    meaning = setting.help.replace("|", r"\|")
    if setting.choices:
        meaning += f". One of {', '.join(f'`{choice}`' for choice in setting.choices)}"
    flag = "--" + setting.name.replace("_", "-")
    return f"| `{setting.env_name}` | `{flag}` | {default} | {meaning} |"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
