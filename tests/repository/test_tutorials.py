"""examples/tutorials: each page shows its own files, and every command of it does what the page says."""

from __future__ import annotations

import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from collapsekit.config.load import check_config
from collapsekit.io.yaml import parse_yaml

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(p.parent for p in (ROOT / "examples" / "tutorials").glob("*/README.md"))
ALL = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.M | re.S)
FILES = (".py", ".yaml")
CPU_SECONDS = 60.0  # of all commands of a page, on one core
PROGRAMS = {"python": [sys.executable], "collapsekit": [sys.executable, "-m", "collapsekit"]}


def blocks(folder: Path, language: str) -> list[str]:
    """The page's code blocks of one language."""
    return [text for kind, text in BLOCK.findall(page(folder)) if kind == language]


def page(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def own_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix in FILES)


def test_there_is_a_page_for_each_kind_of_model() -> None:
    table = (ROOT / "docs" / "tutorials.md").read_text(encoding="utf-8")
    linked = re.findall(r"\(\.\./examples/tutorials/(\w+)/README\.md\)", table)
    assert sorted(linked) == [folder.name for folder in FOLDERS]
    assert "docs/tutorials.md" in (ROOT / "README.md").read_text(encoding="utf-8")


@ALL
def test_a_page_names_the_files_that_are_there(folder: Path) -> None:
    named = re.findall(r"^\| `([\w.]+)` \|", page(folder), flags=re.M)
    assert sorted(named) == [p.name for p in own_files(folder)]


@ALL
def test_a_page_shows_the_config_as_it_is(folder: Path) -> None:
    text = (folder / "collapsekit.yaml").read_text(encoding="utf-8")
    assert blocks(folder, "yaml")[0] == text
    assert check_config(parse_yaml(text, "collapsekit.yaml"), base=folder).modalities


@ALL
def test_what_a_page_shows_of_its_code_is_there(folder: Path) -> None:
    code = [p.read_text(encoding="utf-8") for p in own_files(folder) if p.suffix == ".py"]
    shown = blocks(folder, "python")
    assert shown
    for block in shown:
        assert any(f"\n{block}" in f"\n{text}" for text in code), block


@ALL
def test_every_block_of_a_page_is_of_a_kind_that_is_checked(folder: Path) -> None:
    assert {kind for kind, _ in BLOCK.findall(page(folder))} <= {"bash", "text", "yaml", "python"}
    assert max(len(line) for block in blocks(folder, "text") for line in block.splitlines()) <= 80


# --- what the commands do


@dataclass(frozen=True)
class Shown:
    """A command of a page, and what stands under it as its output."""

    command: str
    outputs: list[str]


def commands(folder: Path) -> list[Shown]:
    """Every command of a page in its order."""
    found: list[Shown] = []
    for kind, text in BLOCK.findall(page(folder)):
        if kind == "bash":
            found += [Shown(line, []) for line in text.splitlines() if line.strip()]
        elif kind == "text":
            found[-1].outputs.append(text)
    return found


def words(text: str) -> list[str | float]:
    """Words and numbers, per cent as shares; how a table is ruled, wrapped or spaced does not matter."""
    found = re.findall(r"-?\d+(?:\.\d+)?%?|[^\W\d_]\w*|[●·✓✗?]", text)
    return [
        float(w.removesuffix("%")) / (100 if w.endswith("%") else 1) if re.fullmatch(r"-?\d.*", w) else w for w in found
    ]


def alike(shown: list[str | float], printed: list[str | float]) -> bool:
    """Same words; numbers within what another processor may train differently."""
    return len(shown) == len(printed) and all(
        abs(x - y) <= max(0.1, 0.15 * abs(x)) if isinstance(x, float) and isinstance(y, float) else x == y
        for x, y in zip(shown, printed, strict=True)
    )


def stands_in(shown: str, printed: str) -> bool:
    """Whether an output, or a part of it, is what a page shows."""
    want, got = words(shown), words(printed)
    return any(alike(want, got[i : i + len(want)]) for i in range(len(got) - len(want) + 1))


def test_outputs_are_compared_by_words_and_roughly_by_numbers() -> None:
    printed = "flair     ✗ collapsed  0.986 [0.982, 0.995]\nt2 ✓ used 142% [130%, 156%]"
    assert stands_in("flair ✗ collapsed 0.95 [0.94, 0.99]", printed)
    assert stands_in("t2 ✓ used 150% [130%, 156%]", printed)
    assert not stands_in("flair ✗ collapsed 0.85 [0.94, 0.99]", printed)
    assert not stands_in("t2 ✓ used 180% [130%, 156%]", printed)
    assert not stands_in("flair ✓ used", printed)


@pytest.mark.slow
@ALL
def test_every_command_prints_what_the_page_shows(folder: Path, tmp_path: Path) -> None:
    if folder.name == "vlm":
        pytest.importorskip("transformers")
    here = tmp_path / folder.name
    here.mkdir()
    for file in own_files(folder):
        shutil.copy(file, here)
    env = {k: v for k, v in os.environ.items() if not k.startswith("COLLAPSEKIT_")}
    env |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    env |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for shown in commands(folder):
        program, *rest = shlex.split(shown.command)
        done = subprocess.run(
            [*PROGRAMS[program], *rest], cwd=here, env=env, capture_output=True, encoding="utf-8", timeout=900
        )
        assert done.returncode == 0, (shown.command, done.stderr)
        assert "Traceback" not in done.stderr
        for output in shown.outputs:
            assert stands_in(output, done.stdout + done.stderr), (shown.command, output, done.stdout, done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < CPU_SECONDS
