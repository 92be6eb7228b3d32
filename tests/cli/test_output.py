"""Whatever becomes of stdout: the exit code is the one a file would have got, or a worse one; and there is no traceback."""

from __future__ import annotations

import ast
import errno
import html
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch

from collapsekit import cli
from collapsekit.cli.commands.gate import KINDS
from collapsekit.cli.output import INTERNAL, INTERRUPTED, PLAIN, Held, form_of, write
from collapsekit.cli.overview import COMMANDS
from tests.gating.making import make_records, make_report
from tests.gating.test_baseline import write as write_run

NAMES = ("bild→β≥½", "音声✓")  # of which cp1252 has one sign, latin-1 another, and ASCII none
ENCODINGS = ("utf-8", "cp1252", "latin-1", "ascii")
FORMATS = ("terminal", "md", "html", "json")


def commands() -> dict[str, list[str]]:
    """Every command with every format that goes to stdout, by a name."""
    ruled = {"pass": "modalities.*.score <= 2", "fail": "verdict == healthy", "undecided": "results[none] < 1"}
    found = {
        **{f"gate {f} {how}": ["gate", "deaf", "-f", f, "-r", rule] for f in KINDS for how, rule in ruled.items()},
        **{f"report {f}": ["report", "deaf", "-f", f] for f in FORMATS},
        **{f"report repair {f}": ["report", "repair.json", "-f", f] for f in FORMATS},
        **{f"compare {f}": ["compare", "ö=deaf", "→=deaf", "-f", f] for f in FORMATS},
        **{f"diagnose {how}": ["diagnose", "-o", "out", *how.split()] for how in ("", "--json", "--fail-on collapsed")},
        **{f"diagnose {how}": ["diagnose", *how.split()] for how in ("--dry-run", "--dry-run --json")},
        **{f"repair {how}": ["repair", *how.split()] for how in ("", "--json", "--dry-run")},
        **{f"schema {k}": ["schema", k] for k in ("report", "repair", "gate", "baseline", "compare")},
        **{f"list {k}": ["list", k, "-v"] for k in ("all", "probes", "repairs", "adapters", "tasks", "formats")},
        **{f"{name} --help": [name, "--help"] for name in COMMANDS},
        **{f"inspect {how}": ["inspect", "ckpt→.pt", *how.split()] for how in ("", "--json")},
        "gate ckpt": ["gate", "ckpt→.pt", "-o", "out"],
        "baseline create": ["baseline", "create", "deaf", "-o", "made.json", "--force"],
        "baseline update": ["baseline", "update", "baseline.json", "deaf", "--dry-run"],
        "baseline show": ["baseline", "show", "baseline.json"],
        "demo": ["demo", "demo→", "--force"],
        "init": ["init", "ckpt→.pt", "-o", "made.yaml", "--force"],
        "doctor": ["doctor"],
        "refused": ["inspect", "page→.pt"],
        "no such file": ["report", "→.json"],
        "usage": ["gate", "--nonsense→"],
        "no such command": ["nonsense→"],
        "help": ["--help"],
        "version": ["--version"],
        "nothing": [],
    }
    assert {a[0] for a in found.values() if a} >= set(COMMANDS)
    return found


ALL = commands()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with a report, a repair's, a baseline and a checkpoint. What would train is stood in for: only
    what is printed of it matters."""
    place = tmp_path_factory.mktemp("work→")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "render"))
        from sample_cost import SAMPLE
        from sample_repairs import make_repair
    uses = {NAMES[0]: 0.9, NAMES[1]: 0.05}
    report = make_report(uses, records=make_records(uses, 0.9), training_seed=3)
    write_run(place / "deaf", report)
    repair = make_repair(NAMES, accepted=False)
    (place / "repair.json").write_text(repair.to_json(), encoding="utf-8")
    torch.save({"a→.weight": torch.zeros(3, 2)}, place / "ckpt→.pt")
    (place / "page→.pt").write_text("<!doctype html><html>not found</html>")
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("COLUMNS", "80")
        patch.setattr("collapsekit.diagnosis.diagnose", lambda *_, **__: report)
        patch.setattr("collapsekit.diagnosis.estimate_cost", lambda *_, **__: SAMPLE(NAMES))
        patch.setattr("collapsekit.repairs.run.repair", lambda *_, **__: repair)
        patch.setattr("collapsekit.repairs.run.plan", lambda *_, **__: ["It trains → much."])
        patch.setattr("collapsekit.demo.make.make_demo", lambda *_, **__: place / "ckpt→.pt")
        patch.setattr("collapsekit.cli.commands.repair._files", lambda *_: None)
        assert run(["baseline", "create", "deaf", "-o", "baseline.json"], Screen())[0] == 0
        yield place
    assert Path.cwd() == before


class Screen(io.RawIOBase):
    """Where stdout goes: it takes so many bytes, a few at a time, then fails."""

    def __init__(self, most: int | None = None, error: int = 0) -> None:
        self.most, self.error, self.taken = most, error, b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.most is not None and len(self.taken) >= self.most:
            raise OSError(self.error, os.strerror(self.error))
        piece = bytes(data)[: 1000 if self.most is None else self.most - len(self.taken)]
        self.taken += piece
        return len(piece)


@dataclass(frozen=True)
class Dead:
    """A stream that ends before the text does, and the code in the place of 0."""

    make: Callable[[], Screen | None]
    code: int


DEAD = {
    "| true": Dead(lambda: Screen(0, errno.EPIPE), 0),
    "| head -c 100": Dead(lambda: Screen(100, errno.EPIPE), 0),
    ">&-": Dead(lambda: None, INTERNAL),
    ">/dev/full": Dead(lambda: Screen(0, errno.ENOSPC), INTERNAL),
}


def run(arguments: list[str], screen: Screen | None, encoding: str = "utf-8") -> tuple[int, bytes, str]:
    """Exit code, bytes on stdout, text on stderr; the latter has the encoding too."""
    said = Screen()
    with pytest.MonkeyPatch.context() as patch:
        out = None if screen is None else io.TextIOWrapper(io.BufferedWriter(screen), encoding=encoding)
        err = io.TextIOWrapper(io.BufferedWriter(said), encoding=encoding)
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        code = cli.run(arguments)
        assert (sys.stdout, sys.stderr) == (out, err)
    return code, b"" if screen is None else screen.taken, said.taken.decode(encoding)


_WHOLE: dict[str, tuple[int, bytes, str]] = {}


def whole(name: str) -> tuple[int, bytes, str]:
    """What the command gives on a stream that takes everything, in UTF-8."""
    if name not in _WHOLE:
        _WHOLE[name] = run(ALL[name], Screen())
    return _WHOLE[name]


def check(name: str, dead: str | None, encoding: str) -> None:
    expected, text, _ = whole(name)
    screen = Screen() if dead is None else DEAD[dead].make()
    code, got, said = run(ALL[name], screen, encoding)
    assert "Traceback" not in said
    assert "internal error" not in said
    worse = INTERNAL if dead is not None and expected == 0 and text and DEAD[dead].code else expected
    assert code == worse, said
    if worse != expected:
        assert said.count("error: stdout did not take") == 1
    if dead is None:
        same(ALL[name], text.decode(), got, encoding)


def same(arguments: list[str], text: str, got: bytes, encoding: str) -> None:
    """Whether the bytes say what the text in UTF-8 says; formats for machines are valid, and equal, as UTF-8."""
    kind = "json" if "--json" in arguments or (arguments[:1] == ["schema"] and "--help" not in arguments) else "text"
    if "-f" in arguments:
        kind = form_of(arguments[arguments.index("-f") + 1])
    if kind == "json":
        assert json.loads(got) == json.loads(text)
    elif "junit" in arguments:
        assert ET.canonicalize(got.decode()) == ET.canonicalize(text)
    elif kind == "markup":
        assert html.unescape(got.decode()) == html.unescape(text)
    elif encoding == "utf-8":
        assert got.decode() == text
    else:
        plain = got.decode(encoding)
        for sign in set(text) - set(plain):
            with pytest.raises(UnicodeEncodeError):
                sign.encode(encoding)
        assert "?" not in plain or "?" in text


def turned(name: str) -> int:
    """A number by which each command gets another part of the table in the default run."""
    return list(ALL).index(name)


def drawn() -> Iterator[tuple[str, str | None, str]]:
    """Each command in one encoding other than UTF-8, and on one dead stream."""
    for name in ALL:
        if name.endswith("--help") and name not in ("gate --help", "baseline --help"):
            continue  # all are made by the same library
        yield name, None, ENCODINGS[1 + turned(name) % 3]
        yield name, list(DEAD)[turned(name) % 4], ENCODINGS[turned(name) % 4]


@pytest.mark.usefixtures("folder")
def test_the_code_is_that_of_a_file() -> None:
    for name, dead, encoding in drawn():
        check(name, dead, encoding)
    codes = {name: code for name, (code, _, _) in _WHOLE.items()}
    assert codes["gate text pass"] == codes["diagnose "] == codes["doctor"] == 0
    assert codes["gate sarif fail"] == codes["repair --json"] == codes["diagnose --fail-on collapsed"] == 1
    assert codes["gate json undecided"] == 5
    assert codes["refused"] == 3
    assert codes["usage"] == codes["no such file"] == 2


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("dead", [None, *DEAD])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_code_is_that_of_a_file_in_the_whole_table(dead: str | None, encoding: str) -> None:
    for name in ALL:
        check(name, dead, encoding)


SHELL = {"| true": "| true", "| head -c 100": "| head -c 100 >/dev/null", ">&-": ">&-", ">/dev/full": ">/dev/full"}
NO_TORCH = [n for n in ALL if n.split()[0] in ("gate", "report", "compare", "schema", "baseline") and n != "gate ckpt"]
QUICK = {
    "gate text fail": list(DEAD),
    "gate json pass": [">/dev/full", "| true"],
    "report html": ["| head -c 100"],
    "compare md": [">/dev/full"],
    "schema report": [">&-"],
    "baseline show": ["| true"],
    "gate --help": [">&-"],
    "help": [">/dev/full"],
    "usage": ["| true"],
}


def in_shell(name: str, dead: str) -> None:
    """The same by a process of its own, as typed."""
    expected, text, _ = whole(name)
    command = " ".join(["set -o pipefail;", '"$@"', SHELL[dead]])
    done = subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "-m", "collapsekit", *ALL[name]],
        capture_output=True,
        env={**os.environ, "PYTHONUTF8": "1"},
        timeout=120,
        check=False,
    )
    said = done.stderr.decode()
    worse = INTERNAL if expected == 0 and text and DEAD[dead].code else expected
    assert done.returncode == worse, said
    assert "Traceback" not in said
    assert "Exception ignored" not in said


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("name", "dead"), [(n, d) for n, some in QUICK.items() for d in some])
def test_a_process_ends_likewise(name: str, dead: str) -> None:
    in_shell(name, dead)


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", NO_TORCH)
def test_all_processes_end_likewise(name: str) -> None:
    for dead in DEAD:
        in_shell(name, dead)


def test_signs_have_plain_ones() -> None:
    assert all(plain.isascii() and not sign.isascii() for sign, plain in PLAIN.items())
    assert "✓ ✗ → β ½".encode("ascii", "collapsekit") == rb"+ x -> beta \xbd"
    assert "\ud800".encode("utf-8", "collapsekit") == rb"\ud800"


def test_a_stream_that_would_block_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    text = "x" * 300_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", os.fdopen(writing, "w"))
        reader = subprocess.Popen(
            [sys.executable, "-c", "import sys; print(len(sys.stdin.read()))"], stdin=reading, stdout=subprocess.PIPE
        )
        os.close(reading)
        held = Held()
        write(text)
        assert held.code(0, False) == 0
        held.release()
        sys.stdout.close()
    assert reader.communicate(timeout=60)[0] == b"300000\n"


def test_a_closed_stream_never_improves_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    for code in (0, 1, 2, 3, 4, 5, 130):
        for dead in DEAD.values():
            with pytest.MonkeyPatch.context() as patch:
                screen = dead.make()
                patch.setattr(sys, "stdout", None if screen is None else io.TextIOWrapper(io.BufferedWriter(screen)))
                held = Held()
                write("text")
                assert held.code(code, interrupted=False) == (code or dead.code)
                assert held.code(code, interrupted=True) == INTERRUPTED
                held.release()


def test_only_output_py_writes_to_a_stream() -> None:
    """No command writes to a stream itself."""
    for file in Path(cli.__file__).parent.rglob("*.py"):
        if file.name == "output.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("print", "typer.echo", "typer.secho"), f"{file.name}: {called}"
                assert not called.startswith(("sys.stdout", "sys.stderr")) or called.endswith((".isatty", ".flush")), (
                    called
                )
