"""Every command that writes: a disk that is full or read-only costs one sentence, and no file that was there."""

from __future__ import annotations

import ast
import errno
import functools
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from collapsekit.cli import app
from collapsekit.readouts.cache import load_baseline, store_baseline
from collapsekit.report.diagnosis import Curve, Report
from collapsekit.report.diagnosis import Result as Number
from tests.factories import make_plain_report
from tests.io.test_files import BEFORE, inject

PACKAGE = Path(__file__).parents[2] / "collapsekit"


def small_report() -> Report:
    make = {"probe": "vif", "definition": "d", "source": "s"}
    vif = Curve(x=(0.0, 1.0, 2.0), y=(1.0, 4.0, 2.0), x_label="neuron", y_label="VIF")
    results = (Number(name="vif.per_feature", curve=vif, **make), Number(name="vif.mean", value=2.0, **make))
    return make_plain_report(results, ("image", "audio"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a report and a checkpoint; ``diagnose`` and ``demo`` have nothing to compute."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.json").write_text(small_report().to_json())
    torch.save({"encoders.image.weight": torch.zeros(4, 3), "head.weight": torch.zeros(2, 4)}, tmp_path / "ckpt.pt")
    from collapsekit.demo.model import build

    monkeypatch.setattr("collapsekit.diagnosis.diagnose", lambda *_, **__: small_report())
    monkeypatch.setattr("collapsekit.demo.make.train_demo", lambda *_: build())
    return tmp_path


COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "report -o": (("report", "r.json", "-f", "html", "-o", "out/x.html"), "out/x.html"),
    "report --figures": (("report", "r.json", "--figures", "out"), "out/vif.svg"),
    "diagnose": (("diagnose", "-q", "-o", "out"), "out/report.json"),
    "diagnose --figures": (("diagnose", "-q", "--json", "--figures", "out"), "out/vif.svg"),
    "init": (("init", "ckpt.pt", "-o", "out/c.yaml", "--force"), "out/c.yaml"),
    "demo": (("demo", "out", "-q", "--force"), "out/data.safetensors"),
}


def content(folder: Path) -> dict[str, str]:
    """Digest of each file; the report with its figures is too long to compare by eye."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def run(name: str) -> Result:
    return CliRunner().invoke(app, list(COMMANDS[name][0]), prog_name="collapsekit")


def refused(done: Result, path: str, why: str) -> None:
    """One sentence that names the file, or, where it was tried before the work, the option's file or folder."""
    assert done.exit_code == 2, done.output
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    found = re.fullmatch(
        r"error: (--\w+ |the folder )?(\S+) cannot be written: (.*); choose another place for it\.", lines[0]
    )
    assert found is not None, lines[0]
    assert found[3] == why
    assert found[2] == path or (found[1] and found[2] == str(Path(path).parent))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_works_leaves_only_its_files(name: str, folder: Path) -> None:
    assert run(name).exit_code == 0
    there = content(folder / "out")
    assert Path(COMMANDS[name][1]).name in there
    assert not [p for p in there if Path(p).name.startswith(".")]


def test_figures_and_a_rendering_at_once(folder: Path) -> None:
    both = CliRunner().invoke(app, ["report", "r.json", "--figures", "out", "-f", "md"])
    assert both.exit_code == 0
    assert both.stdout == CliRunner().invoke(app, ["report", "r.json", "-f", "md"]).stdout
    assert sorted(content(folder / "out")) == ["vif.pdf", "vif.png", "vif.svg"]
    (folder / "r.json").write_text(small_report().model_copy(update={"results": ()}).to_json())
    none = CliRunner().invoke(app, ["report", "r.json", "--figures", "none"])
    assert (none.exit_code, none.stdout) == (0, "")
    assert "nothing that a figure shows" in none.stderr
    assert not (folder / "none").exists()


@pytest.mark.parametrize("step", ["open", "write", "sync", "replace"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_fails_costs_a_sentence(
    name: str, step: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = folder / COMMANDS[name][1]
    first.parent.mkdir(parents=True)
    first.write_text("old")
    before = content(folder)
    for number in (errno.ENOSPC, errno.EROFS, errno.EIO):
        with monkeypatch.context() as patch:
            inject(step, number, patch)
            done = run(name)
        refused(done, COMMANDS[name][1], os.strerror(number))
        assert content(folder) == before


@pytest.mark.parametrize("target", ["x" * 256, "r.json/below", "pipe"])
def test_a_place_that_cannot_be_is_a_sentence(target: str, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    before = content(folder)
    for args in (["report", "r.json", "-f", "md", "-o", target], ["report", "r.json", "--figures", target]):
        done = CliRunner().invoke(app, args, prog_name="collapsekit")
        assert done.exit_code == 2, done.output
        assert "cannot be written" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert content(folder) == before


@pytest.mark.parametrize("args", [["init", "ckpt.pt", "-o"], ["demo"], ["report"]])
def test_a_name_too_long_to_look_up_is_a_sentence(args: list[str], folder: Path) -> None:
    done = CliRunner().invoke(app, [*args, "x" * 300], prog_name="collapsekit")
    assert done.exit_code == 2, done.output
    assert "internal error" not in done.stderr


# -- a real disk -------------------------------------------------------------------------------------------------------

SCRIPT = """
mount -t tmpfs -o size={size} tmpfs {disk} || exit 99
mkdir {disk}/out && echo old > {disk}/out/x.html && echo old > {disk}/out/vif.svg
{before}
{command}
echo "exit $?"
cat {disk}/out/x.html {disk}/out/vif.svg
ls -A {disk}/out
"""


def on_a_disk(disk: Path, size: str, before: str, *args: str) -> list[str]:
    """Run a command with a tmpfs of ``size`` at ``disk``, in a mount namespace of its own that ends with it."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here: no disk was mounted")
    command = f"{sys.executable} -m collapsekit {' '.join(args)}"
    script = SCRIPT.format(size=size, disk=disk, before=before.format(disk=disk), command=command)
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode == 99 or "exit" not in done.stdout:
        pytest.skip(f"no disk could be mounted: {done.stderr.strip()}")
    assert "Traceback" not in done.stderr
    return [*done.stderr.strip().splitlines(), *done.stdout.split()]


@pytest.mark.parametrize(
    ("before", "why"),
    [("", "No space left on device"), ("mount -o remount,ro {disk}", "Read-only file system")],
    ids=["full", "read-only"],
)
def test_a_real_disk_that_is_full_or_read_only(before: str, why: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "r.json").write_text(small_report().to_json())
    report = str(tmp_path / "r.json")
    for args, path in (
        (("-f", "html", "-o", f"{disk}/out/x.html"), "x.html"),
        (("--figures", f"{disk}/out"), "vif.svg"),
    ):
        said, *rest = on_a_disk(disk, "16k", before, "report", report, *args)
        place = rf"({disk}/out/{path}|--output {disk}/out/x\.html|--figures {disk}/out)"
        assert re.match(rf"error: {place} cannot be written: {why};", said), said
        assert rest == ["exit", "2", "old", "old", "vif.svg", "x.html"]


# -- cached baselines --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", BEFORE)
def test_a_cache_that_cannot_be_written_is_no_error(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, about = {"a": torch.arange(4.0)}, {"rate": 1e-3, "epochs": 2, "loss": 0.5}
    store_baseline(tmp_path, "k", old, about)
    before = content(tmp_path)
    assert set(before) >= {"k.safetensors"}
    with monkeypatch.context() as patch:
        inject(step, errno.ENOSPC, patch)
        store_baseline(tmp_path, "k", {"a": torch.zeros(4)}, about)
    assert content(tmp_path) == before
    assert load_baseline(tmp_path, "k", old) is not None


@pytest.mark.parametrize("loss", [math.inf, math.nan, 0.25])
def test_a_cached_loss_is_json_that_anyone_reads(loss: float, tmp_path: Path) -> None:
    from safetensors import safe_open

    store_baseline(tmp_path, "k", {"a": torch.zeros(1)}, {"rate": 1e-3, "epochs": 2, "loss": loss})
    with safe_open(str(tmp_path / "k.safetensors"), framework="pt") as file:
        text = file.metadata()["about"]

    def reject(name: str) -> None:
        raise AssertionError(name)

    json.loads(text, parse_constant=reject)
    found = load_baseline(tmp_path, "k", {"a": torch.zeros(1)})
    assert found is not None
    assert found[1]["loss"] == (loss if math.isfinite(loss) else math.inf)


# -- all of them -------------------------------------------------------------------------------------------------------


@functools.cache
def calls_in(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def _writes(call: ast.Call) -> bool:
    """Whether a call opens or writes a file by its path."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("write_text", "write_bytes", "save_file", "savez", "savez_compressed", "tofile", "mkstemp"):
        return True
    if name == "open":
        modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        modes += [k.value.value for k in call.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)]
        return any(len(m) <= 3 and set(m) & set("wax+") for m in modes)
    return False


def test_files_are_written_in_one_place_only() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(_writes(call) for call in calls_in(path))
    }
    # writable.py tries whether a file can be made, and removes it again.
    assert found == {"io/files.py", "io/writable.py"}


def test_json_is_written_without_nan() -> None:
    """json.dumps of what goes to a file or to stdout; a digest, a command line, a table cell and a character are neither."""
    elsewhere = {
        "readouts/cache.py": 1,
        "session/command_line.py": 1,
        "render/views/_words.py": 1,
        "io/json.py": 1,
        "report/base.py": 1,
    }
    for path in PACKAGE.rglob("*.py"):
        calls = [c for c in calls_in(path) if isinstance(c.func, ast.Attribute) and c.func.attr == "dumps"]
        loose = [c for c in calls if not any(k.arg == "allow_nan" for k in c.keywords)]
        name = path.relative_to(PACKAGE).as_posix()
        assert len(loose) <= elsewhere.get(name, 0), f"{name}: json.dumps without allow_nan=False"
