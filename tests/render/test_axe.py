"""Every page by axe-core, which finds what keeps people from reading it. Needs Chromium, and the path of axe.min.js in
COLLAPSEKIT_AXE (CONTRIBUTING.md)."""

from __future__ import annotations

import json
import os
import shutil
from html import unescape
from pathlib import Path

import pytest
from browsing import run_in
from test_views import sample

from collapsekit.render import files, write

pytestmark = pytest.mark.slow
WHERE = "COLLAPSEKIT_AXE"
RUN = """
await new Promise((loaded) => {
  const script = document.createElement("script");
  script.src = "axe.min.js";
  script.onload = loaded;
  document.head.append(script);
});
for (const d of document.querySelectorAll("details")) d.open = true;
const found = await window.axe.run(document);
return found.violations.map((v) => [v.impact, v.id, v.help, v.nodes.slice(0, 3).map((n) => n.html.slice(0, 200))]);
"""


@pytest.fixture(scope="module")
def axe() -> Path:
    path = os.environ.get(WHERE, "")
    if not path:
        pytest.skip(f"{WHERE} does not say where axe.min.js is: the pages were not checked for accessibility")
    assert Path(path).is_file(), f"{WHERE}={path} is no file"
    return Path(path)


@pytest.mark.parametrize("format_", ["html", "html-interactive"])
@pytest.mark.parametrize("view", files("views"))
def test_nothing_is_found(view: str, format_: str, axe: Path, tmp_path: Path) -> None:
    text = write(sample(view, "eight"), format_)
    without = text.replace('http-equiv="Content-Security-Policy"', "", 1)  # which lets no script in, not even this one
    assert without != text
    shutil.copy(axe, tmp_path / "axe.min.js")
    page = tmp_path / "report.html"
    page.write_text(without, encoding="utf-8")
    found = json.loads(unescape(run_in(page, RUN)))
    assert found == []


def test_what_is_wrong_is_found(axe: Path, tmp_path: Path) -> None:
    shutil.copy(axe, tmp_path / "axe.min.js")
    page = tmp_path / "report.html"
    page.write_text(
        '<!doctype html><html><title>A</title><body><img src="data:,"><input></body></html>', encoding="utf-8"
    )
    found = json.loads(unescape(run_in(page, RUN)))
    assert {"image-alt", "label"} <= {v[1] for v in found}
