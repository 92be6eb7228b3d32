"""The callbacks under real trainers (framework_training.py, in a process of its own), and the hooks that log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from collapsekit_callbacks import loggers

from collapsekit.errors import ConfigError
from tests.plugins.conftest import Once
from tests.plugins.framework_training import EVERY, STEPS

SCRIPT = Path(__file__).with_name("framework_training.py")
NEEDS = {
    "lightning": ["lightning"],
    "pytorch_lightning": ["pytorch_lightning"],
    "huggingface": ["transformers", "accelerate"],
}
pytestmark = pytest.mark.slow  # trainers take long to import
QUICK = ["lightning", "huggingface"]  # pytorch_lightning is the same code under another name, and takes as long again
MEASURED = list(range(EVERY, STEPS, EVERY))


def run(folder: Path, names: list[str]) -> dict[str, Any]:
    root = SCRIPT.parents[2]
    path = os.pathsep.join(map(str, (root, root / "plugins" / "callbacks" / "src")))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(SCRIPT), str(folder), *names]
    ran = subprocess.run(command, capture_output=True, text=True, env=env, check=False, cwd=folder)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


def training(once: Once, name: str) -> dict[str, Any]:
    """What came out under that trainer, all that are quick run in one process; skips where it is not installed."""
    if not all(map(find_spec, NEEDS[name])):
        pytest.skip(f"needs {' and '.join(NEEDS[name])}")
    together = [n for n in QUICK if all(map(find_spec, NEEDS[n]))] if name in QUICK else [name]
    found: dict[str, Any] = once("_".join(together), lambda folder: run(folder, together))[name]
    return found


@pytest.fixture(params=[*QUICK, pytest.param("pytorch_lightning", marks=pytest.mark.slow)])
def trained(request: pytest.FixtureRequest, once: Once) -> dict[str, Any]:
    return training(once, request.param)


def test_training_ends_in_the_same_bits_with_the_callback_and_without_it(trained: dict[str, Any]) -> None:
    plain, monitored = trained["plain"], trained["monitored"]
    assert plain["state"] == monitored["state"]
    assert plain["draw"] == monitored["draw"]
    assert monitored["hooks"] == 0
    # The other way round, what the trainer logs itself is all there and the same.
    own = {k: v for k, v in monitored["logged"].items() if not k.startswith("collapsekit/")}
    assert own == plain["logged"]
    assert own


@pytest.mark.parametrize("name", ["monitored", "other batches"])
def test_it_measures_every_k_optimiser_steps_and_logs_through_the_trainer(trained: dict[str, Any], name: str) -> None:
    logged = {k: list(map(int, v)) for k, v in trained[name]["logged"].items() if k.startswith("collapsekit/")}
    ranks = {f"collapsekit/effective_rank/{m}" for m in ("image", "audio", "fused")}
    rest = {f"collapsekit/{what}/{m}" for what in ("reliance", "share") for m in ("image", "audio")}
    assert set(logged) == {"collapsekit/loss", *ranks, *rest}
    assert all(steps == MEASURED for steps in logged.values())


def test_collapsed_model_has_no_share_all_along(trained: dict[str, Any]) -> None:
    ignored, healthy = trained["collapsed"]["logged"], trained["monitored"]["logged"]
    assert max(ignored["collapsekit/share/audio"].values()) < 1e-6
    assert min(healthy["collapsekit/share/audio"].values()) > 0.1
    losses = list(healthy["collapsekit/loss"].values())
    assert losses[-1] < losses[0]  # it is the model in training that is measured


def test_watch_names_the_modality_that_never_reaches_the_model_and_nothing_else(trained: dict[str, Any]) -> None:
    assert trained["collapsed"]["found"] == ["audio: never reaches the model"]
    assert trained["monitored"]["found"] == trained["other batches"]["found"] == []


def test_huggingface_callback_with_nowhere_to_log_says_so(once: Once) -> None:
    assert ".attach(trainer)" in training(once, "huggingface")["nowhere to log"]


VALUES = [{"collapsekit/loss": 0.5, "collapsekit/share/ear (left)": 0.25}, {"collapsekit/loss": 0.125}]


def test_tensorboard_reads_back_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = loggers.tensorboard(tmp_path)
    for step, values in zip((10, 20), VALUES, strict=True):
        log(values, step)
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in read.Scalars("collapsekit/loss")] == [(10, 0.5), (20, 0.125)]
    assert len(read.Tags()["scalars"]) == 2


def test_mlflow_is_given_names_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    fake = types.SimpleNamespace(log_metrics=lambda metrics, step: calls.append((metrics, step)))
    monkeypatch.setitem(sys.modules, "mlflow", fake)  # type: ignore[arg-type]
    loggers.mlflow()(VALUES[0], 10)
    assert calls == [({"collapsekit/loss": 0.5, "collapsekit/share/ear _left_": 0.25}, 10)]


class Run:
    def __init__(self) -> None:
        self.defined: list[Any] = []
        self.logged: list[Any] = []

    def define_metric(self, name: str, **options: Any) -> None:
        self.defined.append((name, options))

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)


def test_wandb_draws_over_our_step_and_leaves_its_own_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run()
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=run))  # type: ignore[arg-type]
    loggers.wandb()(VALUES[1], 20)
    assert ("collapsekit/*", {"step_metric": "collapsekit/step"}) in run.defined
    assert run.logged == [{"collapsekit/loss": 0.125, "collapsekit/step": 20}]
    given = Run()
    loggers.wandb(given)(VALUES[1], 30)
    assert (len(given.logged), len(run.logged)) == (1, 1)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=None))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"wandb\.init"):
        loggers.wandb()


@pytest.mark.parametrize(("name", "module"), [("mlflow", "mlflow"), ("wandb", "wandb"), ("tensorboard", "tensorboard")])
def test_a_logger_that_is_not_there_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ConfigError) as e:
        getattr(loggers, name)(*([tmp_path] if name == "tensorboard" else []))
    assert f"pip install 'collapsekit-callbacks[{name}]'." in str(e.value)
