"""How Sphinx builds the documentation: the repository's Markdown where it lies, so that its links hold on the site, too.

``make site`` builds it into build/site, with warnings as errors. Nothing of it asks another host for anything.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "site")]

import contents  # noqa: E402

from collapsekit.version import __version__  # noqa: E402

project = "collapsekit"
author = "The collapsekit developers"
copyright = author
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = contents.PAGES
exclude_patterns = ["**/__pycache__"]

myst_heading_anchors = 4  # links to headings, by the names that GitHub gives them
suppress_warnings = ["myst.header"]  # the papers' parts are numbered by level 3 alone

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "model_config, model_post_init"}
autoclass_content = "class"
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"collapsekit {__version__}"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_extra_path = ["index.html"]
pygments_style = "friendly"


def setup(app: Sphinx) -> None:
    """Have pages get their menu and their part of the API as they are read."""
    app.connect("source-read", contents.on_source_read)
