"""Every hostile file is read or refused as it should be, in one sentence, and nothing happens beside that."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import subprocess
import sys
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from torch import nn
from typer.testing import CliRunner

from collapsekit.adapters.weights.load import load_weights
from collapsekit.checkpoint.read import Checkpoint, read_checkpoint
from collapsekit.cli import app
from collapsekit.errors import CollapsekitError, ConfigError, RefusedError
from tests.hostile.assemble import good_zip
from tests.hostile.catalogue import FILES, Hostile, canary, load_families
from tests.hostile.forks import FORKS, fork_readers
from tests.hostile.names import NAMES
from tests.hostile.watch import PATIENCE, SECONDS, Watch, largest_allowed, no_longer_than, watched

load_families()

# Read by a process that is started for it, as users have it; the others by a fork of one that was. All that is about
# what reading takes, what is no file, and the first of each other family.
STARTED = {
    name
    for family, names in groupby(FILES, lambda name: name.partition("-")[0])
    for name in (names if family in ("budgets", "mistaken") else list(names)[:1])
}
CASES = [pytest.param(file, id=name, marks=[pytest.mark.slow] if file.slow else []) for name, file in FILES.items()]


def made(file: Hostile, tmp_path: Path) -> tuple[Path, Path]:
    """The folder the file was made in, and the path to read."""
    folder = tmp_path / "files"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return folder, file.make(folder)


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One sound file read, so that what is imported on first use has been."""
    read_checkpoint(good_zip(tmp_path_factory.mktemp("warm") / "m.pt"))


@pytest.fixture(scope="module", autouse=True)
def _no_fork_is_left() -> Iterator[None]:
    yield
    FORKS.end()


def attempt(path: Path) -> tuple[Any, Watch]:
    """The checkpoint, or the error it was refused with, and what happened meanwhile."""
    with no_longer_than(PATIENCE), watched() as watch:
        try:
            got: Any = read_checkpoint(path)
        except CollapsekitError as e:
            got = e
    return got, watch


@pytest.mark.parametrize("file", CASES)
def test_outcome(file: Hostile, tmp_path: Path) -> None:
    folder, path = made(file, tmp_path)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    with nullcontext() if file.name in STARTED else fork_readers():
        got, watch = attempt(path)
    assert not canary(folder).exists(), "the file acted"
    assert_quiet(watch)
    assert watch.seconds <= SECONDS
    assert watch.grown <= largest_allowed()
    assert watch.children <= max(before, largest_allowed())
    if file.says is None:
        assert not isinstance(got, CollapsekitError), f"refused: {got}"
        assert_sentence(got.note)
        assert file.check is not None
        file.check(got)
        if path.is_file() and not file.make.__module__.endswith((".payloads", ".pickles")):
            assert_agrees(got)
    else:
        assert isinstance(got, CollapsekitError), f"read: {got.note}"
        assert type(got) is ConfigError if file.missing else isinstance(got, RefusedError)
        assert got.exit_code == (2 if file.missing else 3)
        assert_refusal(file, str(got), path, folder)


def assert_quiet(watch: Watch) -> None:
    """Nothing happened but the start of at most one process, which is the reader's own child.

    Besides, reading is allowed: files opened to be read (the parent hashes and maps what its child located), lists of
    directories, and /dev/null, which is the child's stdin.
    """
    assert [e for e in watch.events if e[0] != "subprocess.Popen"] == []
    assert len(watch.started) <= 1
    for command in watch.started:
        assert command[:2] == [sys.executable, "-I"]
        assert "collapsekit.checkpoint.formats.worker" in command[3]


def assert_agrees(got: Checkpoint) -> None:
    """Where the format's own reader takes the file, it finds the same numbers in it."""
    theirs = format_reader(got)
    for name, tensor in theirs.items() if got.key is None and isinstance(theirs, Mapping) else []:
        if name in got.tensors:
            other = torch.as_tensor(tensor)
            assert torch.equal(got.tensors[name], other), name
            assert got.tensors[name].dtype == other.dtype, name


def format_reader(got: Checkpoint) -> Any:
    """What torch, safetensors or NumPy makes of the file; nothing where it does not read it."""
    try:
        if got.format == "safetensors":
            return safetensors.torch.load_file(got.path)
        if got.format == "npz":
            with np.load(got.path, allow_pickle=False) as arrays:
                return {k: v.astype(v.dtype.newbyteorder("=")) for k, v in arrays.items() if v.dtype.kind in "fiubc"}
        return torch.load(got.path, weights_only=True) if got.format.startswith("torch ") else {}
    except Exception:  # noqa: BLE001 - readers may stumble over a hostile file in any way
        return {}


def hidden(text: str) -> list[str]:
    """What a terminal would act on or not show: control, bidirectional, surrogate and line-separating characters."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


def assert_sentence(text: str) -> None:
    assert hidden(text) == []
    assert text.endswith(".")
    assert len(text) <= 600
    assert "Traceback" not in text


def assert_refusal(file: Hostile, text: str, path: Path, folder: Path) -> None:
    """The sentence names the file and says what is wrong with it; paths are its own affair."""
    if len(path.name) < 200:
        assert text.startswith((str(path), f"checkpoint {path}", f"checkpoint {str(path)!r}")) or str(folder) in text
    rest = text.replace(str(path), "").replace(str(folder), "")
    assert_sentence(rest)
    assert file.says is not None
    assert re.search(file.says, rest), f"expected {file.says!r} in: {text}"


# --- the watch itself -----------------------------------------------------------------------------------------


def test_the_watch_hears_a_payload(tmp_path: Path) -> None:
    folder, path = made(FILES["payloads-os_system_protocol_2_zip"], tmp_path)
    with watched() as watch:
        torch.load(path, weights_only=False)  # touches the canary, and nothing else
    assert canary(folder).exists()
    assert {"pickle.find_class", "os.system"} <= {event for event, _ in watch.events}
    with pytest.raises(AssertionError):
        assert_quiet(watch)


@pytest.mark.parametrize(
    ("act", "event"),
    [
        (lambda p: (p / "x").write_text("x"), "open"),
        (lambda p: (p / "x").mkdir(), "os.mkdir"),
        (lambda p: eval("1 + 1"), "exec"),
        (lambda p: subprocess.run(["true"], check=True), "subprocess.Popen"),
        (lambda p: __import__("this_module_is_nowhere"), "import"),
    ],
    ids=["write", "mkdir", "eval", "process", "import"],
)
def test_the_watch_hears(act: Any, event: str, tmp_path: Path) -> None:
    with watched() as watch, contextlib.suppress(ImportError):
        act(tmp_path)
    assert event in {e for e, _ in watch.events}
    with pytest.raises(AssertionError):
        assert_quiet(watch)


def test_payloads_are_live(tmp_path: Path) -> None:
    """Loaded as most code loads checkpoints, each of them creates its canary: the refusals above are about something."""
    live = {}
    for name, file in FILES.items():
        if file.live:
            (tmp_path / name).mkdir()
            live[name] = made(file, tmp_path / name)
    program = """
import contextlib, io, os, sys, warnings
warnings.simplefilter("ignore")
import torch
for path in sys.argv[1:]:
    with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
        torch.load(path, weights_only=False)
"""
    paths = [str(path) for _, path in live.values()]
    subprocess.run([sys.executable, "-c", program, *paths], cwd=tmp_path, timeout=120, check=True)
    assert len(live) > 40
    assert [name for name, (folder, _) in live.items() if not canary(folder).exists()] == []


# --- the command line -----------------------------------------------------------------------------------------

WORST = (
    "payloads-os_system_protocol_2_zip",
    "payloads-payload_in_lightning_hyperparameters",
    "archives-bomb",
    "mistaken-pipe",
    "mistaken-link_to_zeros",
)


def test_the_command_line_refuses(tmp_path: Path) -> None:
    running = {}
    for name in WORST:
        (tmp_path / name).mkdir()
        folder, path = made(FILES[name], tmp_path / name)
        command = [sys.executable, "-m", "collapsekit", "inspect", str(path)]
        started = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running[name] = folder, path, started
    for name, (folder, path, process) in running.items():
        out, err = process.communicate(timeout=60)
        assert process.returncode == 3, (name, err)
        assert hidden(out.replace("\n", "")) == []
        lines = err.splitlines()
        assert len(lines) == 1, (name, err)
        assert lines[0].startswith("error: "), name
        assert "Traceback" not in out + err
        assert_refusal(FILES[name], lines[0].removeprefix("error: "), path, folder)
        assert not canary(folder).exists(), name


# --- names ----------------------------------------------------------------------------------------------------

# One tensor's name is shown in tables and lists; the others come into sentences.
SHOWN = [n for n in FILES if n.startswith(("names-every", "names-misfit", "names-key", "names-parts", "names-class"))]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("names-every_name", "inspect --json"),
        ("names-every_name", "init"),
        *((name, "inspect --all") for name in [*SHOWN, "mistaken-path_with_escapes_and_markup"]),
    ],
)
def test_names_do_not_act_where_they_are_shown(name: str, command: str, tmp_path: Path) -> None:
    config = tmp_path / "made.yaml"
    _, path = made(FILES[name], tmp_path)
    options = ["--output", str(config)] if command == "init" else []
    shown = CliRunner().invoke(app, [*command.split(), *options, str(path)])
    assert shown.exit_code == (0 if FILES[name].says is None else 3), shown.output
    assert hidden(shown.output.replace("\n", "")) == []
    assert not re.search(r"^\s*::|##\[", shown.output, re.MULTILINE)
    if command == "inspect --json":
        json.loads(shown.stdout)
    if config.exists():
        assert hidden(config.read_text().replace("\n", "")) == []
        yaml.safe_load(config.read_text())


def test_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    _, path = made(FILES["names-every_name"], tmp_path)
    shown = CliRunner().invoke(app, ["inspect", "--all", str(path)]).output
    for label in ("rich_markup", "rich_broken_markup", "html", "format_string", "jinja"):
        assert NAMES[label][-20:] in shown, label  # long names lose their beginning


def test_names_do_not_act_in_a_misfit(tmp_path: Path) -> None:
    _, path = made(FILES["names-every_name"], tmp_path)
    checkpoint = read_checkpoint(path)
    model = nn.ModuleDict({"other": nn.Linear(3, 2)})
    whole = dict(model.state_dict())
    for name, tensor in checkpoint.tensors.items():
        with pytest.raises(ConfigError) as e:
            load_weights(model, replace(checkpoint, tensors={name: tensor}))
        assert hidden(str(e.value)) == []
        assert len(str(e.value)) <= 2000
        with pytest.raises(ConfigError) as e:  # what proposes a pattern of the name
            load_weights(model, replace(checkpoint, tensors=whole | {name: tensor}))
        assert hidden(str(e.value)) == []
        assert len(str(e.value)) <= 2000
        assert str(e.value).endswith(".")
