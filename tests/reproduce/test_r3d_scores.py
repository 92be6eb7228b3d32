"""What R3D's answers are worth: against scikit-learn and plain loops."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from collapsekit.reproduce.anticipation.data import UTKINECT_TOKENS, Targets, load_utkinect
from collapsekit.reproduce.anticipation.scores import (
    NOISES,
    RATES,
    follow,
    guesses_of,
    lay_out,
    order_of,
    scored,
    scores_of_order,
    scores_of_r3d,
    share_right,
    token_rank,
)
from collapsekit.reproduce.anticipation.training import make_r3d
from collapsekit.reproduce.models.r3d import Anticipated, ExchangedShare, R3DSize
from tests.reproduce.r3d_files import write_r3d_files

NONE = 10


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_r3d_files(tmp_path)
    monkeypatch.setenv("COLLAPSEKIT_DATA", str(tmp_path))


def test_the_share_that_is_right_is_scikit_learn_s_mean_over_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = (9 * torch.rand(200, generator=generator).square()).long()  # of unequal frequencies
    guessed = torch.where(
        torch.rand(200, generator=generator) < 0.5, truth, torch.randint(0, 9, (200,), generator=generator)
    )
    assert share_right(guessed, truth, NONE) == pytest.approx(balanced_accuracy_score(truth, guessed), abs=1e-12)
    assert share_right(torch.full((200,), NONE), truth, NONE) == 0


def test_actions_are_laid_out_for_their_share_of_the_time() -> None:
    actions = torch.tensor([[3, 4, 5, NONE], [7, NONE, 5, 6], [1, 2, NONE, NONE]])
    durations = torch.tensor([[1.0, 2.0, 1.0, 9.0], [5.0, 9.0, 9.0, 9.0], [3.0, 1.0, 9.0, 9.0]]).log()
    laid = lay_out((actions, durations), NONE, 8)
    assert laid.tolist() == [[3, 3, 4, 4, 4, 4, 5, 5], [7] * 8, [1] * 6 + [2] * 2]


def test_what_is_true_is_worth_one_and_its_durations_no_error() -> None:
    data = load_utkinect()["test"]
    for rate in RATES:
        targets = data.targets(rate, 4)
        worth = scored((targets.actions, targets.durations), targets, data.classes, "")
        assert worth["current"] == worth["next"] == 1
        assert worth["duration"] == 0
        assert worth["future"] > 0.95  # an action that has just ended keeps half a token
        longer = scored((targets.actions, targets.durations + math.log(2)), targets, data.classes, "")
        assert longer["duration"] == pytest.approx(math.log(2))
        assert longer["future"] == worth["future"]


def test_what_follows_is_asked_of_sequences_where_something_does() -> None:
    actions = torch.tensor([[0, 1], [1, NONE], [2, 3], [0, 1]])
    targets = Targets(torch.zeros(4, 1).long(), actions, torch.zeros(4, 2), torch.zeros(4, 3).long())
    guesses = torch.tensor([[0, 1], [1, 2], [2, 3], [0, 2]])
    worth = scored((guesses, torch.zeros(4, 2)), targets, NONE, "")
    assert worth["next"] == pytest.approx((0.5 + 1) / 2)
    assert worth["current"] == 1


def test_the_first_query_always_has_an_action() -> None:
    actions = torch.zeros(1, 2, NONE + 1)
    actions[:, :, NONE], actions[:, :, 4] = 9, 1
    read, _ = guesses_of(Anticipated(torch.zeros(1, 1, NONE), actions, torch.zeros(1, 2)))
    assert read.tolist() == [[4, NONE]]


def test_the_order_is_what_mostly_followed_in_training() -> None:
    splits = load_utkinect()
    train = splits["train"]
    actions, durations = order_of(train, 0.3, 4)
    targets = train.targets(0.3, 4)
    for c in range(NONE):
        rows = [r for r in range(len(train)) if int(targets.actions[r, 0]) == c]
        if not rows:
            assert actions[c].tolist() == [c, NONE, NONE, NONE]
            continue
        kinds = [tuple(targets.actions[r].tolist()) for r in rows]
        most = max(kinds.count(k) for k in kinds)
        assert tuple(actions[c].tolist()) in {k for k in kinds if kinds.count(k) == most}
        alike = [r for r, k in zip(rows, kinds, strict=True) if k == tuple(actions[c].tolist())]
        assert torch.allclose(durations[c], torch.stack([targets.durations[r] for r in alike]).mean(0), atol=1e-6)
    looked_up, _ = follow((actions, durations), torch.tensor([2, 0]))
    assert torch.equal(looked_up, actions[[2, 0]])
    worth = scores_of_order(train, splits["test"], 4)
    # All is in one order, so the next action is known; it is "none" where training mostly ended there.
    assert all(worth[f"next@{rate}"] > 0.8 for rate in RATES)
    assert not [name for name in worth if name.startswith("current")]


def test_a_network_s_scores_do_not_change_with_row_order_but_for_the_noise() -> None:
    splits = load_utkinect()
    torch.manual_seed(0)
    model = make_r3d(splits["train"], R3DSize(10, 4, width=16, heads=2, steps=UTKINECT_TOKENS), ExchangedShare(0.3))
    data = splits["test"]
    scores = scores_of_r3d(model, splits["train"], data, 0)
    turned = scores_of_r3d(model, splits["train"], data.rows(torch.arange(len(data)).flip(0)), 0)
    assert scores.keys() == turned.keys()
    for name, value in scores.items():
        assert math.isfinite(value), name
        if "+" not in name:
            assert turned[name] == pytest.approx(value, rel=1e-4), name
    expected = {f"{k}@0.3+{level} {m}" for k in ("current", "next", "future") for level in NOISES for m in data.inputs}
    assert {k for k in scores if "+" in k and "duration" not in k} == expected
    assert scores["rank_after"] != scores["rank_before"]
    assert scores["alpha"] == pytest.approx(0.3, abs=1e-6)


def test_ranks_are_of_all_tokens_centred() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 5, 4, generator=generator) * torch.tensor([1.0, 2.0, 3.0, 0.1]) + 7
    rows = x.reshape(45, 4).double()
    sigma = torch.linalg.svdvals(rows - rows.mean(0))
    p = sigma / sigma.sum()
    assert token_rank(x) == pytest.approx(float((-(p * p.log()).sum()).exp()), rel=1e-6)
