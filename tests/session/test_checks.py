"""Arguments, config and data are checked before the checkpoint is read, in Python as on the command line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from collapsekit import diagnose, repair
from collapsekit.checkpoint.read import read_checkpoint
from collapsekit.data.memory import MemorySource
from collapsekit.errors import CollapsekitError, ConfigError, DataError
from collapsekit.registry import REPAIRS
from collapsekit.repairs.run import plan
from collapsekit.repairs.training.estimate import reckon_files
from collapsekit.repairs.training.snapshots import Snapshots
from tests.problems import make_problem
from tests.repairs import making

CONFIG = """\
model: {factory: "tests.problems:Late", kwargs: {widths: {image: 5, audio: 4}, ignored: [audio]}, checkpoint: ckpt.pt}
modalities: {image: encoders.image, audio: {encoder: encoders.audio, input: audio, mask: mask}}
fusion: fusion
data: {path: data.safetensors, label: label, group: patient, also: [extra]}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose data hold all that the config names; no test changes it."""
    folder = tmp_path_factory.mktemp("request")
    problem = make_problem(folder, ignored=["audio"], steps=0)
    torch.save(problem.model.state_dict(), folder / "ckpt.pt")
    sizes = {"train": 240, "val": 120, "test": 160}
    more = {f"{s}/{k}": torch.arange(n) for s, n in sizes.items() for k in ("mask", "patient", "extra")}
    save_file({**problem.arrays, **more}, folder / "data.safetensors")
    (folder / "collapsekit.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(autouse=True)
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was begun that takes long; it is not done."""
    seen: list[str] = []

    def instead(what: str) -> Any:
        def stop(*args: Any, **kwargs: Any) -> None:
            seen.append(what)
            raise AssertionError(f"it began to {what}")

        return stop

    for place in ("session.opening.read_checkpoint", "session.opening.OpenModel.measuring", "repairs.chain.train"):
        monkeypatch.setattr(f"collapsekit.{place}", instead(place))
    return seen


ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"seed": "x"}, "seed is 'x', expected a whole number"),
    ({"seed": True}, "seed is True"),
    ({"seed": 1.0}, r"seed is 1\.0"),
    ({"seed": -1}, "seed is -1, .*at least 0"),
    ({"seed": 2**70}, "seed is 1180591620717411303424, .*below 9223372036854775808"),
    ({"seed": np.int64(3)}, "seed is np.int64"),
    ({"seed": None}, "seed is None"),
    ({"training_seed": "1"}, "training_seed is '1'"),
    ({"training_seed": -1}, "training_seed is -1"),
    ({"limit": 2.5}, r"limit is 2\.5"),
    ({"limit": 0}, "limit is 0, .*at least 1 example"),
    ({"limit": True}, "limit is True"),
    ({"split": 3}, "split is 3, expected text"),
    ({"split": "tset"}, "no split 'tset' .*'test'"),
    ({"profile": "slow"}, "no profile 'slow'"),
    ({"profile": 3}, "no profile 3"),
    ({"probes": "vif"}, "probes is 'vif', expected a list"),
    ({"probes": [3]}, r"probes is \[3\]"),
    ({"probes": ["viff"]}, "no probe 'viff'"),
    ({"skip": "vif"}, "skip is 'vif'"),
    ({"options": [1]}, r"options holds \[1\]"),
    ({"options": {"vif": 3}}, "options holds 3"),
    ({"options": {3: {}}}, "options holds 3"),
    ({"options": {"rank_sweep": {"modality": "imag"}}}, "rank_sweep.modality is 'imag' .*'image'"),
    ({"options": {"growing": {"order": ("image", "vidoe")}}}, "growing.order names 'vidoe'"),
    ({"options": {"prefix_gap": {"budget": float("inf")}}}, "prefix_gap.budget: .*finite"),
    ({"device": None}, "device is None"),
    ({"device": torch.device("cpu")}, "device is device"),
    ({"device": "meta"}, "device 'meta' is not available .*: this machine has cpu"),
    ({"memory": "x"}, "memory is 'x'"),
    ({"memory": float("nan")}, "memory is nan"),
    ({"memory": -1}, "memory is -1"),
    ({"plugins": "x.py"}, "plugins is 'x.py', expected a list of paths"),
    ({"trust_pickle": 3}, "trust_pickle is 3"),
    ({"trust_pickle": "sha256:0"}, "--trust-pickle 'sha256:0' is not of the form"),
    ({"cache": 3}, "cache is int"),
    ({"config": 3}, "config is int"),
    ({"subsets": 1}, "subsets is 1, expected True or False"),
    ({"progress": print}, "progress is builtin_function"),
    ({"checkpoint": nn.Linear(1, 1)}, "checkpoint is Linear, .*give a live module as model="),
    ({"checkpoint": {}}, "checkpoint is dict"),
]


@pytest.mark.parametrize(("given", "words"), ARGUMENTS, ids=lambda v: str(v)[:50])
def test_an_argument_that_cannot_be_meant(made: Path, begun: list[str], given: dict[str, Any], words: str) -> None:
    known = {"checkpoint": made / "ckpt.pt", "config": made / "collapsekit.yaml"}
    with pytest.raises(ConfigError, match=words) as said:
        diagnose(**{**known, **given})
    assert "\n" not in str(said.value)
    shared = ("probes", "skip", "split", "training_seed", "options", "memory", "subsets")
    if not given.keys() & set(shared):
        with pytest.raises(ConfigError, match=words):
            plan(**{**known, **given})
    assert begun == []


REPAIR: list[tuple[dict[str, Any], str]] = [
    ({"modalities": "audio"}, "modalities is 'audio', expected a list"),
    ({"modalities": ["imag"]}, "no modality 'imag' .*'image'"),
    ({"options": {"rtf": {"giver": "vidoe"}}}, "rtf.giver names 'vidoe'"),
    ({"options": {"kd": 3}}, "options holds 3"),
    ({"training": {"rate": float("inf")}}, r"'rate' \(--lr\): .*finite"),
    ({"training": {"batch": 1}}, r"'batch' \(--batch-size\)"),
    ({"training": {"epoch": 1}}, "no training setting 'epoch' .*'epochs'"),
    ({"control": 1}, "control is 1, expected True or False"),
    ({"output": 3}, "output is int"),
    ({"seed": -1}, "seed is -1"),
]


@pytest.mark.parametrize(("given", "words"), REPAIR, ids=lambda v: str(v)[:50])
def test_a_repair_that_cannot_be_meant(
    made: Path, tmp_path: Path, begun: list[str], given: dict[str, Any], words: str
) -> None:
    known = {"checkpoint": made / "ckpt.pt", "config": made / "collapsekit.yaml", "output": tmp_path / "new" / "out"}
    with pytest.raises(ConfigError, match=words):
        repair(**{**known, **given})
    assert begun == []
    assert list(tmp_path.iterdir()) == []


CHANGES: list[tuple[str, str, str]] = [
    ("label: label", "label: lable", "split '(test|train)' of data.safetensors has no 'lable' .*'label'"),
    ("group: patient", "group: patients", "has no 'patients' .*'patient'"),
    ("also: [extra]", "also: [extar]", "has no 'extar' .*'extra'"),
    ("mask: mask", "mask: maks", "has no 'maks' .*'mask'"),
    ("input: audio", "input: audoi", "has no 'audoi' .*'audio'"),
    ("data.safetensors", "none.safetensors", "none.safetensors is not a file"),
    ("data.safetensors", "ckpt.pt", "ckpt.pt has neither|is neither safetensors nor npz|cannot be read as arrays"),
    ("path: data.safetensors", "factory: nowhere:loaders", "data.factory 'nowhere:loaders': there is no module"),
    ("path: data.safetensors", "factory: math:pi", "data.factory 'math:pi' is float"),
    ("{path: data.safetensors, label", "{label", "exactly one of data.path and data.factory"),
    ("tests.problems:Late", "tests.problems:Lat", "model.factory 'tests.problems:Lat': .*'Late'"),
    ("tests.problems:Late", "tests.problems:CHEAP", "is dict, expected a function"),
    (
        '{factory: "tests.problems:Late", kwargs: {widths: {image: 5, audio: 4}, ignored: [audio]}, ',
        "{",
        "no model.factory",
    ),
    ("image: encoders.image, ", "", "names 1 modalities"),
    ("fusion: fusion", "fusion: fusion\ntask: clasification", "task 'clasification' .*'classification'"),
    ("fusion: fusion", "fusion: fusion\nmetric: acuracy", "metric 'acuracy' .*'accuracy'"),
    ("fusion: fusion", "fusion: fusion\nadapter: modul", "no adapter 'modul' .*'module'"),
    ("fusion: fusion", "fusion: fusion\nadapter: nowhere:Mine", "adapter 'nowhere:Mine': there is no module"),
]


@pytest.mark.parametrize(("old", "new", "words"), CHANGES, ids=lambda v: str(v)[:40])
def test_what_a_config_names_that_is_not_there(
    made: Path, tmp_path: Path, begun: list[str], old: str, new: str, words: str
) -> None:
    for name in ("ckpt.pt", "data.safetensors"):
        (tmp_path / name).symlink_to(made / name)
    assert old in CONFIG
    config = tmp_path / "collapsekit.yaml"
    config.write_text(CONFIG.replace(old, new, 1))
    calls: list[Callable[..., object]] = [diagnose, plan]
    for call in calls:
        with pytest.raises(CollapsekitError, match=words) as said:
            call(tmp_path / "ckpt.pt", config=config)
        assert "\n" not in str(said.value)
    assert begun == []


def test_a_repair_needs_its_splits_and_their_arrays(made: Path, tmp_path: Path, begun: list[str]) -> None:
    arrays = load_file(made / "data.safetensors")
    config = tmp_path / "collapsekit.yaml"
    config.write_text(CONFIG)
    save_file({k: v for k, v in arrays.items() if not k.startswith("val/")}, tmp_path / "data.safetensors")
    with pytest.raises(ConfigError, match="no split 'val'"):
        plan(made / "ckpt.pt", config=config)
    save_file({k: v for k, v in arrays.items() if k != "train/label"}, tmp_path / "data.safetensors")
    for call in (plan, diagnose):
        with pytest.raises(CollapsekitError, match=r"split 'train' of data\.safetensors has no 'label'"):
            call(made / "ckpt.pt", config=config)
    assert begun == []
    with pytest.raises(AssertionError, match="read_checkpoint"):  # of which this diagnosis would read nothing
        diagnose(made / "ckpt.pt", config=config, probes=["vif"])


def test_data_in_memory_are_looked_at_too(made: Path, begun: list[str]) -> None:
    rows = {k: torch.zeros(4, 2) for k in ("image", "audio", "mask", "patient", "extra")}
    with pytest.raises(CollapsekitError, match="split 'test' of the data given has no 'label'"):
        diagnose(made / "ckpt.pt", config=made / "collapsekit.yaml", data={"test": rows})
    with pytest.raises(ConfigError, match="the data given has the key 3, expected text"):
        diagnose(made / "ckpt.pt", config=made / "collapsekit.yaml", data={"test": {**rows, 3: rows["mask"]}})
    words = "'image' in split 'test' of the data given is a tensor that is"
    for odd in (rows["image"].to_sparse(), rows["image"].to("meta")):
        with pytest.raises(CollapsekitError, match=words):
            diagnose(made / "ckpt.pt", config=made / "collapsekit.yaml", data={"test": {**rows, "image": odd}})
        with torch.device("cpu"), pytest.raises(DataError, match=words):  # which copies what torch makes a tensor of
            MemorySource({"test": {**rows, "image": odd}})
    assert begun == []


def test_inputs_that_the_disk_has_no_room_for(made: Path, begun: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    config = made / "collapsekit.yaml"
    sizes = {k: v.numel() * v.element_size() for k, v in load_file(made / "data.safetensors").items()}
    asked: list[int] = []
    monkeypatch.setattr("collapsekit.session.checks.check_room", lambda folder, size, what: asked.append(size))
    for memory in (0, 100, sum(sizes.values())):
        with pytest.raises(AssertionError, match="read_checkpoint"):
            diagnose(made / "ckpt.pt", config=config, memory=memory)
    assert asked == [sum(sizes.values()), sum(sizes.values()) - 100]  # every split, as some probes fit
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(ConfigError, match=r"keeping inputs beyond --memory may take .* kB in .*, and 10 B are free"):
        diagnose(made / "ckpt.pt", config=config, memory=0)


def test_a_repair_that_the_disk_has_no_room_for(
    made: Path, tmp_path: Path, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collapsekit.session.opening.read_checkpoint", read_checkpoint)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ConfigError, match=r"the repair may take .* kB in .*out, and 1\.0 kB are free there"):
        repair(made / "ckpt.pt", config=made / "collapsekit.yaml", output=tmp_path / "new" / "out")
    assert begun == []
    assert list(tmp_path.iterdir()) == []


def test_what_a_repair_may_take_is_never_less_than_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest that the folder of a run ever is, over every method."""
    widths = {"image": 6000, "audio": 4000}  # weights that outweigh headers
    largest: dict[Path, int] = {}
    save = Snapshots.save

    def saved(self: Snapshots, *args: Any) -> None:
        save(self, *args)
        size = sum(f.stat().st_size for f in self.folder.iterdir())
        largest[self.folder] = max(largest.get(self.folder, 0), size)

    monkeypatch.setattr(Snapshots, "save", saved)
    for method in REPAIRS:
        job = making.make_job(making.make_model(widths), widths=widths, method=method, epochs=1)
        said = reckon_files(job.adapter.model, job.training, 1)
        making.run(job, tmp_path / method, method=method)
        # Headers, and twice what a method adds to so small a model.
        assert 0 < max(largest.values()) <= said + 100_000, method
        largest.clear()


def test_freezing_what_is_not_there_is_said_of_the_built_model(
    made: Path, tmp_path: Path, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collapsekit.session.opening.read_checkpoint", read_checkpoint)
    for freeze, words in (
        (["encoders.imge"], "--freeze 'encoders.imge' .*'encoders.image'"),
        (["encoders", "fusion", "head"], "nothing is left"),
    ):
        with pytest.raises(ConfigError, match=words):
            repair(
                made / "ckpt.pt", config=made / "collapsekit.yaml", output=tmp_path / "out", training={"freeze": freeze}
            )
    assert begun == []
    assert list(tmp_path.iterdir()) == []
