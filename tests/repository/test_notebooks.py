"""The notebooks run from start to end in a fresh kernel, and say what they said when they were committed."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.repository.notebooks import FOLDER, PATHS, execute

pytest.importorskip("nbformat", reason="nbformat is not installed: pip install -e .[test]")
import nbformat

ALL = pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
MOST = 200_000  # bytes of a notebook
STATES = "collapsed|underused|inconclusive|uninformative|used|healthy|passed|failed|accepted|rejected"


@cache
def committed(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [c for c in notebook.cells if c.cell_type == "code"]


def texts(cell: Any) -> list[str]:
    """What a cell's outputs say, as text, streams and bars apart."""
    data = [o["data"] for o in cell.outputs if o.output_type == "execute_result"]
    return [d["text/html"] if "text/html" in d else d.get("text/plain", "") for d in data]


def headline(html: str) -> list[str]:
    """The bold words of a screen, and the states it names, in order."""
    marked = re.findall(rf">[✓✗◐?○] ({STATES})<", html)
    return [*re.findall(r"<b>(.*?)</b>", html)[:1], *marked]


def test_there_are_two_and_the_page_names_them() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [p.name for p in PATHS] == sorted(re.findall(r"\[(\w+\.ipynb)\]", page)) != []


@ALL
def test_a_notebook_is_valid_small_and_has_the_outputs_of_one_run(path: Path) -> None:
    notebook = committed(path)
    nbformat.validate(notebook)
    assert path.stat().st_size < MOST
    assert [c.execution_count for c in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    kinds = [o.output_type for c in code_cells(notebook) for o in c.outputs]
    assert "error" not in kinds
    assert kinds.count("execute_result") > 5


@ALL
def test_no_output_names_a_place_of_the_machine_or_a_warning(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(?:home|root|tmp|work|Users|usr|opt)/|[A-Z]:\\\\", text)
    assert "Warning:" not in text
    streams = [o for c in code_cells(committed(path)) for o in c.outputs if o.output_type == "stream"]
    assert {o.name for o in streams} <= {"stdout"}


@pytest.mark.slow
@ALL
def test_a_notebook_runs_and_says_the_same_again(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="nbclient is not installed: pip install -e .[test]")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install -e .[test]")
    pytest.importorskip("pandas", reason="pandas is not installed: pip install -e .[test]")
    again = execute(path, tmp_path)  # a cell that raises ends it
    compared = 0
    for before, after in zip(code_cells(committed(path)), code_cells(again), strict=True):
        assert [o.output_type for o in before.outputs] == [o.output_type for o in after.outputs]
        for old, new in zip(texts(before), texts(after), strict=True):
            screens = old.startswith("<div class=")
            assert headline(old) == headline(new)
            assert screens == new.startswith("<div class=")
            words = rf"\b(?:{STATES}|True|False)\b"
            assert screens or re.findall(words, old) == re.findall(words, new)
            compared += screens
    assert compared > 0
