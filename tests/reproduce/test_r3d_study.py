"""Figure 5's study on small files: alike for a seed, resumed where it stopped, each seed beside its controls."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from collapsekit.errors import ConfigError
from collapsekit.reproduce.anticipation import study as r3d
from collapsekit.reproduce.anticipation.data import load_utd
from collapsekit.reproduce.anticipation.study import (
    ORDER_ONLY,
    R3DOutcome,
    figure5,
    mean_interval,
    plan_of,
    read_outcomes,
    runs,
    summarise_r3d,
    train_one,
)
from collapsekit.reproduce.anticipation.training import R3DTraining, ask, varied
from collapsekit.reproduce.models.r3d import ExchangedShare
from tests.reproduce.r3d_files import write_r3d_files


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_r3d_files(tmp_path)
    monkeypatch.setenv("COLLAPSEKIT_DATA", str(tmp_path))


def scores(outcomes: list[R3DOutcome]) -> list[tuple[str, float, str, int, dict[str, float]]]:
    """Outcomes but for the time that they took."""
    return [(o.dataset, o.proportion, o.channels, o.epoch, o.scores) for o in outcomes]


def test_a_quick_run_is_alike_for_a_seed_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lines = tmp_path / "outcomes.jsonl", []
    first = figure5(quick=True, datasets=["utkinect"], path=path, say=lines.append)
    assert [(o.dataset, o.proportion, o.channels) for o in first] == [
        ("utkinect", proportion, channels)
        for proportion, channels in (
            (0.0, ORDER_ONLY),
            (0.0, "none"),
            (0.3, "weakest"),
            (0.3, "random"),
            (0.3, "strongest"),
        )
    ]
    assert len(lines) == len(first)
    written = path.read_text()
    assert len(written.splitlines()) == len(first)

    # A line that was cut off is made again; whole ones are read.
    path.write_text(written[: len(written) - 40])
    trained = []
    original = train_one
    monkeypatch.setattr(r3d, "train_one", lambda *a, **k: trained.append(a[1:3]) or original(*a, **k))
    assert scores(figure5(quick=True, datasets=["utkinect"], path=path)) == scores(first)
    assert trained == [("utkinect", ExchangedShare(0.3, "strongest", seed=0))]
    assert len(path.read_text().splitlines()) == len(first)

    path.write_text("none of it\n")
    with pytest.raises(ConfigError, match="line 1 was expected to be an outcome"):
        figure5(quick=True, datasets=["utkinect"], path=path)


def test_outcomes_of_another_training_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "outcomes.jsonl"
    before = plan_of("utkinect", quick=True)
    assert before != plan_of("utkinect", quick=False)
    monkeypatch.setitem(r3d.TRAINING, "utkinect", R3DTraining(batch=16, rate=1e-3))
    assert plan_of("utkinect", quick=True) != before
    outcome = R3DOutcome("utkinect", 0.0, "none", 0, before, 1, 1.0, {"current@0.3": 2.0})
    path.write_text(json.dumps(outcome.__dict__) + "\n")
    assert list(read_outcomes(path)) == [("utkinect", 0.0, "none", 0, before)]
    found = figure5((0.0,), (0,), datasets=["utkinect"], quick=True, path=path)
    assert found[1].channels == "none"
    assert found[1].scores["current@0.3"] <= 1


def test_networks_of_a_seed_differ_in_the_exchange_alone() -> None:
    splits = load_utd()
    one, other, third = (
        train_one(splits, "utd_mhad", ExchangedShare(p), s, quick=True).model for p, s in ((0.0, 0), (0.0, 0), (0.0, 1))
    )
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not torch.equal(ask(one, splits["test"], 0.3).actions, ask(third, splits["test"], 0.3).actions)


def test_what_was_said_does_not_depend_on_what_is_to_come() -> None:
    """All clips' tokens after the observed share are replaced: the network's answers stay the same, bit by bit."""
    splits = load_utd()
    model, data = train_one(splits, "utd_mhad", ExchangedShare(0.3), 0, quick=True).model, splits["test"]
    before = ask(model, data, 0.3)
    for x in data.inputs.values():
        x[:, 6:] = torch.randn_like(x[:, 6:])
    for said, again in zip(before, ask(model, data, 0.3), strict=True):
        assert torch.equal(said, again)
    assert not torch.equal(before.actions, ask(model, data, 0.5).actions)


def test_every_seed_is_run_whole_before_the_next() -> None:
    listed = runs((0.0, 0.1, 0.3), (4, 5))
    assert listed[0] == (0.0, ORDER_ONLY, 0)
    assert [s for *_, s in listed[1:]] == [4] * 6 + [5] * 6
    assert listed[1:7] == [
        (0.0, "none", 4),
        (0.1, "weakest", 4),
        (0.1, "random", 4),
        (0.3, "weakest", 4),
        (0.3, "random", 4),
        (0.3, "strongest", 4),
    ]


def test_means_intervals_and_paired_differences_are_those_of_scipy() -> None:
    generator = np.random.default_rng(0)
    values = {k: generator.normal(size=5) for k in ((0.0, "none"), (0.1, "weakest"), (0.1, "random"))}
    outcomes = [
        R3DOutcome("d", p, channels, seed, "", 1, 0.0, {"x": float(v)})
        for (p, channels), row in values.items()
        for seed, v in enumerate(row)
    ]
    means = {(m.proportion, m.channels): m for m in summarise_r3d(outcomes)}
    plain, weak, drawn = (values[k] for k in values)
    for key, row in values.items():
        low, high = stats.t.interval(0.95, 4, row.mean(), stats.sem(row))
        assert means[key].interval == pytest.approx((low, high))
        assert means[key].mean == pytest.approx(row.mean())
    found = means[0.1, "weakest"]
    for mean, interval, difference in (
        (found.gain, found.gain_interval, weak - plain),
        (found.over_random, found.over_random_interval, weak - drawn),
    ):
        assert mean == pytest.approx(difference.mean())
        assert interval == pytest.approx(stats.t.interval(0.95, 4, difference.mean(), stats.sem(difference)))
    assert means[0.0, "none"].gain is None
    assert means[0.1, "random"].over_random is None
    assert means[0.1, "random"].gain == pytest.approx((drawn - plain).mean())
    assert mean_interval([]) == (None, None)
    assert mean_interval([2.0]) == (2.0, None)


def test_intervals_of_shares_stay_within_them_and_others_do_not() -> None:
    outcomes = [
        R3DOutcome("d", 0.0, "none", seed, "", 1, 0.0, {"next@0.3": x, "rank_after": x})
        for seed, x in enumerate((0.2, 0.9))
    ]
    share, rank = summarise_r3d(outcomes)
    assert share.interval == (0.0, 1.0)
    assert rank.interval is not None
    assert rank.interval[0] < 0 < 1 < rank.interval[1]
    assert share.mean == rank.mean == pytest.approx(0.55)


def test_training_sequences_are_turned_moved_and_stretched_as_a_whole() -> None:
    torch.manual_seed(0)
    joints = torch.randn(8, 5, 3, 4)
    turned = varied(joints, R3DTraining(turn=0.7, stretch=0.0))
    assert torch.allclose(turned[:, :, 1], joints[:, :, 1])
    gram = (x.movedim(2, 3).flatten(1, 2) @ x.movedim(2, 3).flatten(1, 2).mT for x in (joints, turned))
    before, after = gram
    assert torch.allclose(before, after, atol=1e-4), "a turn changed lengths or angles"
    assert not torch.allclose(turned, joints)
    stretched = varied(joints, R3DTraining(turn=0.0, stretch=0.1)) / joints
    assert torch.allclose(stretched, stretched[:, :1, :1, :1].expand_as(stretched), atol=1e-4)
    assert 0.9 <= float(stretched.min()) < float(stretched.max()) <= 1.1
    images = torch.rand(8, 5, 12, 12) + 1
    moved = varied(images, R3DTraining(shift=2))
    for before, after in zip(images, moved, strict=True):
        places = [
            (a, b)
            for a in range(-2, 3)
            for b in range(-2, 3)
            if torch.equal(torch.nn.functional.pad(before, (2, 2, 2, 2))[:, 2 + a : 14 + a, 2 + b : 14 + b], after)
        ]
        assert len(places) == 1, "an image of a sequence went another way"
    assert not torch.equal(moved, images)
    assert math.isclose(float(varied(images, R3DTraining(shift=0)).sum()), float(images.sum()))
