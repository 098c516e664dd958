"""The documentation site: every Markdown page of the repository that a reader may want, searchable and without a network.

The source folder is the repository, so that one relative link is right on the site and in the repository: `make docs`.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "Polytask"
html_title = "Polytask"
html_short_title = "Polytask"
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "DECISIONS.md",
    "benchmarks/*/RESULTS.md",
    "model_store/checkpoints/demo/1/card.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "data"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"

html_theme = "furo"
html_extra_path = ["site"]
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False


class SearchWithNumbers(SearchEnglish):
    """The search that also finds numbers, such as 429: the index and the page of results know them with an `n` in front."""

    js_splitter_code = r"""
splitQuery = (query) => query.split(/[^\p{Letter}\p{Number}_]+/gu).filter((term) => term)
  .map((term) => term.replace(/^\d+$/, "n$&"));
"""

    def split(self, input: str) -> list[str]:  # noqa: A002, the name is Sphinx's
        """The words of a text."""
        return [f"n{word}" if word.isdigit() else word for word in super().split(input)]


class Modules(SphinxDirective):
    """`{modules} FOLDER`: each module below the folder of the repository, with the first paragraph of its docstring."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        folder = self.arguments[0]
        lines: list[str] = []
        for path in sorted((ROOT / folder).rglob("*.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            if docstring and path.parent.resolve().is_relative_to(ROOT / folder):
                summary = " ".join(docstring.partition("\n\n")[0].split())
                name = str(path.relative_to(ROOT)).replace("__init__.py", "")
                lines.append(f"- `{name}`: {summary}")
                self.env.note_dependency(str(path))
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> None:
    """Adds the directive and the search."""
    app.add_search_language(SearchWithNumbers)
    app.add_directive("modules", Modules)
