"""Cox's partial likelihood, Harrell's index and the linear Cox model, against plain definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.linear import fit_cox
from collapsekit.stats.scores.cox import concordance_index, concordance_left_out, concordance_tables, cox_losses

G = torch.Generator().manual_seed(0)


def subjects(n: int, ties: int = 1000) -> tuple[Tensor, Tensor, Tensor]:
    time = (torch.rand(n, generator=G).double() * ties).ceil()
    return torch.randn(n, generator=G).double(), time, (torch.rand(n, generator=G) < 0.6).double()


def by_definition(eta: Tensor, time: Tensor, event: Tensor) -> float:
    """Minus the log partial likelihood less that of equal risks, plus events, by loops over events."""
    total = 0.0
    for i in range(len(eta)):
        if event[i]:
            at_risk = eta[time >= time[i]]
            total -= float(eta[i]) - math.log(float(at_risk.exp().mean())) - 1
    return total


@pytest.mark.parametrize("ties", [1000, 6])
def test_the_sum_is_the_partial_likelihood(ties: int) -> None:
    eta, time, event = subjects(70, ties)
    assert float(cox_losses(eta, time, event).sum()) == pytest.approx(by_definition(eta, time, event), abs=1e-9)
    assert torch.allclose(cox_losses(eta + 300, time, event), cox_losses(eta, time, event), atol=1e-9)
    assert torch.allclose(cox_losses(torch.zeros_like(eta), time, event), event, atol=1e-12)
    order = torch.randperm(70, generator=G)
    moved = cox_losses(eta[order], time[order], event[order])
    assert torch.allclose(moved, cox_losses(eta, time, event)[order], atol=1e-9)


def test_the_gradient_is_that_of_the_partial_likelihood() -> None:
    eta, time, event = subjects(30, 10)
    eta.requires_grad_()
    (gradient,) = torch.autograd.grad(cox_losses(eta, time, event).sum(), [eta])
    for i in range(30):
        step = torch.zeros(30).double()
        step[i] = 1e-5
        with torch.no_grad():
            up, down = (by_definition(eta + s, time, event) for s in (step, -step))
        assert float(gradient[i]) == pytest.approx((up - down) / 2e-5, abs=1e-6)


def test_leaving_a_part_out_is_leaving_the_subject_out_to_first_order() -> None:
    """A naive part, an event's own term alone, misses what subjects do in the risk sets of others."""
    eta, time, event = subjects(800)
    parts = cox_losses(eta, time, event)
    at_risk = torch.stack([eta[time >= t].exp().mean().log() for t in time])
    naive = event * (1 + at_risk - eta)
    ours, theirs = [], []
    for i in range(0, 800, 16):
        keep = torch.arange(800) != i
        change = float(parts.sum() - cox_losses(eta[keep], time[keep], event[keep]).sum())
        ours.append(abs(change - float(parts[i])))
        theirs.append(abs(change - float(naive[i])))
    assert max(ours) < 0.1
    assert np.mean(ours) < 0.05 * np.mean(theirs)


def test_extreme_risks_stay_finite() -> None:
    eta, time, event = subjects(40)
    assert bool(torch.isfinite(cox_losses(1e4 * eta, time, event)).all())
    assert bool(torch.isfinite(cox_losses((1e4 * eta).float(), time, event)).all())


def index_by_pairs(eta: Tensor, time: Tensor, event: Tensor) -> float:
    right = pairs = 0.0
    for i in range(len(eta)):
        for j in range(len(eta)):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                pairs += 1
                right += 1.0 if eta[i] > eta[j] else 0.5 if eta[i] == eta[j] else 0.0
    return right / pairs


@pytest.mark.parametrize("ties", [1000, 8])
def test_the_concordance_index_is_that_of_all_pairs(ties: int) -> None:
    eta, time, event = subjects(60, ties)
    eta = eta.round(decimals=1)  # some risks are equal
    groups = torch.arange(60) % 5
    tables = concordance_tables(eta, time, event, groups)
    assert concordance_index(*tables) == pytest.approx(index_by_pairs(eta, time, event), abs=1e-12)
    truth = [index_by_pairs(eta, time, event)]
    truth += [index_by_pairs(eta[keep], time[keep], event[keep]) for keep in (groups != g for g in range(5))]
    assert concordance_left_out(*tables).tolist() == pytest.approx(truth, abs=1e-12)
    with pytest.raises(NumericsError, match="comparable"):
        concordance_index(*concordance_tables(eta, time, event * 0, groups))


def test_the_linear_model_is_the_best_there_is() -> None:
    n, l2 = 120, 0.05
    x = torch.randn(n, 3, generator=G).double() * torch.tensor([1.0, 10.0, 0.1])
    time = (
        torch.rand(n, generator=G).double().log() / -(x @ torch.tensor([1.0, 0.05, 0.0]).double()).exp() * 20
    ).ceil()
    event = (torch.rand(n, generator=G) < 0.7).double()
    z = (x - x.mean(0)) / x.std(0, correction=0)

    def objective(w: np.ndarray) -> float:
        weights = torch.from_numpy(w)
        return by_definition(z @ weights, time, event) / n + l2 / 2 * float(weights.square().sum())

    truth = minimize(objective, np.zeros(3), method="BFGS", options={"gtol": 1e-8})
    fitted = fit_cox(x, time, event, l2)
    assert fitted.weight[:, 0].tolist() == pytest.approx(truth.x.tolist(), abs=1e-4)
    assert abs(float(fitted.bias[0])) < 1e-12
    with pytest.raises(NumericsError, match="one event at least"):
        fit_cox(x, time, event * 0, l2)
