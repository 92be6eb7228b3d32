"""Training by several processes: all end in the same bits, near those of one process, whoever was interrupted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from collapsekit import registry
from collapsekit.config.options import RepairOptions
from collapsekit.context import Progress
from collapsekit.distributed.process_group import ProcessGroup
from collapsekit.errors import ConfigError
from collapsekit.io.shards import open_shards
from collapsekit.repairs import chain
from collapsekit.repairs.request import check_method_options, make_request
from collapsekit.repairs.training import estimate as reckon
from collapsekit.repairs.training.data_parallel import share, summed
from collapsekit.repairs.training.fsdp import need_shardable
from collapsekit.repairs.training.job import Training
from tests.repairs.making import differing, make_job
from tests.repairs.test_training_options import CONFIG, one_sentence
from tests.several import ROOT

CLIPPED = {"accumulate": 2, "clip": 0.1, "weight_decay": 0.1}
SHARED = {"fsdp": True}
# Not AdamW, which makes whole steps of rounding: the bias before a batch norm has no gradient.
LIVELY = {"methods": ["kd", "dropout", "ebr", "rtf"], "lively": True}
LOST = {"ignored": ["audio"], "kept": {"audio": 0.1}}
SGD = {"epochs": 1, "optimizer": "sgd", "rate": 0.05, **LOST}
STEADY = {
    "methods": ["ebr"],
    "options": {
        "alignment": "none",
        "substitution": 0.0,
        "adversary": 0.1,
        "spectral_norm": True,
        "r1": 0.5,
        "conditional": True,
    },
}
UNIT = {"unit": 8}  # every linear layer is one
# Name: processes, and how they train; those of one folder go on from one another.
Runs = list[tuple[str, int, dict[str, Any]]]
WHOLE: Runs = [
    ("plain alone", 1, {}),
    ("plain", 3, {}),
    ("lively", 2, {**LIVELY, "training": SGD}),
    ("warmed", 2, {"methods": ["ebr"], "lively": True, "training": {"epochs": 2, **LOST}}),
    ("broken", 2, {"break": [1, 4]}),
    ("left", 3, {"stop": 2}),
    ("stopped 2", 2, {"from": "left"}),
    ("killed, whole", 2, {"fails": True, "kill": [1, 3]}),
]
MORE: Runs = [
    ("clipped alone", 1, {"training": CLIPPED, "odd": True}),
    ("clipped", 3, {"training": CLIPPED, "odd": True}),
    ("stopped 1", 1, {"from": "left"}),
    ("steadied alone", 1, STEADY),
]
IN_SHARES: Runs = [
    ("plain, shared by 2", 2, {"training": SHARED}),
    ("plain, shared by 3", 3, {"training": SHARED, **UNIT}),
    ("clipped, shared by 3", 3, {"training": {**CLIPPED, **SHARED}, "odd": True, **UNIT}),
    ("lively, shared by 2", 2, {**LIVELY, "training": {**SGD, **SHARED}, **UNIT}),
    ("broken, shared", 2, {"break": [1, 4], "training": SHARED, **UNIT}),
    ("left, shared", 3, {"stop": 2, "training": SHARED}),
    ("stopped 1, was shared", 1, {"from": "left, shared"}),
    ("stopped 2, shared", 2, {"from": "left, shared", "training": SHARED, **UNIT}),
    ("stopped 2, now shared", 2, {"from": "left", "training": SHARED}),
    ("astray", 2, {"fails": True, "astray": [1, 3], "training": SHARED, **UNIT}),
    ("killed", 2, {"fails": True, "kill": [1, 3], "training": SHARED, **UNIT}),
    ("steadied, shared by 2", 2, {**STEADY, "training": SHARED}),
    ("stubborn", 2, {"fails": True, "stubborn": True, "training": SHARED}),
]


def slow(name: str, *more: Any) -> Any:
    """A run in shares, or a further one: these take half a minute, and so the tests of them are slow ones."""
    return pytest.param(name, *more, marks=pytest.mark.slow)


def train_all(runs: Runs, place: Path) -> None:
    """All of it done, in one process that imports once and forks."""
    told = []
    for name, size, how in runs:
        there = {"from": str(place / how["from"])} if "from" in how else {}
        told.append((size, str(place / name), {"methods": ["finetune"], **how, **there}))
    command = [sys.executable, "-m", "tests.repairs.training_together", json.dumps(told)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("together")
    train_all(WHOLE, place)
    return place


@pytest.fixture(scope="module")
def in_shares(whole: Path) -> Path:
    train_all([*MORE, *IN_SHARES], whole)
    return whole


@pytest.fixture
def folder(request: pytest.FixtureRequest, whole: Path) -> Path:
    """Where the runs ended; those in shares and further ones too, for a slow test."""
    if request.node.get_closest_marker("slow") is not None:
        request.getfixturevalue("in_shares")
    return whole


def ended(folder: Path, name: str) -> list[dict[str, Any]]:
    """What each process ended with."""
    return [torch.load(file, weights_only=True) for file in sorted((folder / name).glob("*.pt"))]


def far(a: dict[str, Any], b: dict[str, Any]) -> float:
    """The largest difference between two models' weights."""
    return max(float((a["state"][k] - b["state"][k]).abs().max()) for k in a["state"] if a["state"][k].numel())


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("plain", 3),
        slow("clipped", 3),
        slow("plain, shared by 2", 2),
        slow("plain, shared by 3", 3),
        slow("clipped, shared by 3", 3),
        slow("steadied, shared by 2", 2),
    ],
)
def test_training_by_several_is_that_of_one_but_for_rounding(folder: Path, name: str, size: int) -> None:
    (alone,), found = ended(folder, f"{name.split(',')[0]} alone"), ended(folder, name)
    assert len(found) == size
    for each in found:
        assert not differing(each["state"], found[0]["state"])
        assert each["curves"] == found[0]["curves"]
    assert far(alone, found[0]) < 1e-5
    for one, many in zip(*(json.loads(x["curves"]) for x in (alone, found[0])), strict=True):
        assert one["kept"] == many["kept"]
        assert many["held"] == pytest.approx(one["held"], abs=1e-5)
        assert many["training"][1:] == pytest.approx(one["training"][1:], abs=1e-5)


@pytest.mark.parametrize("name", ["lively", slow("lively, shared by 2")])
def test_batch_norm_dropout_and_memories_stay_the_same_everywhere(folder: Path, name: str) -> None:
    found = ended(folder, name)
    assert len(found) == 2
    assert not differing(found[0]["state"], found[1]["state"])
    assert found[0]["curves"] == found[1]["curves"]


@pytest.mark.slow
def test_a_chain_of_methods_in_shares_is_the_chain_but_for_rounding(folder: Path) -> None:
    """With stopped forwards, weights run outside of their modules, heads and memories beside the model."""
    whole, shared = ended(folder, "lively")[0], ended(folder, "lively, shared by 2")[0]
    assert far(whole, shared) < 1e-5
    for one, other in zip(*(json.loads(x["curves"]) for x in (whole, shared)), strict=True):
        assert (one["method"], one["stage"], one["kept"]) == (other["method"], other["stage"], other["kept"])
        assert other["held"] == pytest.approx(one["held"], abs=1e-5)
        assert other["training"][1:] == pytest.approx(one["training"][1:], abs=1e-5)


@pytest.mark.slow
def test_each_holds_its_share_while_it_trains_and_an_ordinary_model_afterwards(folder: Path) -> None:
    whole, shared = ended(folder, "plain"), ended(folder, "plain, shared by 3")
    for each in whole:
        weights, moments, copies = each["held"]
        assert moments == 2 * weights
        assert copies == 4 * weights
    for each in shared:
        assert [3 * part for part in each["held"]] == whole[0]["held"]  # all have rows by threes
    halves = [each["held"] for each in ended(folder, "plain, shared by 2")]
    for part, (first, second) in enumerate(zip(*halves, strict=True)):
        assert first + second == whole[0]["held"][part]
        assert abs(first - second) < 0.1 * first  # the head has three rows
    for name, *_ in IN_SHARES[:4]:
        for each in ended(folder, name):
            assert {type(v) for v in each["state"].values()} == {torch.Tensor}
            assert each["ordinary"] or name.startswith("lively"), name  # which puts modules into it


def test_what_a_repair_begins_with_is_the_same_everywhere(folder: Path) -> None:
    """A new encoder, trained alone, and a new fusion."""
    found = ended(folder, "warmed")
    assert len(found) == 2
    assert not differing(found[0]["state"], found[1]["state"])
    assert found[0]["curves"] == found[1]["curves"]
    assert json.loads(found[0]["curves"])[0]["stage"] == "warming up audio"


@pytest.mark.parametrize("name", ["broken", slow("broken, shared")])
def test_what_is_not_finite_for_one_sends_all_back(folder: Path, name: str) -> None:
    found = ended(folder, name)
    assert len(found) == 2
    assert not differing(found[0]["state"], found[1]["state"])
    for each in found:
        (curve,) = json.loads(each["curves"])
        assert curve["note"] == "the learning rate was halved 1 times"


@pytest.mark.parametrize(
    ("name", "size"),
    [
        slow("stopped 1", 1),
        ("stopped 2", 2),
        slow("stopped 1, was shared", 1),
        slow("stopped 2, shared", 2),
        slow("stopped 2, now shared", 2),
    ],
)
def test_snapshots_of_three_go_on_with_fewer(folder: Path, name: str, size: int) -> None:
    (whole,), found = ended(folder, "plain alone"), ended(folder, name)
    assert len(found) == size
    assert not ended(folder, "left, shared" if "shared" in name else "left")  # the three were interrupted
    assert far(whole, found[0]) < 1e-5
    (curve,), (wanted,) = (json.loads(x["curves"]) for x in (found[0], whole))
    assert curve["epochs"] == wanted["epochs"]


@pytest.mark.slow
def test_a_snapshot_of_shares_is_a_snapshot(folder: Path) -> None:
    plain = load_file(folder / "left/kept/finetune/stage0b.safetensors")
    place = folder / "left, shared/kept/finetune"
    assert not list(place.glob("stage0*[0b].safetensors"))  # nobody had all of it
    with open_shards(place / "stage0b.index.json") as shards:
        shared = {name: shards.rows(name) for name in shards.index.tensors}
        assert len(shards.index.shards) == 3
    weights = load_file(place / "stage0b-00001-of-00003.safetensors")
    assert sum(v.nbytes for v in weights.values()) < 0.4 * sum(v.nbytes for v in plain.values())
    assert plain.keys() == shared.keys()
    assert {key.split("/")[0] for key in plain} == {"now", "best", "optimizer"}
    for key, value in plain.items():
        torch.testing.assert_close(shared[key], value, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_model_that_runs_otherwise_for_one_is_said_and_ends_all(folder: Path) -> None:
    said = [(folder / "astray" / f"{rank}.txt").read_text() for rank in range(2)]
    assert "the model runs 'encoders.audio' where it ran 'encoders.image' before" in said[1]
    assert said[1].endswith("leave out --fsdp.")
    assert said[0].startswith("process 0 of 2 lost touch with another one")


@pytest.mark.slow
def test_what_torch_cannot_shard_is_said(folder: Path) -> None:
    why = r"\(TypeError: what is this\? \(\S+:\d+\)\)"
    said = rf"--fsdp: the weights of fine-tuning cannot be shared out {why}: leave out --fsdp\."
    for rank in range(2):
        assert re.fullmatch(said, (folder / "stubborn" / f"{rank}.txt").read_text())


@pytest.mark.parametrize("name", [slow("killed"), "killed, whole"])
def test_a_process_says_that_another_is_gone(folder: Path, name: str) -> None:
    assert (folder / name / "0.txt").read_text().startswith("process 0 of 2 lost touch with another one")
    assert not (folder / name / "1.txt").exists()


@pytest.mark.parametrize(
    ("how", "device", "size", "said"),
    [
        ({}, "cpu", 1, "this is one alone: start it with torchrun --nproc-per-node N"),
        ({"compile": True}, "cpu", 2, "--fsdp with --compile"),
        ({}, "mps", 2, "and --device is mps"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(how: dict[str, Any], device: str, size: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        need_shardable(Training(fsdp=True, **how), device, ProcessGroup(0, size))
    assert one_sentence(str(caught.value))
    need_shardable(Training(**how), device, ProcessGroup(0, size))


def test_an_older_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch.distributed.fsdp.FSDPModule.reset_iter_state")
    with pytest.raises(ConfigError, match=r"needs a newer torch \(2\.13"):
        need_shardable(Training(fsdp=True), "cuda:1", ProcessGroup(0, 2))


def test_it_is_refused_before_anything_is_diagnosed() -> None:
    with pytest.raises(ConfigError, match="this is one alone"):
        make_request(None, CONFIG, RepairOptions.make(training={"fsdp": True}))


def test_shares_are_all_rows_once_and_small_batches_are_whole() -> None:
    rows = torch.arange(11)
    shares = [share(rows, ProcessGroup(r, 3)) for r in range(3)]
    assert torch.equal(torch.cat([mine for mine, _ in shares]), rows)
    assert sum(weight for _, weight in shares) == pytest.approx(1)
    for mine, weight in shares:
        assert weight == len(mine) / 11
    few = [share(rows[:5], ProcessGroup(r, 3)) for r in range(3)]
    assert all(torch.equal(mine, rows[:5]) for mine, _ in few)
    assert sum(weight for _, weight in few) == pytest.approx(1)


def test_alone_nothing_is_summed() -> None:
    parameter = nn.Parameter(torch.ones(2))
    assert summed([parameter], (1.0, 2.0), ProcessGroup()) == [1.0, 2.0]
    assert parameter.grad is None


def test_sharing_is_no_other_repair_to_snapshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.setattr(chain, "train", lambda _stages, _job, _name, kept, *_: found.append(kept.identity) or [])
    job = make_job(epochs=1)
    before: Any = SimpleNamespace(subject=SimpleNamespace(sha256="0"))
    for changes in ({}, SHARED, {"batch": 4}):
        how = Training(**changes)
        asked: Any = SimpleNamespace(options=RepairOptions.make(training=how), progress=Progress())
        chain.MethodChain(asked, job, "digest", ("finetune",), check_method_options({}), before, tmp_path).train()
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_the_memory_of_a_share_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    for changes in ({}, SHARED):
        job = make_job(**changes)
        stage = next(iter(registry.get_repair("finetune").stages(job)))
        monkeypatch.setattr(reckon, "current", lambda: ProcessGroup(0, 4))
        told.append(reckon.estimate_cost(stage, job, "finetune", frozenset())[1])
    size = 4 * sum(p.numel() for p in job.adapter.model.parameters()) / 1e6
    assert f"about {8 * size:,.1f} MB beside" in told[0]
    assert f"Each of 4 processes takes about {2 * size:,.1f} MB for its share" in told[1]
