"""Snapshots that were damaged, swapped or made with other code: gone back from, or refused; never other weights."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from collapsekit.context import Progress
from collapsekit.errors import CollapsekitError, ConfigError, RefusedError
from collapsekit.repairs.training import loop
from collapsekit.repairs.training.behaviour import Behaviour, behaviour_of
from collapsekit.repairs.training.snapshots import Snapshots
from tests.repairs.making import chain, differing, make_job, make_model, plain_loss, plain_stage

NAMES = ("stage0.safetensors", "stage0b.safetensors")


def numbered(path: Path) -> int:
    with safe_open(str(path), framework="pt") as file:
        return int(file.metadata()["number"])


def stop_in(monkeypatch: pytest.MonkeyPatch, save: int) -> None:
    """Ctrl-C right before that save of a stage."""
    kept, saves = Snapshots.save, [0]

    def saving(self: Snapshots, stage: int, *given: Any) -> None:
        saves[0] += 1
        if saves[0] == save:
            raise KeyboardInterrupt
        kept(self, stage, *given)

    monkeypatch.setattr(Snapshots, "save", saving)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """What an interrupted fine-tuning left, and the weights of one that nothing interrupts."""
    place = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "ROUND", 2)
        whole = chain(place / "whole", ["finetune"])
        stop_in(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            chain(place / "left", ["finetune"])
    assert sorted(p.name for p in (place / "left" / "finetune").iterdir()) == sorted(NAMES)
    return place / "left", whole


class Noting(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Tensor], list[str]]:
    """The weights that going on ends in, and what was said on the way."""
    said: list[str] = []
    real = Snapshots.__init__

    def noting(self: Snapshots, folder: Path, identity: Any, behaviour: Any = None, note: Any = None) -> None:
        real(self, folder, identity, behaviour, said.append)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "ROUND", 2)
        patch.setattr(Snapshots, "__init__", noting)
        return chain(folder, ["finetune"]), said


def flip(path: Path, at: float, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1 << bit
    path.write_bytes(content)


def truncate(path: Path, to: float) -> None:
    path.write_bytes(path.read_bytes()[: int(to * path.stat().st_size)])


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_another_stage(path: Path) -> None:
    other = Snapshots(path.parent, {"method": "finetune"})
    other.save(1, {"now/a": torch.ones(2)}, {"done": True})
    other.paths(1)[0].replace(path)


def of_another_repair(path: Path) -> None:
    Snapshots(path.parent / "else", {"method": "kd"}).save(0, {"now/a": torch.ones(2)}, {"done": True})
    (path.parent / "else" / NAMES[0]).replace(path)
    (path.parent / "else").rmdir()


def of_an_earlier_version(path: Path) -> None:
    with safe_open(str(path), framework="pt") as file:
        tensors = {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118 - not a mapping
        metadata = {k: file.metadata()[k] for k in ("about", "identity")}
    save_file(tensors, str(path), metadata)


def renumbered(path: Path) -> None:
    """Higher than all that come, under the digest it had."""
    with safe_open(str(path), framework="pt") as file:
        tensors = {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118 - not a mapping
        metadata = {**file.metadata(), "number": "1000"}
    save_file(tensors, str(path), metadata)


def pipe_instead(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def looped(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


DRAW = random.Random(5)
DAMAGES: dict[str, Callable[[Path], None]] = {
    **{
        f"flipped at {at:.4f}": lambda path, at=at, bit=bit: flip(path, at, bit)
        for at, bit in ((DRAW.random(), DRAW.randrange(8)) for _ in range(12))
    },
    "flipped in the first byte": lambda path: flip(path, 0.0),
    "flipped in the last byte": lambda path: flip(path, 1 - 1e-9, 7),
    **{f"truncated to {to}": lambda path, to=to: truncate(path, to) for to in (0.0, 0.001, 0.5, 0.99)},
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)) and None,
    "text": lambda path: path.write_text("not a snapshot") and None,
    "more at its end": lambda path: path.write_bytes(path.read_bytes() + b"x") and None,
    "a folder": folder_instead,
    "a pipe": pipe_instead,
    "a link to itself": looped,
    "another stage's": of_another_stage,
    "another repair's": of_another_repair,
    "an earlier version's": of_an_earlier_version,
    "another number": renumbered,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_other_one_is_gone_back_to(
    damage: str, stopped: tuple[Path, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, whole = stopped
    shutil.copytree(left, tmp_path / "left")
    kept = tmp_path / "left" / "finetune"
    newest, older = sorted((kept / name for name in NAMES), key=numbered, reverse=True)
    DAMAGES[damage](newest)
    if damage in ("a folder", "a pipe", "a link to itself"):  # which no file takes the place of
        with pytest.raises(ConfigError, match="cannot be written"):
            go_on(tmp_path / "left", monkeypatch)
    else:
        found, said = go_on(tmp_path / "left", monkeypatch)
        assert differing(found, whole) == set()
        if damage != "another repair's":
            (note,) = said
            assert note.startswith(f"{newest} is damaged (")
            assert f"going on from the other one that was kept, {older.name}" in note
    shutil.rmtree(tmp_path / "left")
    shutil.copytree(left, tmp_path / "left")
    for path in (newest, older):
        DAMAGES[damage](path)
    with pytest.raises(CollapsekitError, match="anew with --force") as caught:
        go_on(tmp_path / "left", monkeypatch)
    assert caught.value.exit_code == (2 if damage == "another repair's" else 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("which", [0, 1])
def test_either_of_two_snapshots_ends_in_the_same_bits(
    which: int, stopped: tuple[Path, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As training that was never interrupted."""
    left, whole = stopped
    shutil.copytree(left, tmp_path / "left")
    (tmp_path / "left" / "finetune" / NAMES[which]).unlink()
    found, said = go_on(tmp_path / "left", monkeypatch)
    assert differing(found, whole) == set()
    assert said == []


def test_one_that_may_not_be_read_is_gone_back_from(
    stopped: tuple[Path, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, whole = stopped
    shutil.copytree(left, tmp_path / "left")
    newest = max((tmp_path / "left" / "finetune" / name for name in NAMES), key=numbered)
    from collapsekit.repairs.training import snapshots

    real = snapshots.safe_open

    def refusing(path: str, **more: Any) -> Any:
        if path == str(newest) and not newest.samefile(newest.with_name("again")):
            raise PermissionError(13, "Permission denied", path)
        return real(path, **more)

    (newest.with_name("again")).touch()
    monkeypatch.setattr(snapshots, "safe_open", refusing)
    found, (note,) = go_on(tmp_path / "left", monkeypatch)
    assert differing(found, whole) == set()
    assert note.startswith(f"{newest} is damaged (Permission denied)")


def test_two_of_each_stage_are_kept_and_the_newer_never_written(tmp_path: Path) -> None:
    kept = Snapshots(tmp_path, {})
    for number in range(1, 6):
        kept.save(0, {"now/a": torch.full((2,), float(number))}, {"epoch": number})
        assert max(map(numbered, (p for p in kept.paths(0) if p.exists()))) == number
        again = Snapshots(tmp_path, {})
        assert again.load(0)[1] == {"epoch": number}
    fresh = Snapshots(tmp_path, {})
    fresh.save(0, {}, {"epoch": 6})  # without looking first
    assert sorted(map(numbered, kept.paths(0))) == [5, 6]


# -- what the model answered -------------------------------------------------------------------------------------------


def snapshots_of(folder: Path, model: nn.Module, note: Callable[[str], None] = print) -> Snapshots:
    return Snapshots(folder, {"same": True}, behaviour_of(make_job(model)), note)


def other_activation(model: nn.Module) -> None:
    model.fusion = nn.Sequential(*(nn.ReLU() if isinstance(m, nn.Tanh) else m for m in model.fusion))


def scaled_a_little(model: nn.Module) -> None:
    real = model.forward
    model.forward = lambda **x: real(**x) * 1.001


def more_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3


def detached(model: nn.Module) -> None:
    model.encoders["audio"].register_forward_hook(lambda _module, _given, out: out.detach())


def frozen_norm(model: nn.Module) -> None:
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.train = lambda _mode=True, module=module: module


CHANGES: dict[str, tuple[Callable[[nn.Module], None], str]] = {
    "other activation": (other_activation, "outputs were"),
    "scaled a little": (scaled_a_little, "outputs were"),
    "more dropout": (more_dropout, "outputs in training were"),
    "detached": (detached, "gradients were"),
    "a norm that stays": (frozen_norm, "outputs in training were"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_answers_otherwise_is_refused(change: str, tmp_path: Path) -> None:
    """With the same weights, data and settings."""
    snapshots_of(tmp_path, make_model(lively=True)).save(0, {}, {})
    assert snapshots_of(tmp_path, make_model(lively=True)).load(0) == ({}, {})
    model = make_model(lively=True)
    do, said = CHANGES[change]
    do(model)
    with pytest.raises(
        ConfigError, match=f"made with a model whose {said} up to .* put the model's code back"
    ) as caught:
        snapshots_of(tmp_path, model).load(0)
    assert "\n" not in str(caught.value)


def test_asking_changes_nothing() -> None:
    job = make_job(make_model(lively=True))
    before = {k: v.clone() for k, v in job.adapter.model.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = behaviour_of(job)
    assert torch.equal(torch.rand(3), expected)
    assert differing(before, job.adapter.model.state_dict()) == set()
    assert not any(m.training for m in job.adapter.model.modules())
    assert all(p.grad is None for p in job.adapter.model.parameters())
    again = behaviour_of(job)
    assert all(torch.equal(first.tensors[k], again.tensors[k]) for k in first.tensors)
    assert set(first.tensors) == {"outputs", "outputs in training", "gradients"}


def test_threads_do_not_matter() -> None:
    job = make_job(make_model(lively=True))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(behaviour_of(job))
    finally:
        torch.set_num_threads(threads)
    assert found[0].differs(found[1]) is None


def test_another_device_is_said_and_compared_less_closely(tmp_path: Path) -> None:
    here = behaviour_of(make_job())
    near = {k: v * 1.001 if k == "outputs" else v + 1 for k, v in here.tensors.items()}
    there = Behaviour("cuda", "float32", near)
    notes: list[str] = []
    Snapshots(tmp_path, {}, there).save(0, {}, {})
    assert Snapshots(tmp_path, {}, here, notes.append).load(0) == ({}, {})
    assert notes == ["stage0.safetensors was made on cuda: going on on cpu changes the weights by rounding."]
    far = Behaviour("cuda", "float64", {k: v * 1.5 for k, v in here.tensors.items()})
    Snapshots(tmp_path / "far", {}, far).save(0, {}, {})
    with pytest.raises(ConfigError, match=r"\(then float64 on cuda, now float32 on cpu\)"):
        Snapshots(tmp_path / "far", {}, here).load(0)


def test_answers_are_no_part_of_what_is_loaded(tmp_path: Path) -> None:
    kept = snapshots_of(tmp_path, make_model())
    kept.save(0, {"now/a": torch.ones(2)}, {"epoch": 1})
    found = kept.load(0)
    assert found is not None
    assert set(found[0]) == {"now/a"}
    flip(kept.paths(0)[0], 0.9)
    with pytest.raises(RefusedError):
        kept.load(0)


def test_training_goes_on_with_answers_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop, with snapshots as a repair makes them."""

    def trained(folder: Path) -> nn.Module:
        job = make_job()
        loop.train(
            [plain_stage(job, loss=plain_loss(job))], job, "finetune", snapshots_of(folder, make_model()), Progress()
        )
        return job.adapter.model

    whole = trained(tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_in(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "left")
    assert differing(trained(tmp_path / "left").state_dict(), whole.state_dict()) == set()
