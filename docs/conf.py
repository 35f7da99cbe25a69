"""How Sphinx makes the site of these pages: ``make docs``.

Pages are read from docs/ and docstrings from pdray/, which is imported with its heavy packages mocked, so that neither
torch nor Ray has to be installed. The site loads nothing from a network: formulas become MathML.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pdray import __version__  # noqa: E402
from pdray.template import render  # noqa: E402

project = "pdray"
release = __version__
copyright = "the authors of pdray, Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "substitution"]
myst_heading_anchors = 3
myst_substitutions = {"settings": f"```yaml\n{render()}```"}

autodoc_mock_imports = ["numpy", "pyarrow", "ray", "fsspec", "psutil", "scipy", "pandas"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
nitpicky = True
# Types in signatures that the reference has no entry for: those of other packages, and inner ones.
nitpick_ignore_regex = [
    ("py:class", r"(np|numpy|pa|pyarrow|ray|collections|pathlib|pdray\.plan|pdray\.config)\..+"),
    ("py:class", r"Path|Dataset|RunConfig|pdray\.selection\.strategy\.Columns"),
]

html_theme = "furo"
html_title = "pdray"
html_math_renderer = "mathml"
html_show_sourcelink = False
html_copy_source = False


def setup(app: Any) -> None:
    """Register the writer of formulas, under the name that ``html_math_renderer`` gives, and the reader of links."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("source-read", _files_beside_the_pages)


def _files_beside_the_pages(app: Any, page: str, source: list[str]) -> None:
    """Take Markdown outside of docs/ for files to hand out, as MyST takes all others: they have no anchors."""
    source[0] = re.sub(r"\]\((\.\./[^)#]+\.md)(#[^)]*)?\)", r"](path:\1)", source[0])


def _inline(writer: Any, node: Any) -> None:
    from docutils.nodes import SkipNode

    writer.body.append(convert(node.astext()))
    raise SkipNode


def _block(writer: Any, node: Any) -> None:
    from docutils.nodes import SkipNode

    writer.body.append(convert(node.astext(), display="block"))
    raise SkipNode
