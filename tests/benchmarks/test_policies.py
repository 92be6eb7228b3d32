"""Planted policies: what is recorded, what counts as the truth, how verdicts are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.policies.models import KINDS, build, config_of
from benchmarks.policies.subjects import Subject, exchange, list_subjects, measure_costs, truths
from benchmarks.policies.table import count_changes, pairs, table
from benchmarks.policies.worlds import (
    ACTION,
    CHUNK,
    EPISODES,
    STATE,
    STEPS,
    TASK,
    TOP,
    WORLDS,
    WRIST,
    record,
    split_ranges,
)
from collapsekit.config.load import check_config


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_is_recorded_from_its_seed(name: str) -> None:
    world = WORLDS[name]
    frames, again, other = record(world, 0), record(world, 0), record(world, 1)
    count = sum(EPISODES.values()) * STEPS
    assert all(len(v) == count for v in frames.values())
    assert set(world.inputs) <= frames.keys()
    assert all(np.array_equal(frames[k], again[k]) for k in frames)
    assert not np.array_equal(frames[ACTION], other[ACTION])
    assert frames[ACTION].shape == (count, world.width)


def test_splits_are_all_episodes_once() -> None:
    ranges = [tuple(map(int, text.split(":"))) for text in split_ranges().values()]
    assert [n for low, high in ranges for n in range(low, high)] == list(range(sum(EPISODES.values())))


def test_subjects_differ_and_two_backbones_have_two_cameras() -> None:
    subjects = list_subjects(2)
    assert len({s.name for s in subjects}) == len(subjects) >= 40
    assert not [s for s in subjects if "two" in s.kind and WRIST not in WORLDS[s.world].inputs]
    for subject in subjects:
        assert check_config(config_of(WORLDS[subject.world], subject.kind), base=Path()).modalities


class ByState(torch.nn.Module):
    """A policy that answers what the state says."""

    world, kind = WORLDS["leak"], "act"

    def forward(self, batch: Any) -> torch.Tensor:
        return batch[STATE][:, None].expand(-1, CHUNK, -1)


def test_costs_are_of_what_a_policy_follows() -> None:
    state = torch.randn(200, 2)
    data = {TOP: torch.zeros(200, 1, 12, 12), STATE: state, ACTION: state[:, None].expand(-1, CHUNK, -1)}
    costs = measure_costs(ByState(), data, 0)  # type: ignore[arg-type]
    assert costs == {TOP: 0.0, STATE: 1.0}
    assert truths(Subject("leak", "act", "plain", 0), costs) == {TOP: "ignored", STATE: "used"}


def test_what_is_neither_has_no_truth() -> None:
    between = {TOP: 0.05, WRIST: 0.05, STATE: 0.01}
    assert truths(Subject("camera", "act", "plain", 0), between) == {TOP: None, WRIST: None, STATE: "nothing"}
    assert set(truths(Subject("reach", "act", "untrained", 0), between).values()) == {"untrained"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_answers_chunks_and_can_be_trained(kind: str) -> None:
    batch = {TOP: torch.rand(3, 3, 12, 12), STATE: torch.randn(3, 2), TASK: ["pick up the red cup"] * 3}
    policy = build("language", kind)
    assert policy(batch).shape == (3, CHUNK, 1)
    policy.loss({**batch, ACTION: torch.randn(3, CHUNK, 1)}).backward()  # type: ignore[no-untyped-call]
    order = torch.tensor([1, 2, 0])
    assert torch.equal(exchange(batch, [STATE], order)[STATE], batch[STATE][order])


@pytest.mark.parametrize("kind", ["flow", "diffusion"])
def test_other_noise_is_drawn_under_the_same_seed(kind: str) -> None:
    batch = {TOP: torch.rand(3, 3, 12, 12), STATE: torch.randn(3, 2), TASK: ["pick up the red cup"] * 3}
    made = []
    for noise in (0, 0, 1):
        torch.manual_seed(0)
        policy = build(**config_of(WORLDS["language"], kind, noise)["model"]["kwargs"])
        torch.manual_seed(1)
        made.append(policy(batch))
    assert torch.equal(made[0], made[1])
    assert not torch.allclose(made[0], made[2])


def _record(training: str, verdict: str, truth: str | None, seed: int = 0, noise: int = 0) -> dict[str, Any]:
    about = {"world": "leak", "kind": "flow", "training": training, "seed": 0, "diagnosis_seed": seed, "noise": noise}
    return {**about, "truth": {TOP: truth}, "verdicts": {TOP: verdict}}


def test_verdicts_are_counted_by_the_truth() -> None:
    records = [
        _record("plain", "used", "used"),
        _record("black", "collapsed", "ignored"),
        _record("other", "inconclusive", "ignored"),
        _record("neither", "collapsed", None),
        _record("wrong", "underused", "used"),
        _record("untrained", "used", "untrained"),
        _record("plain", "used", "used", seed=1),
        _record("black", "inconclusive", "ignored", seed=1),
        _record("plain", "collapsed", "used", noise=1),
    ]
    assert pairs(records[3]) == []
    assert table(records).splitlines()[-5] == "| all |  | 6 | 3 of 4 | 2 of 3 | 1 | 1 |"
    assert count_changes(records, "diagnosis_seed") == (1, 2)
    assert count_changes(records, "noise") == (1, 1)
    assert "Other noise changes 1 of 1 verdicts." in table(records)
    assert table(records).endswith("Another seed of the whole diagnosis changes 1 of 2 verdicts.")
