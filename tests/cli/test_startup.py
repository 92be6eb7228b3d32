"""What a command imports before it has anything to do; times are for benchmarks/speed/startup.py."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from benchmarks.speed.startup import make_report
from collapsekit.cli import app
from collapsekit.cli.overview import COMMANDS, VERSION, overview

HEAVY = {"torch", "numpy", "scipy", "matplotlib", "pandas", "sklearn", "safetensors", "transformers"}
LIBRARIES = HEAVY | {"pydantic", "rich", "typer", "click", "yaml", "jinja2", "filelock"}
PROGRAM = """
import atexit, sys
from pathlib import Path
where = Path(sys.argv.pop())
atexit.register(lambda: where.write_text(" ".join({m.split(".")[0] for m in sys.modules})))
from collapsekit.cli import main
main()
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_report(tmp_path_factory.mktemp("report"))


def _run(folder: Path, *arguments: str, **env: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """What the command printed, and the packages it had imported when it ended."""
    where = folder / "modules.txt"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments, str(where)],
        cwd=folder,
        env={**os.environ, "COLUMNS": "80", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done, set(where.read_text().split())


@pytest.mark.parametrize("flag", ["--help", "-h", "--version"])
def test_help_and_version_import_the_standard_library_only(flag: str, tmp_path: Path) -> None:
    done, imported = _run(tmp_path, flag)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (f"{VERSION}\n" if flag == "--version" else f"{overview(80)}\n")
    assert not imported & LIBRARIES


RULE = "subject.examples > 0"  # holds, whatever the verdict is
LIGHT = [
    ["report", "REPORT"],
    ["report", "REPORT", "-f", "md"],
    ["report", "REPORT", "-f", "json"],
    ["schema"],
    ["gate", "REPORT", "--allow-partial", "--require", RULE],
    ["gate", "REPORT", "--allow-partial", "--require", RULE, "-f", "json"],
    *([name, "--help"] for name in COMMANDS),
]
# Each command in a fork of a process that has imported what prints, since that takes longer than all the rest. What it
# imported counts as imported by each.
FORKS = """
import atexit, json, os, sys
from pathlib import Path
import filelock, pydantic, rich.table, typer.rich_utils, yaml
from collapsekit.cli import main
import collapsekit.cli.options, collapsekit.cli.root, collapsekit.report.diagnosis
import collapsekit.render.views.diagnosis, collapsekit.render.writers.terminal
for place, arguments in json.loads(sys.argv[1]):
    folder = Path(place)
    folder.mkdir()
    child = os.fork()
    if child == 0:
        for number, name in enumerate(("out", "err"), 1):
            os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY), number)
        atexit.register(lambda: (folder / "modules").write_text(" ".join({m.split(".")[0] for m in sys.modules})))
        sys.argv = ["collapsekit", *arguments]
        main()
    (folder / "code").write_text(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""


@pytest.fixture(scope="module")
def light(report: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a command of ``LIGHT``, by its number: code, out, err, modules."""
    place = tmp_path_factory.mktemp("light")
    given = [(str(place / str(i)), [str(report) if a == "REPORT" else a for a in some]) for i, some in enumerate(LIGHT)]
    command = [sys.executable, "-c", FORKS, json.dumps(given)]
    subprocess.run(command, cwd=place, env={**os.environ, "COLUMNS": "80"}, timeout=120, check=True)
    return place


@pytest.mark.parametrize("number", range(len(LIGHT)), ids=[" ".join(arguments) for arguments in LIGHT])
def test_what_only_reads_a_report_imports_nothing_that_computes(number: int, light: Path) -> None:
    code, out, err, modules = ((light / str(number) / n).read_text() for n in ("code", "out", "err", "modules"))
    assert code == "0", err
    assert out
    assert "collapsekit" in modules.split()
    assert not set(modules.split()) & HEAVY


def test_headers_and_refusals_are_shown_without_what_computes(tmp_path: Path) -> None:
    header = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    (tmp_path / "page.pt").write_text("<!doctype html><html>not found</html>")
    for arguments, code in ((("--no-values", "w.safetensors"), 0), (("page.pt",), 3)):
        done, imported = _run(tmp_path, "inspect", *arguments)
        assert done.returncode == code, done.stderr
        assert not imported & HEAVY


def test_importing_the_package_imports_nothing_else() -> None:
    program = "import sys, collapsekit; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert not set(done.stdout.split()) & LIBRARIES


def test_a_command_imports_no_other(report: Path, tmp_path: Path) -> None:
    program = "import sys; from collapsekit.cli.root import make_app; make_app(['schema']); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    ours = {m for m in done.stdout.split() if m.startswith("collapsekit.cli.")}
    assert ours == {
        f"collapsekit.cli.{m}"
        for m in ("child", "commands", "commands.schema", "log", "output", "overview", "root", "terminal")
    }


def test_help_waits_for_no_more_of_the_package_than_prints_it() -> None:
    program = "import sys, atexit; atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr)); "
    program += "sys.argv = ['collapsekit', '--help']; from collapsekit.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    ours = {m for m in done.stderr.split() if m.startswith("collapsekit.")}
    assert ours == {
        "collapsekit.deprecated",
        "collapsekit.user_code",
        "collapsekit.user_code.interrupts",
        "collapsekit.version",
        *(f"collapsekit.cli{m}" for m in ("", ".child", ".output", ".overview")),
    }


def test_the_overview_says_what_the_commands_say() -> None:
    root = get_command(app)
    commands = root.commands  # type: ignore[attr-defined]
    assert set(commands) == set(COMMANDS)
    for name, command in commands.items():
        assert command.help.strip() == COMMANDS[name], name
    shown = overview(100)
    for parameter in root.params:
        assert all(option in shown for option in parameter.opts)
        assert parameter.help is not None
        assert " ".join(parameter.help.split()) in " ".join(shown.split())


@pytest.mark.parametrize("width", [1, 60, 72, 80, 100, 300])
def test_the_overview_fits(width: int) -> None:
    assert max(map(len, overview(width).splitlines())) <= max(60, min(width, 100))
    assert " ".join(overview(width).split()) == " ".join(overview(80).split())


def test_help_is_the_same_however_it_is_asked_for(tmp_path: Path) -> None:
    printed, _ = _run(tmp_path, "--help")
    bare, _ = _run(tmp_path)
    assert bare.returncode in (0, 2)  # as typer has it
    assert (bare.stdout + bare.stderr).strip() == printed.stdout.strip()


def test_completion_is_not_taken_for_help(tmp_path: Path) -> None:
    words = {"_COLLAPSEKIT_COMPLETE": "complete_bash", "COMP_WORDS": "collapsekit inspe", "COMP_CWORD": "1"}
    program = "import sys; sys.argv = ['collapsekit']; from collapsekit.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, **words},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["inspect"]


def test_other_names_of_the_package_are_refused() -> None:
    import collapsekit.cli

    with pytest.raises(AttributeError, match="no attribute 'appp'"):
        collapsekit.cli.appp  # noqa: B018
