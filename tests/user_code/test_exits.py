"""Whatever of a user's ends the process instead of returning is an error that names it; Ctrl-C stays Ctrl-C."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import collapsekit
from collapsekit import registry
from collapsekit.diagnosis import estimate_cost
from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.repairs.run import plan
from collapsekit.user_code import interrupts
from collapsekit.user_code.exits import no_exit
from tests.problems import make_problem

# Every kind of a user's function, each ends the process where its name is in LEAVING.
CODE = """
import sys
from collections.abc import Mapping
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
import collapsekit
from tests.problems import Late, make_arrays

LEAVING, HOW = set(), [SystemExit(0)]

def leave(place):
    if place in LEAVING:
        raise HOW[0]

class Model(Late):
    def __init__(self):
        super().__init__({"image": 5, "audio": 4})
        for encoder in self.encoders.values():
            encoder.register_forward_hook(lambda *_: leave("hook"))

    def forward(self, **x):
        leave("forward")
        return super().forward(**x)

    def load_state_dict(self, *given, **named):
        leave("load_state_dict")
        return super().load_state_dict(*given, **named)

def build():
    leave("build")
    return Model()

ARRAYS = make_arrays({"image": 5, "audio": 4}, sizes={"train": 48, "val": 32, "test": 40})

class Rows(Dataset):
    def __init__(self, split):
        self.split = split
    def __len__(self):
        leave("__len__")
        return len(ARRAYS[f"{self.split}/label"])
    def __getitem__(self, i):
        leave("__getitem__")
        return {k: ARRAYS[f"{self.split}/{k}"][i] for k in ("image", "audio", "label")}

class Stream(IterableDataset):
    def __iter__(self):
        leave("__iter__")
        yield from Rows("test")

def collate(rows):
    leave("collate")
    return torch.utils.data.default_collate(rows)

WORKERS = [0]

def loaders():
    leave("loaders")
    splits = {s: DataLoader(Rows(s), 16, collate_fn=collate, num_workers=WORKERS[0]) for s in ("train", "val")}
    return {**splits, "test": Rows("test") if "__len__" in LEAVING else DataLoader(
        Stream() if "__iter__" in LEAVING else Rows("test"), 16, collate_fn=collate, num_workers=WORKERS[0])}

def loss(outputs, targets):
    leave("loss")
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")

class Own(collapsekit.ModuleAdapter):
    def rerun(self, *given, **named):
        leave("rerun")
        return super().rerun(*given, **named)
    def run(self, *given, **named):
        leave("run")
        return super().run(*given, **named)
"""
PLUGIN = """
import ending
from collapsekit import Result, probe

ending.leave("plugin")

@probe("leaver", summary="s", definition="d", source="s", cannot="c")
def run(adapter, features, *, settings):
    ending.leave("probe")
    yield Result(name="leaver.x", probe="leaver", value=1.0, definition="d", source="s")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("leaving")
    (place / "ending.py").write_text(CODE)
    (place / "plugin.py").write_text(PLUGIN)
    problem = make_problem(place)
    torch.save(problem.model.state_dict(), place / "ckpt.pt")
    return place


@pytest.fixture
def ending(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The user's module; none leaves yet."""
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("ending", None)
    yield importlib.import_module("ending")
    registry.PROBES.pop("leaver", None)
    forget_plugins()


def forget_plugins() -> None:
    for name in [n for n in sys.modules if n.startswith(registry.FROM_FILE)]:
        del sys.modules[name]


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": {"factory": "ending:build", "checkpoint": str(folder / "ckpt.pt")},
        "modalities": {"image": "encoders.image", "audio": "encoders.audio"},
        "fusion": "fusion",
        "data": {"factory": "ending:loaders"},
        "plugins": [str(folder / "plugin.py")],
        **changes,
    }


def diagnose(folder: Path, **changes: Any) -> collapsekit.Report:
    return collapsekit.diagnose(
        folder / "ckpt.pt", config=config(folder, **changes), probes=["leaver", "reliance"], profile="quick"
    )


OWN: dict[str, dict[str, Any]] = {
    "loss": {"task": "ending:loss"},
    "rerun": {"adapter": "ending:Own"},
    "run": {"adapter": "ending:Own"},
}
PLACES = [
    "build",
    "forward",
    "hook",
    "loaders",
    "__len__",
    "__getitem__",
    "__iter__",
    "collate",
    "plugin",
    "probe",
    *OWN,
]
WAYS: dict[str, BaseException] = {
    "exit": SystemExit(0),
    "bare exit": SystemExit(),
    "interrupt": KeyboardInterrupt(),
}


def reached(folder: Path, place: str) -> dict[str, Any]:
    """What of the config makes a diagnosis call the function; all of these are called, as the next test has it."""
    return OWN.get(place, {})


@pytest.mark.parametrize("place", PLACES)
def test_an_exit_is_an_error_that_names_the_function(folder: Path, ending: Any, place: str) -> None:
    ending.LEAVING.add(place)
    for name, how in WAYS.items():
        ending.HOW[0] = how
        with pytest.raises(CollapsekitError) as e:
            diagnose(folder, **reached(folder, place))
        said = str(e.value)
        assert e.value.exit_code == 2, name
        assert "\n" not in said
        assert type(how).__name__ in said
        assert re.search(r"(ending|plugin)\.py:\d+\)|ending:", said), said
        assert not any(n.startswith(registry.FROM_FILE) for n in sys.modules if place == "plugin")


@pytest.mark.parametrize("place", [p for p in PLACES if p not in ("probe", "loss")])  # these never run
def test_an_exit_while_costs_are_estimated_is_one_too(folder: Path, ending: Any, place: str) -> None:
    ending.LEAVING.add(place)
    ending.HOW[0] = SystemExit(0)
    how = {"config": config(folder, **reached(folder, place)), "probes": ["leaver", "missing"], "profile": "quick"}
    with pytest.raises(CollapsekitError, match="SystemExit") as e:
        estimate_cost(folder / "ckpt.pt", **how)
    assert e.value.exit_code == 2


def test_user_code_that_never_exits_leaves_a_report(folder: Path, ending: Any) -> None:
    assert diagnose(folder).find("leaver.x") is not None


def test_the_exits_of_libraries_of_command_lines_are_exits(folder: Path, ending: Any) -> None:
    import click
    import typer

    for how in (typer.Exit(0), typer.Abort(), click.exceptions.Exit(0)):
        ending.HOW[0] = how
        forget_plugins()
        for place in ("plugin", "build", "forward", "probe", "collate"):
            ending.LEAVING.clear()
            ending.LEAVING.add(place)
            with pytest.raises(CollapsekitError) as e:
                diagnose(folder)
            assert e.value.exit_code == 2


def test_workers_that_exit_are_an_error(folder: Path, ending: Any) -> None:
    ending.WORKERS[0] = 1
    ending.LEAVING.add("__getitem__")
    with pytest.raises(CollapsekitError, match="worker") as e:
        diagnose(folder)
    assert e.value.exit_code == 2


@pytest.mark.parametrize("place", ["build", "forward", "loaders", "plugin"])
def test_a_repair_ends_likewise(folder: Path, ending: Any, place: str, tmp_path: Path) -> None:
    ending.LEAVING.add(place)
    with pytest.raises(ConfigError, match="SystemExit"):
        collapsekit.repair(folder / "ckpt.pt", output=tmp_path / "out", config=config(folder), profile="quick")
    with pytest.raises(ConfigError, match="SystemExit"):
        plan(folder / "ckpt.pt", config=config(folder), profile="quick")
    assert not (tmp_path / "out" / "model.safetensors").exists()


def press() -> None:
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def listening() -> Iterator[None]:
    """As Python begins where the terminal does not ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def swallowed() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        press()


def turned_into_another() -> None:
    try:
        press()
    except KeyboardInterrupt:
        raise ValueError("stopped") from None


def turned_into_an_exit() -> None:
    try:
        press()
    except KeyboardInterrupt:
        sys.exit(0)


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("act", [press, swallowed, turned_into_another, turned_into_an_exit])
def test_ctrl_c_stays_ctrl_c(act: Any) -> None:
    with pytest.raises(KeyboardInterrupt), no_exit():
        with no_exit():  # as in a repair, which diagnoses
            act()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("listening")
def test_a_caller_with_a_handler_of_its_own_keeps_it() -> None:
    seen = []
    signal.signal(signal.SIGINT, lambda *_: seen.append("mine"))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), no_exit():
        press()
    assert seen == ["mine"]
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.usefixtures("listening")
def test_one_key_press_that_comes_twice_interrupts_once() -> None:
    with interrupts.noticed() as seen:
        with pytest.raises(KeyboardInterrupt):
            press()
        press()  # passed on by a parent
        assert seen()


def test_another_thread_has_no_ctrl_c(folder: Path, ending: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    ending.LEAVING.add("forward")
    ending.HOW[0] = KeyboardInterrupt()
    with ThreadPoolExecutor(1) as pool, pytest.raises(ConfigError, match="KeyboardInterrupt"):
        pool.submit(diagnose, folder).result()


def test_names_are_those_of_the_users_own_frames() -> None:
    def mine() -> None:
        exit(0)

    with pytest.raises(ConfigError, match=r"mine \(\S*test_exits\.py:\d+\) ended the run with SystemExit\(0\)"):
        with no_exit():
            torch.nn.Sequential(torch.nn.Identity()).apply(lambda _: mine())
