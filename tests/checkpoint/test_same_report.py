"""The same weights, through every format that can be read, give the same report."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from collapsekit import diagnose
from collapsekit.checkpoint.read import read_checkpoint
from collapsekit.report.diagnosis import Report
from tests.problems import Late, Problem, make_problem

State = dict[str, Tensor]


def _sharded(state: State, path: Path) -> None:
    path.mkdir()
    names = list(state)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, held in shards.items():
        safetensors.torch.save_file({n: state[n] for n in held}, path / shard)
    weight_map = {n: shard for shard, held in shards.items() for n in held}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _hugging_face(state: State, path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{}")
    safetensors.torch.save_file(state, path / "model.safetensors", metadata={"format": "pt"})


def _accelerate(state: State, path: Path) -> None:
    _hugging_face(state, path)
    torch.save({"state": {}}, path / "optimizer.bin")
    torch.save({"step": 1}, path / "random_states_0.pkl")


def _npz(state: State, path: Path) -> None:
    with path.open("wb") as f:
        np.savez(f, **{k: v.numpy() for k, v in state.items()})


def _distributed(state: State, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": state, "step": 3}, checkpoint_id=path)


def _lightning(state: State, path: Path) -> None:
    held: dict[str, Any] = {"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 3}
    torch.save(held | {"pytorch-lightning_version": "2.5.0", "hyper_parameters": {"lr": 1e-3, "path": Path("x")}}, path)


def _exported(state: State, path: Path, problem: Problem) -> None:
    inputs = {m: problem.arrays[f"test/{m}"][:4] for m in problem.config["modalities"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(problem.model.eval(), (), inputs), path)


WRITERS: dict[str, Callable[[State, Path], None]] = {
    "zip.pt": torch.save,
    "legacy.pth": lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False),
    "protocol5.bin": lambda s, p: torch.save(s, p, pickle_protocol=5),
    "nested.pt": lambda s, p: torch.save(
        {"epoch": 2, "model_state_dict": s, "ema": {k: v * 0 for k, v in s.items()}}, p
    ),
    "parallel.pt": lambda s, p: torch.save({f"module._orig_mod.{k}": v for k, v in s.items()}, p),
    "lightning.ckpt": _lightning,
    "one.safetensors": lambda s, p: safetensors.torch.save_file(s, p),
    "sharded": _sharded,
    "hugging_face": _hugging_face,
    "accelerate": _accelerate,
    "arrays.npz": _npz,
    "distributed": _distributed,
}


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    return make_problem(tmp_path_factory.mktemp("formats"), {"image": 8, "audio": 6}, ignored=("audio",))


@pytest.fixture(scope="module")
def reference(problem: Problem) -> dict[str, Any]:
    torch.save(problem.model.state_dict(), problem.folder / "reference.pt")
    return _comparable(_report(problem, problem.folder / "reference.pt"))


def _report(problem: Problem, path: Path) -> Report:
    widths = {"image": 8, "audio": 6}
    return diagnose(
        path,
        config=problem.config,
        model=Late(widths, 3, ("audio",)),  # of random weights, which the file's replace
        probes=["spectrum", "reliance"],
        profile="quick",
        options={"reliance": {"draws": 6}},
        cache=problem.folder / "cache",
    )


def _comparable(report: Report) -> dict[str, Any]:
    """All of the report but what names the file it was read from."""
    raw = report.model_dump(mode="json")
    for held, names in ((raw["subject"], ("checkpoint", "sha256")), (raw["settings"], ("command", "checkpoint"))):
        for name in names:
            del held[name]
    return raw


@pytest.mark.parametrize("name", [*WRITERS, "exported.pt2"])
def test_the_same_weights_give_the_same_report(problem: Problem, reference: dict[str, Any], name: str) -> None:
    state = {k: v.clone() for k, v in problem.model.state_dict().items()}
    path = problem.folder / name
    if name == "exported.pt2":
        _exported(state, path, problem)
    else:
        WRITERS[name](state, path)
    found = _report(problem, path)
    assert _comparable(found) == reference
    assert len(found.subject.sha256) == 64
    assert found.settings["checkpoint"].startswith(f"{name}: {len(state)} tensors taken from ")


def test_other_weights_give_another_report(problem: Problem, reference: dict[str, Any]) -> None:
    state = {k: v * 1.5 for k, v in problem.model.state_dict().items()}
    torch.save(state, problem.folder / "other.pt")
    assert _comparable(_report(problem, problem.folder / "other.pt")) != reference


def test_every_format_is_listed_and_covered(problem: Problem) -> None:
    """A format added to the reader must be added here."""
    from collapsekit.checkpoint.formats.detect import FOLDERS, FORMATS

    made = [p for n in [*WRITERS, "exported.pt2"] if (p := problem.folder / n).exists()]
    if len(made) < len(WRITERS) + 1:
        pytest.skip("needs the files of the test above")
    told = {read_checkpoint(p).format for p in made}
    assert told == {f.name for f in FORMATS} | {"torch.distributed.checkpoint directory"}
    assert {"Hugging Face directory", "accelerate directory"} == set(FOLDERS) - told  # read as the safetensors in them
