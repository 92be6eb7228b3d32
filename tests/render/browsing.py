"""Pages in a real browser, where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--allow-file-access-from-files"),
)


def chromium(folder: Path, *arguments: str) -> str:
    """What it prints."""
    return browse(folder, *arguments).stdout


def browse(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it with a profile in the folder; the test is skipped where there is none."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no Chromium on the path: the page was not looked at")
    return subprocess.run(
        [binary, *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )


def count_sides(page: Path, fragment: str = "") -> int:
    """How many sides of paper a page is printed on."""
    file = page.with_suffix(".pdf")
    address = page.as_uri() + fragment
    chromium(page.parent, "--no-pdf-header-footer", "--virtual-time-budget=10000", f"--print-to-pdf={file}", address)
    return len(re.findall(rb"/Type\s*/Page\b", file.read_bytes()))


def run_in(page: Path, script: str, fragment: str = "") -> str:
    """What a script answers that looks into a page from a frame around it, as the page's policy lets none in."""
    around = page.with_name("around.html")
    around.write_text(
        f'''<!doctype html><body><iframe id="frame" src="{page.name}{fragment}" style="width:1200px;height:900px"></iframe>
<pre id="told"></pre>
<script>
addEventListener("load", async () => {{
  const inside = document.getElementById("frame").contentDocument, window_ = document.getElementById("frame").contentWindow;
  const told = await (async (document, window) => {{ {script} }})(inside, window_);
  document.getElementById("told").textContent = JSON.stringify(told);
}});
</script>''',
        encoding="utf-8",
    )
    done = browse(page.parent, "--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom", around.as_uri())
    assert "Content Security Policy" not in done.stderr, done.stderr
    found = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stdout[:500]
    return found[1]
