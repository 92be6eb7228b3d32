"""Snapshots: what is written comes back bit for bit, and what is not ours is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit.errors import CollapsekitError, ConfigError, NumericsError, RefusedError
from collapsekit.repairs.training import loop
from collapsekit.repairs.training.job import Step
from collapsekit.repairs.training.snapshots import Snapshots, optimizer_state, put_back, restore_optimizer, state_of
from tests.repairs.making import differing, kept_in, make_job, make_model, plain_loss, plain_stage, run, state


class Mixed(nn.Module):
    """Tied weights, two precisions, integers, a scalar, an empty tensor, a transposed view."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.low = nn.Linear(3, 3), nn.Linear(3, 2).bfloat16()
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.one.weight
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("table", torch.arange(5))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("scalar", torch.tensor(2.5, dtype=torch.float64))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("view", torch.randn(4, 3).T)
        self.register_buffer("odd", torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45]))

    def forward(self, x: Tensor) -> Tensor:
        return self.low(self.tied(self.norm(self.one(x))).bfloat16()).float()


def bits(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Dtype, shape and bytes: NaN is itself, and -0 is not 0."""
    return {
        k: (v.dtype, tuple(v.shape), v.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for k, v in tensors.items()
    }


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(6, 3, generator=g)).square().mean().backward()
        optimizer.step()


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.1)


def test_weights_and_optimiser_come_back(tmp_path: Path) -> None:
    """Training goes on as if it had never stopped: from a file, in another model, with another optimiser."""
    model = Mixed()
    optimizer = adam(model)
    steps(model, optimizer, 3, 0)
    kept = kept_in(tmp_path)
    about = {"epoch": 3, "total": 0.1 + 0.2, "history": [[0, None, 1 / 3]], "what": "Grüße"}
    kept.save(0, state_of(model), about)
    kept.save(1, optimizer_state(optimizer), {})
    other = Mixed()
    assert differing(state_of(model), state_of(other))
    (weights, told), (moments, _) = kept.load(0), kept.load(1)
    assert told == about
    assert bits(weights) == bits(state_of(model))
    assert bits(moments) == bits(optimizer_state(optimizer))
    again = adam(other)
    put_back(other, weights)
    restore_optimizer(again, moments)
    assert bits(state_of(other)) == bits(state_of(model))
    assert other.tied.weight is other.one.weight
    steps(model, optimizer, 3, 1)
    steps(other, again, 3, 1)
    assert bits(state_of(other)) == bits(state_of(model))
    assert bits(optimizer_state(again)) == bits(optimizer_state(optimizer))


def test_a_state_is_a_copy() -> None:
    model = Mixed()
    optimizer = adam(model)
    steps(model, optimizer, 1, 0)
    weights, moments = state_of(model), optimizer_state(optimizer)
    before = bits(weights), bits(moments)
    steps(model, optimizer, 2, 1)
    assert (bits(weights), bits(moments)) == before
    restore_optimizer(optimizer, moments)
    put_back(model, weights)
    steps(model, optimizer, 2, 1)  # nor does what was put back share memory with it
    assert (bits(weights), bits(moments)) == before


def test_optimiser_without_a_step_is_restored_to_none(tmp_path: Path) -> None:
    model = Mixed()
    twin = copy.deepcopy(model)
    optimizer, fresh = adam(model), adam(twin)
    empty, weights = optimizer_state(optimizer), state_of(model)
    steps(model, optimizer, 2, 0)
    put_back(model, weights)
    restore_optimizer(optimizer, empty)
    steps(model, optimizer, 2, 3)
    steps(twin, fresh, 2, 3)
    assert bits(state_of(model)) == bits(state_of(twin))


def test_a_folder_without_snapshots_holds_none_until_one_is_saved(tmp_path: Path) -> None:
    kept = kept_in(tmp_path)
    assert kept.load(0) is None
    kept.save(0, {}, {})
    assert kept.load(0) == ({}, {})
    assert kept.load(1) is None


def test_another_identity_is_refused(tmp_path: Path) -> None:
    Snapshots(tmp_path, {"base": "a", "data": "b", "seed": 0, "training": {"rate": 0.1}}).save(0, {}, {})
    same = Snapshots(tmp_path, {"training": {"rate": 0.1}, "seed": 0, "base": "a", "data": "b"})
    assert same.load(0) is not None
    other = Snapshots(tmp_path, {"base": "a", "data": "c", "seed": 0, "training": {"rate": 0.2}, "more": 1})
    with pytest.raises(ConfigError, match=r"stage0\.safetensors is of another repair \(data, more, training differ\)"):
        other.load(0)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Snapshots, Path, bytes]:
    kept = Snapshots(tmp_path, {"seed": 0})
    kept.save(0, {"now/weight": torch.arange(6.0), "now/count": torch.arange(3)}, {"epoch": 1})
    return kept, kept.paths(0)[0], kept.paths(0)[0].read_bytes()


def test_truncated_files_are_refused(written: tuple[Snapshots, Path, bytes]) -> None:
    kept, path, content = written
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(RefusedError, match=r"stage0\.safetensors is not a snapshot that can be read"):
            kept.load(0)


def test_a_changed_bit_is_refused_or_changes_nothing(written: tuple[Snapshots, Path, bytes]) -> None:
    """Wherever it is: in the header, in the numbers, or in what is said of them. Blanks of the header are no content."""
    kept, path, content = written
    expected = kept.load(0)
    assert expected is not None
    refused = 0
    for place in range(len(content)):
        for bit in (1 << place % 8, 1 << (place + 5) % 8):
            path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            try:
                found = kept.load(0)
            except CollapsekitError:
                refused += 1
            else:
                assert found is not None
                assert (bits(found[0]), found[1]) == (bits(expected[0]), expected[1])
    assert refused > 1.9 * len(content)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00" * 64, b"\xff" * 64, b"PK\x03\x04"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    kept = Snapshots(tmp_path, {})
    kept.paths(0)[0].write_bytes(content)
    with pytest.raises(RefusedError):
        kept.load(0)


def test_clear_leaves_nothing_of_ours(tmp_path: Path) -> None:
    """Files of a clearing that was interrupted, which begin anywhere, and of killed writes go too."""
    kept = Snapshots(tmp_path / "here", {})
    kept.clear()  # where nothing is
    for stage in (1, 3, 12):
        kept.save(stage, {"now/a": torch.ones(2)}, {})
    (kept.folder / ".stage3.safetensors.0123456789abcdef").write_bytes(b"half")
    kept.clear()
    assert not kept.folder.exists()


def test_clear_leaves_what_is_not_ours(tmp_path: Path) -> None:
    kept = Snapshots(tmp_path, {})
    kept.save(0, {}, {})
    others = {"notes.txt", "stage.safetensors", "stage0.safetensors.bak", "my-stage0.safetensors", ".stage0"}
    for name in others:
        (tmp_path / name).write_text("x")
    kept.clear()
    assert {f.name for f in tmp_path.iterdir()} == others


def test_nothing_but_snapshots_is_written(tmp_path: Path) -> None:
    job = make_job()
    run(job, tmp_path)
    names = sorted(f.name for f in (tmp_path / "snapshots").iterdir())
    assert names == ["stage0.safetensors", "stage0b.safetensors"]  # the last two
    tensors, about = kept_in(tmp_path).load(0)
    assert about["done"]
    assert tensors.keys() == {f"now/{k}" for k in state(job)}  # once done, neither the optimiser nor a best epoch


@pytest.mark.parametrize("every", [1, 200])
def test_interrupted_at_any_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    """Ctrl-C in the k-th batch, for each k, and on: the same losses, weights and epochs. On the way the loss is NaN
    once, after which the rate is halved for good."""
    monkeypatch.setattr(loop, "ROUND", every)

    def attempt(folder: Path, failed: list[int], stop: int | None) -> Any:
        job, calls = make_job(make_model(lively=True), patience=2), 0
        good = plain_loss(job)

        def loss(step: Step) -> Tensor:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise KeyboardInterrupt
            if step.epoch == 2 and not failed:
                failed.append(calls)
                return good(step) * float("nan")
            return good(step)

        seen = job.adapter.model.encoders["audio"][1].num_batches_tracked

        def held() -> float:
            return job.held_loss() + abs(int(seen) - 6)  # least after the second epoch of three steps

        (curve,) = run(job, folder, [plain_stage(job, loss=loss, held=held)])
        return curve, state(job), calls

    curve, expected, calls = attempt(tmp_path / "whole", [], None)
    assert calls >= 10
    assert curve.note is not None
    assert (curve.kept, curve.epochs[-1]) == (2, 4)  # so that the best weights have to come back too
    for stop in range(1, calls + 1):
        folder, failed = tmp_path / str(stop), list[int]()
        with pytest.raises(KeyboardInterrupt):
            attempt(folder, failed, stop)
        again, found, _ = attempt(folder, failed, None)
        assert again == curve
        assert differing(found, expected) == set()


def test_a_finished_stage_is_not_trained_again(tmp_path: Path) -> None:
    first = make_job(make_model(lively=True))
    curves = run(first, tmp_path)
    again = make_job(make_model(lively=True))

    def never(_: Any) -> Tensor:
        raise AssertionError("it was trained again")

    found = run(again, tmp_path, [plain_stage(again, name="fine-tuning", loss=never, held=lambda: never(None))])
    assert found == curves
    assert differing(state(again), state(first)) == set()
    assert not any(m.training for m in again.adapter.model.modules())


def test_an_error_leaves_a_snapshot_that_can_be_read(tmp_path: Path) -> None:
    job = make_job()
    good = plain_loss(job)
    bad = plain_stage(job, loss=lambda step: good(step) * (float("nan") if step.epoch == 2 else 1))
    for _ in range(2):  # going on from it ends the same way
        with pytest.raises(NumericsError, match=r"in epoch 2"):
            run(job, tmp_path, [bad])
        assert kept_in(tmp_path).load(0)[1]["epoch"] == 1
