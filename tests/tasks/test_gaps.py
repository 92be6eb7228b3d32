"""Regression and multilabel with targets that are not known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

import collapsekit
from collapsekit.errors import DataError
from collapsekit.tasks.make import make_task
from collapsekit.tasks.multilabel import Multilabel
from collapsekit.tasks.regression import Regression


def with_gaps(n: int = 80) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    y = torch.randn(n, 3, generator=g).double()
    whole = y.clone()
    y[torch.rand(n, 3, generator=g) < 0.4] = torch.nan
    y[:, 0] = whole[:, 0]
    return y, whole


def test_what_is_not_known_never_counts() -> None:
    y, whole = with_gaps()
    other = torch.where(y.isnan(), 99.0, whole)
    expected = whole + 0.5
    assert torch.allclose(Regression().loss(expected, y), torch.full((80,), 0.25).double())
    moved = torch.where(y.isnan(), other, expected).requires_grad_()
    assert torch.allclose(Regression().loss(moved, y), torch.full((80,), 0.25).double())
    loss = Regression().training_loss(moved.float(), y)
    assert float(loss) == pytest.approx(0.25, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, [moved])
    assert bool((gradient[y.isnan()] == 0).all())
    assert bool((gradient[~y.isnan()] > 0).all())


def test_the_prior_is_the_best_constant() -> None:
    y, _ = with_gaps()
    task = Regression()

    def loss(values: object) -> float:
        return float(task.loss(torch.tensor(values).expand(80, -1), y).mean())

    found = minimize(loss, torch.zeros(3).double().numpy(), method="BFGS", options={"gtol": 1e-8})
    assert torch.allclose(task.prior(y, 3), torch.tensor(found.x)[None], atol=1e-5)


def test_readouts_are_fitted_on_what_is_known() -> None:
    y, whole = with_gaps()
    y[:, 2] = torch.nan
    natural = Regression().fit_linear(whole, y, 3, 1e-6).predict(whole)
    assert torch.allclose(natural[:, :2], whole[:, :2], atol=1e-3)
    assert torch.allclose(natural[:, 2], torch.zeros(80).double(), atol=1e-9)


def test_what_cannot_be_scored_is_refused() -> None:
    y, whole = with_gaps()
    y[3] = torch.nan
    with pytest.raises(DataError, match="1 of 80 examples of split 'val' have no label but NaN"):
        Regression().check(y, whole, "val")


class Sums(nn.Module):
    """Two encoders whose sum is the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.fuse = nn.Linear(4, 2, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(torch.eye(2))
            self.b.weight.copy_(torch.eye(2))
            self.fuse.weight.copy_(torch.eye(2).repeat(1, 2))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = self.fuse(torch.cat([self.a(a), self.b(b)], 1))
        return out


@pytest.mark.parametrize("metric", [None, "mae"])
def test_a_diagnosis_counts_them_in_a_warning(metric: str | None) -> None:
    g = torch.Generator().manual_seed(0)
    data = {}
    for split, n in (("train", 160), ("val", 80), ("test", 120)):
        a, b = torch.randn(n, 2, generator=g), torch.randn(n, 2, generator=g)
        y = a + b + 0.1 * torch.randn(n, 2, generator=g)
        y[::3, 1] = torch.nan
        data[split] = {"a": a, "b": b, "label": y}
    config = {"modalities": {"a": "a", "b": "b"}, "fusion": "fuse", "task": "regression", "metric": metric}
    report = collapsekit.diagnose(model=Sums(), data=data, config=config, profile="quick")
    assert [w.sentence for w in report.warnings if w.name == "targets_left_out"] == [
        "Split 'test': 40 of 240 target values are NaN: they are left out of losses, metrics, priors and readouts."
    ]
    assert report.verdict == "healthy"
    full = report.find("reliance.full_metric")
    assert full is not None
    assert full.value is not None
    assert full.value > 0.95 if metric is None else -0.1 < full.value < -0.05


def test_an_error_is_told_as_one() -> None:
    task = make_task("regression", metric="mae", temperature=1.0, base=Path())
    y = torch.zeros(4, 1).double()
    assert task.metric_name == "negative MAE"
    assert task.metric(y + 2, y) == -2.0
    assert task.metric_bounds.high == 0.0


def labels_with_gaps(n: int = 120) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities, labels with gaps and the same without, (n, 3); of the first label all are known."""
    g = torch.Generator().manual_seed(0)
    whole = (torch.rand(n, 3, generator=g) < 0.4).double()
    probability = (0.3 + 0.4 * whole + 0.25 * torch.rand(n, 3, generator=g)).double()
    y = whole.clone()
    y[torch.rand(n, 3, generator=g) < 0.4] = torch.nan
    y[:, 0] = whole[:, 0]
    return probability, y, whole


def test_labels_that_are_not_known_never_count() -> None:
    p, y, whole = labels_with_gaps()
    task = Multilabel()
    terms = torch.nn.functional.binary_cross_entropy(p, whole, reduction="none")
    by_hand = torch.stack([row[~of.isnan()].mean() for row, of in zip(terms, y, strict=True)])
    assert torch.allclose(task.loss(p, y), by_hand)
    logits = p.logit().requires_grad_()
    loss = task.training_loss(logits, y)
    assert float(loss) == pytest.approx(float(by_hand.mean()))
    (gradient,) = torch.autograd.grad(loss, [logits])
    assert bool((gradient[y.isnan()] == 0).all())
    assert bool((gradient[~y.isnan()] != 0).all())


def test_the_prior_of_labels_is_the_best_constant() -> None:
    _, y, _ = labels_with_gaps(4000)  # so many that the two pseudo-examples of the prior hardly count
    task = Multilabel()

    def loss(values: object) -> float:
        return float(task.loss(torch.tensor(values).sigmoid().expand(4000, -1), y).mean())

    found = minimize(loss, torch.zeros(3).double().numpy(), method="BFGS", options={"gtol": 1e-8})
    assert torch.allclose(task.prior(y, 3), torch.tensor(found.x).sigmoid()[None], atol=1e-3)


@pytest.mark.parametrize("metric", ["macro_auroc", "macro_average_precision", "macro_f1"])
def test_a_metric_of_labels_is_a_mean_over_those_that_are_known(metric: str) -> None:
    p, y, _ = labels_with_gaps()
    task = Multilabel(metric)
    rows = [~column.isnan() for column in y.T]
    each = [task.metric(p[known, i : i + 1], y[known, i : i + 1]) for i, known in enumerate(rows)]
    assert task.metric(p, y) == pytest.approx(sum(each) / 3)
    assert task.metric_left_out(p, y, torch.arange(120) % 4) is None
    y[:, 1] = torch.where(y[:, 1].isnan(), y[:, 1], 1.0)  # one class only
    if metric != "macro_f1":
        assert task.metric(p, y) == pytest.approx((each[0] + each[2]) / 2)


def test_a_micro_average_pools_what_is_known() -> None:
    p, y, _ = labels_with_gaps()
    task, known = Multilabel("micro_average_precision"), ~y.isnan()
    assert task.metric(p, y) == pytest.approx(task.metric(p[known][:, None], y[known][:, None]))


def test_readouts_of_labels_are_fitted_on_what_is_known() -> None:
    p, y, whole = labels_with_gaps()
    task = Multilabel()
    fitted, full = (task.fit_linear(p, of, 3, 1e-2).predict(p) for of in (y, whole))
    assert torch.allclose(fitted[:, 0], full[:, 0], atol=1e-5)
    known = ~y[:, 1].isnan()
    alone = task.fit_linear(p[known], y[known, 1:2], 1, 1e-2).predict(p)
    assert torch.allclose(fitted[:, 1:2], alone, atol=1e-9)


def test_effective_counts_are_of_known_labels() -> None:
    y = torch.tensor([[1.0, torch.nan], [0.0, 1.0], [0.0, 0.0], [torch.nan, 0.0], [0.0, 0.0]]).double()
    assert Multilabel().effective_count(y) == pytest.approx(2 / (1 / 1 + 1 / 1))


def test_labels_that_are_neither_are_refused_with_what_they_are() -> None:
    p, y, _ = labels_with_gaps()
    y[2, 0] = -1
    with pytest.raises(
        DataError, match="are not all 0 or 1, but -1: multilabel needs 0/1 labels, and NaN where one is not known"
    ):
        Multilabel().check(y, p, "val")
    y[2] = torch.nan
    with pytest.raises(DataError, match="1 of 120 examples of split 'val' have no label but NaN"):
        Multilabel().check(y, p, "val")


def test_a_diagnosis_of_labels_leaves_gaps_out() -> None:
    g = torch.Generator().manual_seed(0)
    data = {}
    for split, n in (("train", 200), ("val", 80), ("test", 120)):
        a, b = torch.randn(n, 2, generator=g), torch.randn(n, 2, generator=g)
        y = (a + b > 0).float()
        y[::3, 1] = torch.nan
        data[split] = {"a": a, "b": b, "label": y}
    config = {"modalities": {"a": "a", "b": "b"}, "fusion": "fuse", "task": "multilabel"}
    report = collapsekit.diagnose(model=Sums(), data=data, config=config, profile="quick")
    assert [w.sentence for w in report.warnings if w.name == "targets_left_out"] == [
        "Split 'test': 40 of 240 target values are NaN: they are left out of losses, metrics, priors and readouts."
    ]
    assert report.verdict == "healthy"
    assert not [r.name for r in report.results if r.error is not None]
