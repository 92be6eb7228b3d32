"""Whatever user code does to the process it runs in, the report and the caller's process stay the same."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from collapsekit import diagnose
from collapsekit.config.load import check_config
from collapsekit.errors import ConfigError
from collapsekit.report.diagnosis import Report
from collapsekit.user_code.process_state import _device, _now, each_of, preserve_process_state, user_code
from tests.problems import make_problem
from tests.resealing import resealed

MODULE = """\
import io, locale, logging, os, random, sys, warnings
import numpy as np, torch
from torch import nn
from tests.problems import Late

def change():
    {line}

{at_import}

class Net(Late):
    def forward(self, **x):
        found = super().forward(**x)
        {in_forward}
        return found

def build():
    {in_factory}
    return Net({{"image": 5, "audio": 4}}, 3, ["audio"])

FILE = os.path.join(os.path.dirname(__file__), "data.pt")

def loss(outputs, targets):
    found = torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
    {in_task}
    return found

def loaders():
    {in_data}
    arrays = torch.load(FILE)
    return {{s: Rows({{k: arrays[s + "/" + k] for k in ("image", "audio", "label")}}) for s in ("train", "val", "test")}}

class Rows(torch.utils.data.Dataset):
    def __init__(self, arrays):
        self.arrays = arrays
    def __len__(self):
        return len(self.arrays["label"])
    def __getitem__(self, i):
        {in_item}
        return {{k: v[i] for k, v in self.arrays.items()}}
"""
PLACES = ["at_import", "in_factory", "in_forward", "in_task", "in_data", "in_item"]
# None of these is the model's arithmetic: wherever it stands, not a byte of the report may change.
LINES = [
    "torch.set_grad_enabled(False)",
    "torch.set_num_threads(3)",
    "torch.set_anomaly_enabled(True)",
    "torch.set_autocast_enabled('cpu', True)",
    "torch.set_default_device('cpu')",
    "np.seterr(all='raise')",
    "warnings.filterwarnings('error')",
    "logging.disable(logging.CRITICAL)",
    "random.seed(7), np.random.seed(7), torch.manual_seed(7)",
    "os.chdir('/')",
    "sys.path.insert(0, '/nowhere')",
    "sys.path.clear()",
    "setattr(sys, 'argv', ['other'])",
    "sys.argv.append('--other')",
    "setattr(sys, 'stdout', io.StringIO())",
    "locale.setlocale(locale.LC_ALL, 'C')",
]
# These are the model's arithmetic: what it is made under holds, and is said.
MODEL_LINES = {
    "torch.use_deterministic_algorithms(True)": "deterministic algorithms to on",
    "torch.set_float32_matmul_precision('medium')": "float32 matmul precision to medium",
    "setattr(torch.backends.cudnn, 'benchmark', True)": "cudnn.benchmark to True",
    "torch.set_default_dtype(torch.float64)": "torch's default dtype to float64",
}
_NUMBER = itertools.count()


def write(folder: Path, line: str = "pass", place: str | None = None) -> Path:
    """A project whose code runs ``line`` at a place."""
    problem = make_problem(folder, ignored=["audio"])
    torch.save(problem.model.state_dict(), folder / "ckpt.pt")
    torch.save(problem.arrays, folder / "data.pt")
    name = f"net_{next(_NUMBER)}"  # a module of its own: it is imported anew
    calls = {p: "change()" if p == place else "pass" for p in PLACES}
    (folder / f"{name}.py").write_text(MODULE.format(line=line, **calls))
    return folder / name


def look(project: Path, **options: object) -> Report:
    name = project.name
    raw = {
        "model": {"factory": f"{name}:build"},
        "modalities": {"image": "encoders.image", "audio": "encoders.audio"},
        "fusion": "fusion",
        "task": f"{name}:loss",
        "data": {"factory": f"{name}:loaders"},
    }
    config = check_config(raw, base=project.parent)
    chosen = {"probes": ["reliance", "gradient_rank"], "profile": "quick", "options": {"reliance": {"draws": 6}}}
    return diagnose(project.parent / "ckpt.pt", config=config, cache=project.parent / "cache", **(chosen | options))  # type: ignore[arg-type]


def bytes_of(project: Path) -> str:
    """The report but for the name of the project's module, and for the digest, which is over it."""
    raw = json.loads(look(project).to_json())
    del raw["sha256"]
    return json.dumps(raw, indent=1).replace(project.name, "net")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return bytes_of(write(tmp_path_factory.mktemp("plain")))


def caller() -> tuple[object, ...]:
    states = random.getstate(), str(np.random.get_state(legacy=False)), torch.get_rng_state().tolist()
    return (*states, _now(), torch.is_inference_mode_enabled(), dict(os.environ))


@pytest.mark.parametrize("place", PLACES)
def test_not_a_byte_changes_and_the_caller_s_process_is_as_it_was(tmp_path: Path, plain: str, place: str) -> None:
    before = caller()
    passing = [] if place in ("at_import", "in_factory", "in_data") else list(MODEL_LINES)
    assert bytes_of(write(tmp_path, "; ".join([*LINES, *passing]), place)) == plain
    assert caller() == before
    assert torch._C._len_torch_function_stack() == 0  # a device that was chosen is none any more


@pytest.mark.parametrize("chosen", ["none", "cpu", "meta", "with meta"])
def test_the_default_device_is_the_caller_s_again(chosen: str) -> None:
    """Even the CPU, where somebody chose it: torch then copies what it would take as it is."""
    within = contextlib.nullcontext() if chosen != "with meta" else torch.device("meta")
    try:
        with within:
            if chosen in ("cpu", "meta"):
                torch.set_default_device(chosen)
            before = _device()
            assert before == (torch.device(chosen.removeprefix("with ").replace("none", "cpu")), chosen != "none")
            with preserve_process_state():
                assert torch.zeros(1).device.type == "cpu"
                with user_code("a function", stays=True):
                    torch.set_default_device("cpu")
            assert _device() == before
        if chosen == "with meta":
            assert torch.zeros(1).device.type == "cpu"
    finally:
        torch.set_default_device(None)
    assert torch._C._len_torch_function_stack() == 0


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_not_a_byte_changes_by_any_one_of_them(tmp_path: Path, plain: str, place: str) -> None:
    passing = [] if place in ("at_import", "in_factory", "in_data") else list(MODEL_LINES)
    for i, line in enumerate([*LINES, *passing]):
        before = caller()
        assert bytes_of(write(tmp_path / str(i), line, place)) == plain, line
        assert caller() == before, line


@pytest.mark.parametrize("place", ["at_import", "in_factory"])
def test_what_the_model_is_made_under_is_the_model_s_and_said(tmp_path: Path, plain: str, place: str) -> None:
    project = write(tmp_path, "; ".join(MODEL_LINES), place)
    before = caller()
    found = look(project)
    assert caller() == before
    assert [w.name for w in found.warnings] == ["process_state"]
    for said in MODEL_LINES.values():
        assert said in found.warnings[0].sentence
    assert look(project).to_json() == found.to_json()  # though the module is not imported again
    without = Report.from_json(resealed(Report, json.loads(plain)))
    assert {m: v.verdict for m, v in found.modalities.items()} == {m: v.verdict for m, v in without.modalities.items()}
    for ours, theirs in zip(found.results, without.results, strict=True):
        if theirs.value is not None:
            assert ours.value == pytest.approx(theirs.value, rel=1e-3, abs=1e-4), ours.name


def test_a_folder_entered_at_import_is_the_factory_s_and_not_ours(tmp_path: Path, plain: str) -> None:
    project = write(tmp_path / "there", f"os.chdir({str(tmp_path / 'there')!r})", "at_import")
    text = project.with_suffix(".py").read_text()
    project.with_suffix(".py").write_text(text.replace("torch.load(FILE)", "torch.load('data.pt')"))
    here = Path.cwd()
    assert bytes_of(project) == plain
    assert bytes_of(project) == plain  # the second time it is not imported
    assert Path.cwd() == here


def test_the_caller_s_own_settings_are_the_model_s_and_come_back(tmp_path: Path, plain: str) -> None:
    project = write(tmp_path)
    with np.errstate(all="raise"), torch.no_grad(), torch.inference_mode(), torch.autocast("cpu"):
        before = caller()
        assert bytes_of(project) == plain
        assert caller() == before
    torch.set_default_dtype(torch.float64)
    try:
        found = look(project)
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert "default dtype to float64" in found.warnings[0].sentence


@pytest.mark.parametrize("fails", ["in_forward", "in_factory"])
def test_what_fails_leaves_the_process_as_it_was_too(tmp_path: Path, fails: str) -> None:
    project = write(tmp_path, f"{next(iter(MODEL_LINES))}; os.chdir('/'); raise ValueError('no')", fails)
    before = caller()
    with pytest.raises(ConfigError, match="ValueError: no"):
        look(project)
    assert caller() == before


def test_inference_mode_that_is_left_on_is_said(tmp_path: Path) -> None:
    project = write(tmp_path, "global held; held = torch.inference_mode(); held.__enter__()", "in_factory")
    with pytest.raises(ConfigError, match=r"model.factory '.*' left torch.inference_mode on"):
        look(project)
    sys.modules[project.name].held.__exit__(None, None, None)
    assert not torch.is_inference_mode_enabled()


def test_no_call_into_user_code_is_left_out_of_many() -> None:
    seen = []

    def values():
        for i in range(3):
            torch.set_default_dtype(torch.float64)
            yield i

    with preserve_process_state():
        for value in each_of(values(), "the loader"):
            seen.append((value, torch.get_default_dtype()))
    assert seen == [(i, torch.float32) for i in range(3)]


def test_within_user_code_ours_stays_as_it_is() -> None:
    with preserve_process_state():
        with user_code("outer", stays=True):
            torch.set_default_dtype(torch.float64)
            with user_code("inner"):
                assert torch.get_default_dtype() is torch.float64
        assert torch.get_default_dtype() is torch.float32
        with user_code("later"):
            assert torch.get_default_dtype() is torch.float64
    assert torch.get_default_dtype() is torch.float32
