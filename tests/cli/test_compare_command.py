"""collapsekit compare, as it is typed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from collapsekit.report.comparison import Comparison
from tests.cli.conftest import Run
from tests.comparison.making import make, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two reports, and two groups of seven runs."""
    write(tmp_path / "a", make(0.2))
    write(tmp_path / "b", make(0.9))
    for group, shift in (("old", 0.0), ("new", 0.05)):
        for seed in range(7):
            write(tmp_path / "runs" / group / f"seed{seed}", make(accuracy=0.8 + shift + seed / 200, seed=seed))
    return tmp_path


def test_two_reports_on_the_terminal(folder: Path, cli: Run) -> None:
    done = cli("compare", "a", "b/report.json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "✗ collapsed" in done.stdout
    assert "0.20*" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_one_screen_unless_more_is_asked_for(folder: Path, cli: Run) -> None:
    short, whole = cli("compare", "a", "b", cwd=folder).stdout, cli("compare", "a", "b", "-v", cwd=folder).stdout
    assert short.count("\n") <= 35
    assert "Side by side" in whole
    assert "Side by side" not in short
    assert "  collapsekit compare a b -f html -o compare.html" in short.splitlines()
    line = cli("compare", "a", "b", "-q", cwd=folder).stdout
    assert line.startswith("b beside a: ")
    assert line.count("\n") == 1
    chosen = cli("compare", "a", "b", "--only", "own.*", cwd=folder).stdout
    assert "own.number" in chosen
    assert (
        cli("compare", "a", "b", "--all", cwd=folder).stdout
        == cli("compare", "a", "b", "--all", "-v", cwd=folder).stdout
    )


def test_groups_as_json(folder: Path, cli: Run) -> None:
    done = cli(
        *(
            "compare",
            "old=runs/old",
            "new=runs/new",
            "--against",
            "new",
            "--only",
            "reliance.full_metric",
            "-f",
            "json",
        ),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    found = Comparison.model_validate(json.loads(done.stdout))
    assert [c.pairs for c in found.columns] == [7, None]
    assert found.rows[0].cells[0].test is not None
    assert found.rows[0].cells[0].test.p == 2 / 2**7
    assert found.rows[0].cells[0].test.significant


@pytest.mark.parametrize("name", ["json", "md", "html", "terminal"])
def test_a_file_is_what_stdout_would_be(folder: Path, cli: Run, name: str) -> None:
    shown = cli("compare", "a", "b", "-f", name, "--all", cwd=folder)
    written = cli("compare", "a", "b", "-f", name, "--all", "-o", "out/it", cwd=folder)
    assert (shown.returncode, written.returncode, written.stdout) == (0, 0, "")
    assert "Written: out/it" in written.stderr
    assert (folder / "out" / "it").read_text(encoding="utf-8") == shown.stdout
    assert [p.name for p in (folder / "out").iterdir()] == ["it"]
    assert "own.number" in shown.stdout.replace("<wbr>", "")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["a"], 2, "at least two columns"),
        ([], 2, "Missing argument"),
        (["a", "none"], 2, "none is not a file"),
        (["a", "other"], 2, "cannot be compared"),
        (["a", "b", "--against", "c"], 2, "names no column"),
        (["a", "b", "--only", "vif.men"], 2, "fits no number"),
        (["a", "b", "-o", "a"], 2, "cannot be written"),
        (["a", "bad.json"], 3, "is not JSON"),
        (["a", "x=bad.json,b"], 3, "is not JSON"),
        (["a", "future.json"], 3, "schema_version 3"),
    ],
)
def test_exit_codes(folder: Path, cli: Run, arguments: list[str], code: int, said: str) -> None:
    write(folder / "other", make(task="regression"))
    (folder / "bad.json").write_text("no\x1b[31m")
    (folder / "future.json").write_text('{"schema_version": 3}')
    done = cli("compare", *arguments, cwd=folder)
    assert done.returncode == code, done.stderr
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "\x1b[31m" not in done.stderr


def test_hostile_names_on_the_command_line(folder: Path, cli: Run) -> None:
    name = "\x1b[31m::error::x ##[error]y"
    done = cli("compare", f"{name}=a", "b", cwd=folder)
    assert done.returncode == 0, done.stderr
    refused = cli("compare", f"{name}=a", f"{name}=b", cwd=folder)
    assert refused.returncode == 2
    for text in (done.stdout, refused.stderr):
        assert "\\x1b[31m" in text
        assert not any(sign in text for sign in ("\x1b", "::error", "##["))


def test_neither_help_nor_a_comparison_waits_for_torch(folder: Path) -> None:
    import subprocess

    program = (
        "import sys\nfrom collapsekit.cli import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as e:\n    assert not e.code\n"
        "sys.stderr.write(' '.join(sorted({'torch', 'scipy', 'numpy', 'matplotlib'} & set(sys.modules))))"
    )
    # A page draws figures, for which it waits for Matplotlib alone.
    cases = (["--help"], ""), (["a", "b", "-f", "md"], "numpy"), (["a", "b", "-f", "html"], "matplotlib numpy")
    for arguments, allowed in cases:
        done = subprocess.run(
            [sys.executable, "-c", program, "compare", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stderr == allowed
