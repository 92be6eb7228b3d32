"""Arguments, files and variables under which a gate on a report of a collapsed model could pass, and does not."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from collapsekit import cli
from collapsekit.report.base import sealed
from collapsekit.report.per_example import NAME
from tests.sound_files import KINDS, first, records, sound

ALWAYS = "subject.examples > 0"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a report of a collapsed model lies, with its records, and a baseline and a repair."""
    place = tmp_path / "work"
    place.mkdir()
    for name in ("report", "repair", "baseline", "gate", "comparison"):
        (place / f"{name}.json").write_text(sound(name))
    (place / NAME).write_bytes(records())
    monkeypatch.chdir(place)
    return place


# What is typed behind `collapsekit gate`, and the exit code.
TYPED = {
    "report.json": 1,
    "./report.json": 1,
    ".": 1,
    "''": 2,
    "' '": 2,
    "*.json": 2,
    "report.json report.json": 2,
    "nothing.json": 2,
    "report.jso": 2,
    "-": 2,
    "/dev/null": 2,
    "gate.json": 3,
    "comparison.json": 3,
    "baseline.json": 3,
    "repair.json": 2,
    "repair.json -r 'subject.examples > 0'": 2,
    "report.json -r ''": 2,
    "report.json -r ' '": 2,
    "report.json -r ()": 2,
    "report.json -r 'not'": 2,
    "report.json -r true": 2,
    "report.json -r '1 == 1'": 2,
    "report.json -r 'healthy == healthy'": 2,
    "report.json -r 'verdict == verdict'": 2,
    "report.json -r 'modalities.*.score == modalities.*.score'": 2,
    "report.json -r 'modalities.b.score <= modalities.\"b\".score'": 2,
    "report.json -r 'results[vif.max] == results[vif.max].value'": 2,
    "report.json -r 'not verdict != verdict'": 2,
    "report.json -r 'verdict'": 2,
    "report.json -r 'verdict = healthy'": 2,
    "report.json -r 'verdict ! = collapsed'": 2,
    "report.json -r 'verdict != Collapsed'": 2,
    "report.json -r 'verdict != collapsed;'": 2,
    "report.json -r 'verdict != collapsed #'": 2,
    "report.json -r 'verdict != \"collapsed \"'": 2,
    "report.json -r 'verdict != c\u043ellapsed'": 2,
    "report.json -r 'verdict \u2260 collapsed'": 2,
    "report.json -r 'verdict < healthy'": 2,
    "report.json -r 'modalities.b.score <= nan'": 2,
    "report.json -r 'modalities.b.score <= inf'": 2,
    "report.json -r 'modalities.b.score <= 1e999'": 2,
    "report.json -r 'modalities.b.score <= 0.5 <= 1'": 2,
    "report.json -r 'modalities.b.score'": 2,
    "report.json -r 'modality.b.score < 2'": 2,
    "report.json -r 'not modalities.*.score > 2'": 2,
    "report.json -r 'results[*] < 1'": 2,
    "report.json -r 'results[no.such] < 1'": 5,
    "report.json -r 'not results[no.such] < 1'": 5,
    "report.json -r 'results[no.such] < 1 or subject.examples > 0'": 5,
    "report.json -r 'results[no.such] < 1 or results[no.such] >= 1'": 5,
    "report.json -r 'modalities.c.score < 2'": 5,
    "report.json -r 'modalities.\u0432.score < 2'": 5,
    "report.json -r 'modalities.\"b \".score < 2'": 5,
    "report.json -r 'results[utilisation.joint_gain] < 100'": 5,
    "report.json -r 'results[reliance.subsets] < 100'": 5,
    "report.json -r 'modalities.a.costs_if_missing.a < 100'": 5,
    "report.json -r 'modalities.*.score <= \uff10.5'": 1,
    "report.json -r 'modalities.*.verdict != collapsed'": 1,
    "report.json -r 'subject.examples > 0' -r 'verdict != collapsed'": 1,
    "report.json -r 'subject.examples > 0' -r 'subject.examples > 0' -r 'verdict == healthy'": 1,
    "report.json -b ''": 2,
    "report.json -b .": 2,
    "report.json -b report.json": 3,
    "report.json -b gate.json": 3,
    "report.json -b nothing.json": 2,
    "report.json -b /dev/null": 2,
    "report.json -b baseline.json -r 'verdict != collapsed'": 1,
    "report.json -b baseline.json --situation retrained": 5,
    "report.json --situation paired": 2,
    "report.json -b baseline.json --alpha 0": 2,
    "report.json -b baseline.json --alpha nan": 2,
    "report.json -b baseline.json --alpha 1": 2,
    "report.json -b baseline.json --margin metric=nan": 2,
    "report.json -b baseline.json --margin metric=inf": 2,
    "report.json -b baseline.json --margin =1": 2,
    "report.json -b baseline.json --watch ''": 2,
    "report.json -b baseline.json --watch nothing": 2,
    "report.json -b baseline.json --effect use=0": 2,
    "report.json -c ''": 2,
    "report.json -c nothing.yaml": 2,
    "report.json -c report.json": 2,
    "report.json -f json=report.json": 2,
    "report.json -f json=./report.json": 2,
    "report.json -b baseline.json -f text=baseline.json": 2,
    "report.json -f text=x -f json=./x": 2,
    "report.json -f json -f text": 2,
    "report.json -f ''": 2,
    "report.json -f json=": 2,
    "report.json -f text=/dev/null/x": 2,
    "report.json -f JSON": 2,
    "report.json --profile quick": 2,
    "report.json --plugin nothing.py": 2,
    "report.json --trust-pickle ''": 2,
    "-- report.json": 1,
    "--nothing report.json": 2,
}


@pytest.mark.parametrize("line", TYPED)
def test_no_command_line_makes_a_gate_pass_or_writes_a_file(
    line: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    code = cli.run(["gate", *shlex.split(line)])
    said = capsys.readouterr()
    assert code == TYPED[line], said
    assert "Traceback" not in said.err
    assert "internal error" not in said.err
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before


def text_of(change: Callable[[str], str]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / "report.json").write_text(change(sound("report")))

    return make


def changed(change: Callable[[dict[str, object]], object], version: int = 2) -> Callable[[Path], object]:
    """The report with that done to it, and its digest made again where it has one."""

    def make(folder: Path) -> None:
        raw = json.loads(sound("report") if version == 2 else first("report"))
        change(raw)
        (folder / "report.json").write_text(json.dumps(sealed(KINDS["report"], raw) if version == 2 else raw))

    return make


def linked(name: str, target: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return make


def of_kind(name: str, make_it: Callable[[Path], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / name).unlink()
        make_it(folder / name)

    return make


# What lies in the folder, and the exit code of `collapsekit gate . -r ALWAYS`, which any report meets.
LYING = {
    "records that are a link to nothing": (linked(NAME, "nothing"), 3),
    "records that are a folder": (of_kind(NAME, Path.mkdir), 3),
    "records that are a pipe": (of_kind(NAME, os.mkfifo), 3),
    "records that are empty": (of_kind(NAME, Path.touch), 3),
    "records cut short": (lambda f: (f / NAME).write_bytes(records()[:-4]), 3),
    "records with a byte turned": (lambda f: (f / NAME).write_bytes(records()[:-1] + b"\x7f"), 3),
    "a report that is a link to nothing": (linked("report.json", "nothing"), 3),
    "a report that is a link to itself": (linked("report.json", "report.json"), 3),
    "a report that is a pipe": (of_kind("report.json", os.mkfifo), 3),
    "a report that is a folder": (of_kind("report.json", Path.mkdir), 3),
    "a report that is a device": (linked("report.json", "/dev/zero"), 3),
    "a report cut short": (text_of(lambda t: t[:3000]), 3),
    "an empty report": (text_of(lambda _: ""), 3),
    "two reports in one": (text_of(lambda t: t + t), 3),
    "a report and more": (text_of(lambda t: t + "{}"), 3),
    "a report in a list": (text_of(lambda t: f"[{t}]"), 3),
    "a report with a comment": (text_of(lambda t: f"// ok\n{t}"), 3),
    "NaN": (text_of(lambda t: t.replace("150", "NaN", 1)), 3),
    "a number past all bounds": (text_of(lambda t: t.replace("150", "1e999", 1)), 3),
    "a number of very many digits": (text_of(lambda t: t.replace("150", "1" * 5000, 1)), 3),
    "a verdict twice": (text_of(lambda t: t.replace('"verdict"', '"verdict": "healthy", "verdict"', 1)), 3),
    "a verdict twice, once by escapes": (
        text_of(lambda t: t.replace('"verdict"', '"verdic\\u0074": "healthy", "verdict"', 1)),
        3,
    ),
    "a report of UTF-16": (lambda f: (f / "report.json").write_bytes(sound("report").encode("utf-16")), 3),
    "levels without end": (text_of(lambda t: t.replace('"settings": {', '"settings": {"x": ' + "[" * 9999, 1)), 3),
    "weights beside the report": (lambda f: (f / "model.safetensors").write_bytes(records()), 2),
    "an older kind of weights beside the report": (lambda f: (f / "pytorch_model.bin").touch(), 2),
    "version 1 with a verdict flipped": (changed(lambda r: r.update(verdict="healthy"), 1), 3),
    "version 1 without modalities": (changed(lambda r: r.update(modalities={}), 1), 3),
    "version 1 that says it is 2": (changed(lambda r: r.update(schema_version=2), 1), 3),
    "version 2 that says it is 1": (text_of(lambda t: t.replace('"schema_version": 2', '"schema_version": 1', 1)), 3),
    "a digest of another's": (text_of(lambda t: t.replace('"sha256": "', '"sha256": "0', 1).replace('0"', '"', 1)), 3),
    "an index of weights": (changed(lambda r: r.update(weight_map={})), 2),
    "a report of a kind": (changed(lambda r: r.update(kind="repair")), 3),
}


@pytest.mark.parametrize("name", LYING)
def test_no_file_in_the_folder_makes_a_gate_pass(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, expected = LYING[name]
    make(folder)
    code = cli.run(["gate", ".", "-r", ALWAYS])
    said = capsys.readouterr()
    assert code == expected, said
    assert "Traceback" not in said.err


# Rules and limits of the config in the folder: none is a way round.
CONFIGS = {
    "gate: {require: []}": 5,
    "gate: {require: ['']}": 2,
    "gate: {require: verdict}": 2,
    "gate: {require: 'subject.examples > 0'}": 2,
    "gate: {require: {}}": 2,
    "gate: {require: null}": 1,
    "gate: {require: [null]}": 2,
    "gate: {require: [true]}": 2,
    "gate: null": 2,
    "gate: {}": 1,
    "gate: []": 2,
    "gate: {requires: ['subject.examples > 0']}": 2,
    "Gate: {require: ['subject.examples > 0']}": 2,
    "gate: {baseline: ''}": 2,
    "gate: {baseline: nothing.json}": 2,
    "gate: {baseline: [baseline.json]}": 2,
    "gate: {baseline: baseline.json, alpha: .nan}": 2,
    "gate: {baseline: baseline.json, alpha: true}": 2,
    "gate: {baseline: baseline.json, watch: [nothing]}": 2,
    "gate: {baseline: baseline.json, margins: {use: .inf}}": 2,
    "gate: {require: ['verdict != collapsed']}\ngate: {require: ['subject.examples > 0']}": 2,
    "gate: &a {require: ['subject.examples > 0']}\n<<: *a": 2,
    "\ufeffgate: {require: ['verdict != collapsed']}\r\n": 1,
    "--- {gate: {}}\n--- {gate: {require: ['subject.examples > 0']}}": 2,
    "!!python/object/apply:os._exit [0]": 2,
}


@pytest.mark.parametrize("text", CONFIGS)
def test_no_rule_or_limit_of_a_config_makes_a_gate_pass(
    text: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "collapsekit.yaml").write_text(text, encoding="utf-8", newline="")
    code = cli.run(["gate", "report.json"])
    said = capsys.readouterr()
    assert code == CONFIGS[text], said
    assert "Traceback" not in said.err


COMPLETION = "_COLLAPSEKIT_COMPLETE"
VARIABLES = [
    {COMPLETION: "source_bash"},
    {COMPLETION: "complete_bash", "COMP_WORDS": "collapsekit gate", "COMP_CWORD": "1"},
    {COMPLETION: "show_zsh"},
    {"_PYTHON__M_COLLAPSEKIT_COMPLETE": "source_bash"},
    {"_PYTHON _M COLLAPSEKIT_COMPLETE": "source_bash"},
    {"PYTHONINSPECT": "1"},
    {"PYTHONUNBUFFERED": "1"},
    {"PYTHONOPTIMIZE": "2"},
    {"PYTHONWARNINGS": "error"},
    {"PYTHONIOENCODING": "utf-16"},
    {"PYTHONIOENCODING": "ascii:strict"},
    {"PYTHONIOENCODING": "cp037"},
    {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
    {"HOME": "", "TMPDIR": "/nowhere"},
    {"HOME": "/nowhere", "XDG_CACHE_HOME": "/nowhere"},
    {"COLUMNS": "-3", "LINES": "x", "TERM": ""},
    {"COLUMNS": "0", "FORCE_COLOR": "1"},
    {"WORLD_SIZE": "2", "RANK": "1"},
    {"WORLD_SIZE": "x", "RANK": "-1"},
    {"COLLAPSEKIT_CACHE": "/dev/null"},
    {"GITHUB_STEP_SUMMARY": "/dev/full"},
    {"PYTHONPROFILEIMPORTTIME": "1"},
    {"PYTHONDEVMODE": "1"},
    {"PYTHONFAULTHANDLER": "1", "PYTHONMALLOC": "debug"},
    {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"},
    {"TYPER_STANDARD_TRACEBACK": "1", "_TYPER_STANDARD_TRACEBACK": "1"},
]


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["text", "github"])
@pytest.mark.parametrize("variables", VARIABLES, ids=lambda v: ",".join(f"{k}={x}" for k, x in v.items()))
def test_variables_pass_nothing(variables: dict[str, str], format_: str, folder: Path) -> None:
    done = started(folder, variables, "gate", "report.json", "-f", format_)
    assert done.returncode in (1, 2, 3, 4), done.stderr


@pytest.mark.parametrize("variables", VARIABLES[:2], ids=["source", "complete"])
def test_a_variable_of_a_shell_that_completes_passes_nothing(variables: dict[str, str], folder: Path) -> None:
    done = started(folder, variables, "gate", "report.json")
    assert done.returncode == 1, done.stderr


def started(folder: Path, variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "collapsekit", *arguments],
        cwd=folder,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(os.name == "nt", reason="has no such terminals")
def test_python_that_goes_on_asking_passes_nothing(folder: Path) -> None:
    """With PYTHONINSPECT on a terminal, Python prints what ended it, asks for more, and ends with 0."""
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "collapsekit", "gate", "report.json"],
        cwd=folder,
        env={**os.environ, "PYTHONINSPECT": "1"},
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as running:
        os.close(theirs)
        os.write(ours, b"\x04\x04")  # the end of what is typed
        assert running.wait(timeout=60) == 1
        assert running.stderr is not None
        assert b"Traceback" not in running.stderr.read()
    os.close(ours)


def test_a_value_compared_with_itself_is_told_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["gate", "report.json", "-r", "verdict == verdict"]) == 2
    assert "compares a value with itself" in capsys.readouterr().err
