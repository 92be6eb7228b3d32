"""Formats of a report's files: which are made, and what they are called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from collapsekit.cli.commands.diagnose import Format, wanted_files, write_report
from tests.conftest import one_figure_drawn
from tests.gating.making import make_report


def test_what_runs_a_script_is_made_only_where_it_is_asked_for() -> None:
    assert wanted_files(None, None, False) == ["json", "md", "html"]
    assert wanted_files(None, [Format.interactive, Format.terminal], False) == ["html-interactive"]


def test_a_browser_opens_what_is_html(tmp_path: Path) -> None:
    with one_figure_drawn():
        files = write_report(make_report(), tmp_path, [Format.html, Format.interactive], False, None)
    assert [f.name for f in files] == ["report.html", "report-interactive.html"]
    inert, interactive = (f.read_text(encoding="utf-8") for f in files)
    assert "<script" not in inert
    assert interactive.count("<script") == 2


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_page_s_script_is_the_same_on_any_stream(encoding: str, tmp_path: Path) -> None:
    """Its digest stands in the page's policy, so that a browser would not run another one."""
    path = tmp_path / "report.json"
    path.write_text(make_report({"音声": 0.9, "image": 0.8}).to_json(), encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "collapsekit", "report", str(path), "-f", "html-interactive"]
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    text = done.stdout.decode(encoding)
    from collapsekit.render.writers import html_interactive

    script = (Path(html_interactive.__file__).parent / "interactive.js").read_text(encoding="utf-8")
    assert f"<script>{script}</script>" in text
    assert ("音声" in text) is (encoding == "utf-8")
