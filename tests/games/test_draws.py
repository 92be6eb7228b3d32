"""Means over draws without each group, against means that never had it, and how sure their scores are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from collapsekit.games import draws
from collapsekit.games.draws import MeanOverDraws, score, score_draws
from collapsekit.interventions.marginal import marginal_samples
from collapsekit.tasks.classification import Classification
from collapsekit.tasks.regression import Regression


def examples(n: int, targets: Tensor, groups: int = 8) -> Any:
    return SimpleNamespace(targets=targets, groups=torch.arange(n) % groups, outputs=targets, categories=())


@pytest.mark.parametrize("kept", [1 << 22, 8 * 3 * 10])
def test_without_a_group_it_is_the_mean_over_the_draws_that_are_left(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draws, "KEPT", kept)
    n, features = 40, examples(40, torch.zeros(40))
    donors = marginal_samples(n, 12, 0)
    said = torch.randn(n, n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = MeanOverDraws(features, donors)
    for k, other in enumerate(donors):
        mean.add(k, said[torch.arange(n), other])
    rows, groups, others = mean.without_groups()
    assert int(rows.max()) + 1 == min(n, kept // 24)
    assert len(rows) == int((features.groups[: int(rows.max()) + 1, None] != torch.arange(8)).sum())
    for i, g, found in zip(rows.tolist(), groups.tolist(), others, strict=True):
        left = [said[i, int(d[i])] for d in donors if int(d[i]) % 8 != g]
        torch.testing.assert_close(found, torch.stack(left).mean(0), rtol=1e-12, atol=1e-12)


def test_where_all_draws_are_of_the_group_none_is_left_out() -> None:
    features = examples(16, torch.linspace(0, 1, 16)[:, None])
    mean = MeanOverDraws(features, marginal_samples(16, 1, 0))
    said = torch.arange(16.0)[:, None]
    mean.add(0, said)
    rows, _, others = mean.without_groups()
    assert torch.equal(others, said[rows].double())
    found = score_draws(Regression(), features, mean)
    torch.testing.assert_close(found.loss, score(Regression(), features, mean.value).loss, rtol=1e-12, atol=0)


@pytest.mark.parametrize("lender", [0.0, 1.0])
def test_who_lends_counts_as_far_as_it_makes_a_difference(lender: float) -> None:
    """400 sets of 96 examples, whose scores depend on themselves and on who lent them the rest. The jackknife's variance of
    loss and accuracy is theirs, with either part; without the lenders it is too small."""
    g, n, task = torch.Generator().manual_seed(1), 96, Classification()
    values: dict[str, list[Tensor]] = {"loss": [], "metric": [], "loss of scored": [], "metric of scored": []}
    for seed in range(400):
        own, lent = torch.randn(2, n, generator=g, dtype=torch.float64)
        features = examples(n, torch.zeros(n, dtype=torch.long), groups=16)
        donors = marginal_samples(n, 16, seed)
        mean = MeanOverDraws(features, donors)
        for k, other in enumerate(donors):
            noise = 0.5 * torch.randn(n, generator=g, dtype=torch.float64)
            logit = 0.5 * own + 3 * lender * lent[other] + noise
            mean.add(k, torch.stack([logit.sigmoid(), 1 - logit.sigmoid()], 1))
        ours, scored = score_draws(task, features, mean), score(task, features, mean.value)
        for name, value in (("loss", ours), ("loss of scored", scored)):
            values[name].append(value.loss)
            values[name.replace("loss", "metric")].append(value.metric)
    ratio = {}
    for name, found in values.items():
        x = torch.stack(found)
        spread = 15 / 16 * (x[:, 1:] - x[:, 1:].mean(1, keepdim=True)).square().sum(1)
        ratio[name] = float((spread.mean() / x[:, 0].var()).sqrt())
    for name in ("loss", "metric"):
        assert 0.88 < ratio[name] < 1.15, ratio
        if lender:
            assert ratio[f"{name} of scored"] < 0.75, ratio
