"""What the site holds: the menu, by the kind of page, and the API from its docstrings."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "examples", "plugins", "benchmarks")
PAGES = ["*.md", *(f"{folder}/{depth}*.md" for folder in FOLDERS for depth in ("", "**/"))]
FRONT = "README"
# Heading -> its pages in order: a page, or a folder's README with its other pages below it (``folder/``). A page of docs
# that stands nowhere here goes to the end of REST, so that a new one needs no line.
REST = "How to"
MENU: dict[str, tuple[str, ...]] = {
    "Tutorial": ("docs/tutorial", "examples/own_model/README"),
    REST: (
        "docs/tutorials",
        "examples/tutorials/vlm/README",
        "examples/tutorials/robot/README",
        "examples/tutorials/segmentation/README",
        "examples/tutorials/missing/README",
        "examples/tutorials/survival/README",
        "docs/install",
        "docs/init",
        "docs/data",
        "docs/tasks",
        "docs/checkpoints",
        "docs/elsewhere",
        "docs/vllm",
        "examples/answers_elsewhere/README",
        "examples/answers_cluster/README",
        "docs/python",
        "docs/notebook",
        "examples/notebooks/README",
        "docs/repairs",
        "docs/training",
        "docs/compare",
        "docs/gate",
        "examples/ci/README",
        "docs/scaling",
        "docs/long-jobs",
        "plugins/transformers/README",
        "plugins/callbacks/README",
        "plugins/pytest/README",
    ),
    "Reading a report": ("docs/reading", "docs/verdicts", "docs/warnings", "docs/glossary"),
    "Explanation": ("docs/limits", "docs/papers", "docs/security"),
    "Reference": (
        "docs/commands",
        "docs/config",
        "docs/api",
        "docs/errors/",
        "docs/report-schema",
        "docs/reference",
        "docs/measures",
        "docs/probes/",
        "docs/repair-methods",
        "docs/README",
    ),
    "Research": (
        "docs/reproduce",
        "docs/reproduced/",
        "docs/research/",
        "examples/public_checkpoint/README",
        "examples/r3d/README",
        "examples/data/README",
        "benchmarks/families/README",
        "benchmarks/gpu/README",
        "benchmarks/natural/README",
    ),
    "The project": (
        "docs/architecture",
        "docs/decisions/",
        "CONTRIBUTING",
        "CODE_OF_CONDUCT",
        "SECURITY",
        "CHANGELOG",
    ),
}
API = "docs/api"  # the page that the docstrings are put under
PUBLIC = ("collapsekit", "collapsekit.ext")


def on_source_read(app: Any, name: str, source: list[str]) -> None:
    """Add to a page, as it is read, what the repository's Markdown cannot say: its part of the menu, or docstrings."""
    del app
    if name == FRONT:
        source[0] += "\n\n" + "\n".join(_toctree(pages, caption) for caption, pages in menu().items())
    if below := _below(name):
        source[0] += "\n\n" + _toctree(below)
    if name == API:
        source[0] += "\n\n## Every name in full\n\n" + "\n\n".join(_documented(name) for name in public_names())


def menu() -> dict[str, list[str]]:
    """Heading -> names of pages, each page of docs once."""
    found = {caption: [f"{p}README" if p.endswith("/") else p for p in pages] for caption, pages in MENU.items()}
    placed = {p for pages in found.values() for p in pages}
    folders = tuple(p for pages in MENU.values() for p in pages if p.endswith("/"))
    every = sorted(p.relative_to(ROOT).with_suffix("").as_posix() for p in (ROOT / "docs").rglob("*.md"))
    found[REST] += [p for p in every if p not in placed and not p.startswith(folders)]
    return found


def _below(name: str) -> list[str]:
    """Pages that stand in the menu under a folder's README: the others of that folder, and the READMEs of its folders."""
    folder = name.removesuffix("README")
    if not any(folder in pages for pages in MENU.values()):
        return []
    here = [p for p in (ROOT / folder).rglob("*.md") if p != ROOT / f"{name}.md"]
    return sorted(p.relative_to(ROOT).with_suffix("").as_posix() for p in here)


def _toctree(pages: list[str], caption: str | None = None) -> str:
    options = [":hidden:", *([f":caption: {caption}"] if caption else [])]
    return "\n".join(["```{toctree}", *options, "", *(f"/{page}" for page in pages), "```"])


def public_names() -> Iterator[str]:
    """Every public name once, with the module to import it from: the package first."""
    seen = set()
    for module in PUBLIC:
        for name in importlib.import_module(module).__all__:
            if name not in seen:
                seen.add(name)
                yield f"{module}.{name}"


def _documented(dotted: str) -> str:
    """What autodoc is to write about a name."""
    module, _, name = dotted.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    if inspect.isclass(found):
        kind = "exception" if issubclass(found, BaseException) else "class"
    elif inspect.isfunction(found):
        kind = "function"
    else:  # a constant or a type that is short for another: its docstring would be Python's
        said = str(found).replace("typing.", "")
        return "\n".join([f"### {name}", "", "```{eval-rst}", f".. py:data:: {dotted}", "", f"   ``{said}``", "```"])
    return "\n".join([f"### {name}", "", "```{eval-rst}", f".. auto{kind}:: {dotted}", "```"])
