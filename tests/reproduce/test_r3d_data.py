"""Sequences for R3D: nothing of what is to come is in what is observed, and targets are what a plain loop finds."""

from __future__ import annotations

import math
import os
from itertools import groupby
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from collapsekit.errors import ConfigError
from collapsekit.reproduce.anticipation.data import (
    LOADERS,
    SPLITS,
    UTKINECT_TOKENS,
    ActionSequences,
    cut_each,
    latest,
    load_utd,
    load_utkinect,
    tokens_at,
)
from tests.reproduce.r3d_files import utd_tensors, utkinect_tensors, write_r3d_files

RATES = (0.2, 0.3, 0.5)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the small files lie."""
    write_r3d_files(tmp_path)
    monkeypatch.setenv("COLLAPSEKIT_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("rate", RATES)
def test_of_a_clip_nothing_after_the_observed_share_is_seen(folder: Path, rate: float) -> None:
    before, data = load_utd(), utd_tensors()
    # Frames lie at k / (frames - 1) of the clip: those recorded later are replaced.
    for name, axis in (("depth", 1), ("skeleton", 2)):
        x = data[name].movedim(axis, 0)
        count = len(x)
        later = torch.tensor([k / (count - 1) > rate + 1e-9 for k in range(count)])
        assert 0 < int(later.sum()) < count
        x[later] = x[later].flip(1)
    save_file(data, folder / "utd_mhad.safetensors")
    after = load_utd()
    for split in SPLITS:
        for name, x in before[split].observed(rate).items():
            assert torch.equal(x, after[split].observed(rate)[name])
            assert not torch.equal(before[split].inputs[name], after[split].inputs[name])
    # And what was recorded by then is all seen: the last frame of it is the last token's.
    last = math.floor(23 * rate + 1e-9)
    rows = data["split"] == 2
    assert torch.equal(
        before["test"].observed(rate)["skeleton"][:, -1], utd_tensors()["skeleton"][rows].movedim(1, 2)[:, last]
    )


@pytest.mark.parametrize("rate", RATES)
def test_of_a_window_nothing_after_the_observed_share_is_seen(folder: Path, rate: float) -> None:
    """The same by hand from the camera's frames: a window is laid out frame by frame, and cut."""
    data, windows = utkinect_tensors(), load_utkinect()["val"]
    clips = [c for c in range(len(data["label"])) if data["split"][c] == 1]
    arms = torch.cat([data["left_arm"], data["right_arm"]], 3)
    row = 0
    for take in (clips[:10], clips[10:]):
        for start in range(7):
            film, labels = [], []
            for c in take[start : start + 4]:
                n = int(data["n_frames"][c])
                film += [arms[c, :, math.floor(31 * k / (n - 1) + 1e-9)] for k in range(n)]
                labels += [int(data["label"][c])] * n
            t = tokens_at(rate, UTKINECT_TOKENS)
            at = [math.floor((j + 1) * len(film) / UTKINECT_TOKENS + 1e-9) - 1 for j in range(t)]
            assert all((k + 1) / len(film) <= rate + 1e-9 for k in at)
            assert torch.equal(windows.observed(rate)["arms"][row], torch.stack([film[k] for k in at]))
            assert windows.labels[row, :t].tolist() == [labels[k] for k in at]
            assert float(windows.frames[row]) == len(film)
            row += 1
    assert row == len(windows)


def test_targets_are_those_of_a_plain_loop(folder: Path) -> None:
    for dataset, queries in (("utd_mhad", 1), ("utkinect", 4), ("utkinect", 2)):
        data = LOADERS[dataset]()["train"]
        for rate in RATES:
            targets, total = data.targets(rate, queries), data.labels.shape[1]
            t = tokens_at(rate, total)
            assert torch.equal(targets.segments, data.labels[:, :t])
            assert torch.equal(torch.cat([targets.segments, targets.future], 1), data.labels)
            for row, labels in enumerate(data.labels.tolist()):
                runs = [(k, len(list(g))) for k, g in groupby(labels[t:])]
                if labels[t - 1] != labels[t]:
                    runs.insert(0, (labels[t - 1], 0))
                runs += [(data.classes, 0)] * queries
                assert targets.actions[row].tolist() == [k for k, _ in runs[:queries]]
                step = float(data.frames[row]) / total
                for query, (k, n) in enumerate(runs[:queries]):
                    wanted = 0.0 if k == data.classes else math.log(step * (n or 0.5))
                    assert float(targets.durations[row, query]) == pytest.approx(wanted, abs=1e-5)


def test_the_latest_frame_is_none_of_a_later_time() -> None:
    times = torch.linspace(0.01, 1, 100, dtype=torch.float64)
    for frames in (2, 6, 24, 32):
        found = latest(times, frames)
        assert bool((found.double() / (frames - 1) <= times + 1e-9).all())
        following = (found.double() + 1) / (frames - 1)
        assert bool(((following > times) | (found == frames - 1)).all())
        assert int(found[-1]) == frames - 1
        assert int(found[0]) == 0


def test_a_cut_image_does_not_tell_where_how_large_or_how_far_the_person_was() -> None:
    """A shape of a checked board, drawn at several places, sizes and depths, comes out the same."""
    generator = torch.Generator().manual_seed(0)
    shape = 0.4 + 0.2 * torch.rand(8, 8, generator=generator)  # a person of 8 by 8 cells
    large = shape.repeat_interleave(4, 0).repeat_interleave(4, 1)
    half = torch.zeros(3, 32, 32)
    half[0, :16, :16] = half[1, 9:25, 4:20] = half[2, 16:, 16:] = shape.repeat_interleave(2, 0).repeat_interleave(2, 1)
    farther = torch.where(half[1] > 0, half[1] + 0.2, 0)
    images = torch.stack([large, *half, farther])
    cut = cut_each(images, 16)
    assert cut.shape == (5, 16, 16)
    for other in cut[2:]:
        assert torch.allclose(other, cut[1], atol=1e-5)
    assert float((cut[0] - cut[1]).abs().mean()) < 0.03, "blurred by the smaller size alone"
    narrow = torch.zeros(1, 32, 32)
    narrow[0, 4:20, 10:14] = 0.7
    out = cut_each(narrow, 16)[0]
    assert torch.nonzero(out.amax(0) > 0.25)[:, 0].tolist() == [6, 7, 8, 9]
    assert float(out[2:14, 7].min()) == pytest.approx(0.5)
    assert float(cut_each(torch.zeros(1, 32, 32), 16).abs().max()) == 0


def test_clips_are_cut_frame_by_frame(folder: Path) -> None:
    data = utd_tensors()
    alone = cut_each(data["depth"][data["split"] == 1][:, 1].float() / 255, 16)
    assert torch.allclose(load_utd()["val"].inputs["depth"][:, 3], alone, atol=1e-6)


def test_tokens_of_a_share_are_counted_without_rounding_up() -> None:
    assert [tokens_at(r, 20) for r in (0.2, 0.3, 0.5, 0.29, 1.0, 0.001)] == [4, 6, 10, 5, 20, 1]


def test_no_person_is_in_two_splits(folder: Path) -> None:
    data = load_utd()
    assert [len(data[s]) for s in SPLITS] == [54, 54, 54]
    assert [len(load_utkinect()[s]) for s in SPLITS] == [28, 14, 14]


def test_rows_are_those_asked_for(folder: Path) -> None:
    data = load_utkinect()["train"]
    part = data.rows(torch.tensor([3, 1]))
    assert isinstance(part, ActionSequences)
    assert torch.equal(part.inputs["arms"], data.inputs["arms"][[3, 1]])
    assert torch.equal(part.labels, data.labels[[3, 1]])
    assert torch.equal(part.frames, data.frames[[3, 1]])


def test_without_the_files_one_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLLAPSEKIT_DATA", raising=False)
    with pytest.raises(
        ConfigError, match=r"utd_mhad\.safetensors is not found, as COLLAPSEKIT_DATA is not set: make it"
    ):
        load_utd()
    monkeypatch.setenv("COLLAPSEKIT_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=r"utkinect_parts\.safetensors is not in .* \(COLLAPSEKIT_DATA\): make it"):
        load_utkinect()


def test_the_real_takes_are_all_in_one_order() -> None:
    """Why what follows can be looked up there, as the example's page says."""
    name = "utkinect_parts.safetensors"
    path = Path(os.environ.get("COLLAPSEKIT_DATA", "")) / name
    if not path.is_file():
        pytest.skip(f"needs {name} in COLLAPSEKIT_DATA")
    data = load_file(path)
    takes = data["subject"] * 10 + data["take"]
    orders = [data["label"][takes == take].tolist() for take in takes.unique()]
    assert sorted(len(o) for o in orders) == [9] + [10] * 19
    assert all(o == sorted(o) for o in orders)
    assert [len(load_utkinect()[s]) for s in SPLITS] == [70, 14, 55]
