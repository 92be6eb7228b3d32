"""Show what a change of the code changed in the files that the commands write.

``python -m tests.byte_identity make DIR`` runs the commands in DIR, in about five minutes; ``make DIR demo quick gate``
only those, into a DIR that may hold others. ``python -m tests.byte_identity compare BEFORE NOW`` names each file that
differs: data (JSON, tensors, XML) byte for byte, pages by their words and numbers in order. Make BEFORE with the older
code first on PYTHONPATH, under the same number of threads.
"""

from __future__ import annotations

import difflib
import html
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

COMMANDS: tuple[tuple[str, str, str], ...] = (
    # name of what stdout is kept as, folder it runs in, arguments
    ("demo", ".", "demo demo"),
    ("quick", "demo", "diagnose --profile quick -o ../quick -f json -f md -f html -f terminal"),
    ("standard", "demo", "diagnose --limit 240 -o ../standard -f json -f md -f html -f terminal"),
    ("full", "demo", "diagnose --profile full --limit 240 -o ../full -f json -f md -f html -f terminal"),
    ("seeded", "demo", "diagnose --profile quick --seed 1 -o ../seeded -q"),
    ("repair", "demo", "repair -m dropout --modality kar --epochs 2 -o ../repair --keep -q"),
    ("repair-terminal", ".", "report repair/repair.json"),
    ("repair-markdown", ".", "report repair/repair.json -f md"),
    ("repair-html", ".", "report repair/repair.json -f html -o repair.html"),
    (
        "gate",
        ".",
        "gate quick/report.json -r modalities.kar.score>=0.9 -r modalities.*.verdict!=collapsed -r results[vif.mean]<1000 "
        "-f text -f json=gate.json -f markdown=gate.md -f junit=gate.xml -f sarif=gate.sarif -f github=gate.txt",
    ),
    ("create", ".", "baseline create quick/report.json -o baseline.json"),
    ("update", ".", "baseline update baseline.json seeded/report.json"),
    ("show", ".", "baseline show baseline.json"),
    (
        "regress",
        ".",
        "gate seeded/report.json -b baseline.json -f text -f json=regress.json -f markdown=regress.md "
        "-f junit=regress.xml -f sarif=regress.sarif -f github=regress.txt",
    ),
    ("compare", ".", "compare a=quick b=seeded c=demo/report --all"),
    ("compare-json", ".", "compare a=quick,seeded b=demo/report -f json -o comparison.json"),
    ("compare-markdown", ".", "compare a=quick b=seeded -f md"),
    ("compare-html", ".", "compare a=quick b=seeded -f html -o comparison.html"),
    ("list", ".", "list -v"),
    ("schema-report", ".", "schema report"),
    ("schema-repair", ".", "schema repair"),
    ("schema-gate", ".", "schema gate"),
    ("schema-baseline", ".", "schema baseline"),
    ("schema-compare", ".", "schema compare"),
    ("inspect", "demo", "inspect ckpt.pt --json"),
    ("init", "demo", "init ckpt.pt -o ../init.yaml"),
)
PAGES = {".md", ".html", ".txt", ".out", ".yaml"}
PASSED_OVER = {"cache"}


def make(folder: Path, names: list[str]) -> None:
    """Run the commands of these names, or all, in ``folder``; keep stdout and exit code of each as NAME.out."""
    folder.mkdir(parents=True, exist_ok=bool(names))
    env = os.environ | {"COLLAPSEKIT_CACHE": str(folder.resolve() / "cache"), "COLUMNS": "100"}
    for name, inside, line in COMMANDS:
        if names and name not in names:
            continue
        run = [sys.executable, "-m", "collapsekit", *line.split()]
        ended = subprocess.run(run, cwd=folder / inside, env=env, capture_output=True, text=True, check=False)
        (folder / f"{name}.out").write_text(f"{ended.stdout}\nexit {ended.returncode}\n")
        print(f"{name}: exit {ended.returncode}", flush=True)
        if ended.returncode not in (0, 1, 5):
            print(ended.stderr[-2000:])


class _Words(HTMLParser):
    """The text of a page, without its style; a place where a line may be broken does not part words."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self._style = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._style = tag == "style"
        self.text += "" if tag == "wbr" else " "

    def handle_endtag(self, tag: str) -> None:
        self._style = False
        self.text += " "

    def handle_data(self, data: str) -> None:
        if not self._style:
            self.text += data


def words(path: Path) -> list[str]:
    """Words and numbers of a page, in order, without markup, frames, rules, brackets and commas."""
    text = path.read_text()
    if path.suffix == ".html":
        page = _Words()
        page.feed(text)
        text = page.text
    else:
        text = re.sub(r"<(br|!--.*?--|/?code)>", " ", text)
        text = re.sub(r"[|─-╿*`#<>\\-]+", " ", html.unescape(text))
    return re.sub(r"[\[\](){}·;:,]|\.(?=\s)", " ", f"{text} ").split()


def compare(before: Path, now: Path) -> int:
    """Print each file that differs, and return how many do."""
    names = sorted(
        {
            p.relative_to(root)
            for root in (before, now)
            for p in root.rglob("*")
            if p.is_file() and not PASSED_OVER & set(p.relative_to(root).parts) and "__pycache__" not in p.parts
        }
    )
    different = 0
    for name in names:
        old, new = before / name, now / name
        if not (old.exists() and new.exists()):
            print(f"{name}: only {'before' if old.exists() else 'now'}")
        elif old.read_bytes() == new.read_bytes():
            continue
        elif name.suffix in PAGES and words(old) == words(new):
            print(f"{name}: same words, other markup")
            continue
        else:
            print(f"{name}: differs")
            _explain(old, new)
        different += 1
    print(f"{len(names)} files, {different} of them different")
    return different


def _explain(old: Path, new: Path) -> None:
    if old.suffix == ".json":
        a, b = (json.dumps(json.loads(p.read_text()), indent=1).splitlines() for p in (old, new))
    elif old.suffix in PAGES:
        a, b = words(old), words(new)
    else:
        return
    changed = [line for line in difflib.unified_diff(a, b, lineterm="", n=0) if not line.startswith(("---", "+++"))]
    print("\n".join(f"    {line[:160]}" for line in changed[:40]))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", folder, *names]:
            make(Path(folder), names)
        case ["compare", before, now]:
            sys.exit(1 if compare(Path(before), Path(now)) else 0)
        case _:
            sys.exit(__doc__)
