"""Draw the pictures of docs/reading.md and of the README from a report of ``collapsekit demo``, in headless Chromium.

    collapsekit demo
    python docs/site/annotate.py collapsekit-demo/report/report.json

Each number is put beside the first place of the page that has the note's text, so the pictures can be made anew when the
page looks otherwise. A text that is nowhere on the page is an error: a note of docs/reading.md has to be written anew, too.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from collapsekit.io.files import write_atomic
from collapsekit.render import write
from collapsekit.report.diagnosis import Report

DOCS = Path(__file__).resolve().parents[1]
WIDTH, COLOURS = 1120, 160
_BADGES = """
<style>.note-badge {{position: absolute; z-index: 9; width: 26px; height: 26px; border-radius: 50%; background: #1f3a93;
color: #fff; font: bold 15px/26px sans-serif; text-align: center}}</style>
<script>
const find = (text) => {{
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_ELEMENT);
  let found = null;
  while (walker.nextNode()) {{
    const said = walker.currentNode.textContent.replace(/\\s+/g, " ");
    if (said.includes(text) && (found === null || found.contains(walker.currentNode))) found = walker.currentNode;
  }}
  return found;
}};
const top_at = {top} === null ? 0 : find({top}).getBoundingClientRect().top + scrollY - 40;
for (const note of {notes}) {{
  const place = find(note.text);
  if (place === null) {{ document.title = "not found: " + note.text; continue; }}
  const box = place.getBoundingClientRect(), badge = document.createElement("div");
  badge.className = "note-badge";
  badge.textContent = note.number;
  badge.style.left = (note.above ? box.right - 30 : box.left - 34) + scrollX + "px";
  badge.style.top = (note.above ? box.top - 26 : box.top - 1) + scrollY + "px";
  document.body.append(badge);
}}
document.body.style.position = "relative";
document.body.style.top = -top_at + "px";
</script>
"""


@dataclass(frozen=True)
class Note:
    """A number beside a text of the page: left of it, or above its end."""

    number: int
    text: str
    above: bool = False


@dataclass(frozen=True)
class Picture:
    """A part of the page: where it begins (None: at the top), what of it is shown in pixels, and the notes on it."""

    name: str
    top: str | None
    height: int
    width: int = WIDTH
    notes: tuple[Note, ...] = ()


def pictures(report: Report) -> list[Picture]:
    """All pictures, with their notes as docs/reading.md numbers them."""
    ignored = next(name for name, verdict in report.modalities.items() if verdict.verdict == "collapsed")
    reason = " ".join(report.modalities[ignored].reason.split()[:4])
    first = (
        Note(1, report.summary.split(". ")[0]),
        Note(2, "Checkpoint"),
        Note(3, "Warning."),
        Note(4, "ignored (0–1)", above=True),
        Note(5, "costs now", above=True),
        Note(6, "if missing", above=True),
        Note(7, reason),
        Note(8, "Read from"),
    )
    subsets = "What each subset of modalities can do"
    return [
        Picture("report.png", None, 1480),
        Picture("reading.png", None, 1240, notes=first),
        Picture("reading-subsets.png", subsets, 690, 640, (Note(9, subsets),)),
    ]


def draw(page: str, picture: Picture) -> bytes:
    """One picture as PNG. Raises ValueError where a note's text is nowhere on the page."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise ValueError("there is no chromium: install it to draw pictures of the report")
    page = re.sub(
        r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page
    )  # of this copy alone: it lets badges in
    badges = _BADGES.format(top=json.dumps(picture.top), notes=json.dumps([asdict(n) for n in picture.notes]))
    with TemporaryDirectory() as folder:
        copy, shot = Path(folder, "page.html"), Path(folder, "shot.png")
        copy.write_text(page.replace("</body>", f"{badges}</body>"), encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{picture.height}"]
        command = [chromium, *options, "--blink-settings=preferredColorScheme=1", copy.as_uri()]
        told = subprocess.run([*command, "--dump-dom"], capture_output=True, text=True, timeout=120, check=True).stdout
        if lost := re.search(r"<title>not found: (.*?)</title>", told):
            raise ValueError(f"{picture.name}: the page has no {lost[1]!r}: look at the report and at docs/reading.md")
        subprocess.run([*command, f"--screenshot={shot}"], capture_output=True, timeout=120, check=True)
        drawn = Image.open(shot).convert("RGB").crop((0, 0, picture.width, picture.height)).quantize(COLOURS)
    out = BytesIO()
    drawn.save(out, "PNG", optimize=True)
    return out.getvalue()


def main(arguments: list[str]) -> int:
    """Draw all pictures from the report that is named. Returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    report = Report.load(arguments[0])
    page = write(report, "html")
    for picture in pictures(report):
        drawn = draw(page, picture)
        write_atomic(DOCS / picture.name, drawn)
        sys.stdout.write(f"{picture.name}: {len(drawn) // 1000} kB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
