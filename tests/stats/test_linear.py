"""Linear fits against scikit-learn under the stated mapping of the penalty."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from collapsekit.errors import NumericsError
from collapsekit.stats.linear import fit_ridge, fit_sigmoid, fit_softmax, fit_softmaxes

SHAPES = [(200, 6), (40, 70)]


def data(n: int, d: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated features in unlike units, and labels they tell in part."""
    g = torch.Generator().manual_seed(n + d + classes)
    x = torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g) * torch.logspace(-2, 2, d) + 10
    y = (torch.arange(n) % classes)[torch.randperm(n, generator=g)]
    x[:, 0] += 0.02 * y
    return x, y


def standard(x: torch.Tensor) -> np.ndarray:
    return np.asarray(StandardScaler().fit_transform(x.double().numpy()))


@pytest.mark.parametrize("l2", [1e-3, 1.0])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_softmax_equals_scikit_learn(n: int, d: int, classes: int, l2: float) -> None:
    x, y = data(n, d, classes)
    ours = fit_softmax(x, y, classes, l2)
    c = (2 if classes == 2 else 1) / (l2 * n)
    theirs = LogisticRegression(C=c, solver="newton-cg", tol=1e-10, max_iter=20000)
    reference = theirs.fit(standard(x), y.numpy()).predict_proba(standard(x))
    p = ours.predict(x).softmax(dim=1)
    np.testing.assert_allclose(p, reference, atol=1e-5)
    cross_entropy = -float(p[torch.arange(n), y].log().mean())
    assert cross_entropy == pytest.approx(-np.log(reference[np.arange(n), y.numpy()]).mean(), abs=1e-6)
    assert ours.gradient <= 1e-7


def test_softmaxes_side_by_side_are_each_a_softmax() -> None:
    x, y = data(60, 4, 3)
    other = (y + (x[:, 0] > 10).long()) % 3
    hot = torch.nn.functional.one_hot(torch.stack([y, other], 1), 3).double()
    both = fit_softmaxes(x, hot * torch.tensor([0.25, 0.75])[None, :, None], 1e-2)
    for place, (labels, weight) in enumerate(((y, 0.25), (other, 0.75))):
        alone = fit_softmax(x, labels, 3, 1e-2 / weight)
        np.testing.assert_allclose(
            both.predict(x).reshape(-1, 2, 3)[:, place].softmax(1), alone.predict(x).softmax(1), atol=1e-5
        )
    soft = fit_softmaxes(x, hot.mean(1, keepdim=True), 1e-2)  # a label half of one class, half of another: both rows
    twice = fit_softmax(torch.cat([x, x]), torch.cat([y, other]), 3, 1e-2)
    np.testing.assert_allclose(soft.predict(x).softmax(1), twice.predict(x).softmax(1), atol=1e-5)
    with pytest.raises(NumericsError, match="weights"):
        fit_softmaxes(x, -hot, 1e-2)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_sigmoid_equals_scikit_learn_a_column(n: int, d: int) -> None:
    x, y = data(n, d, 4)
    targets = torch.stack([y == 0, y >= 2], dim=1).float()
    ours = fit_sigmoid(x, targets, 1e-2)
    for c in range(2):
        theirs = LogisticRegression(C=1 / (1e-2 * n), solver="newton-cg", tol=1e-10, max_iter=20000)
        theirs.fit(standard(x), targets[:, c].numpy())
        np.testing.assert_allclose(ours.predict(x)[:, c], theirs.decision_function(standard(x)), atol=1e-4)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_ridge_equals_scikit_learn(n: int, d: int) -> None:
    x, y = data(n, d, 4)
    targets = torch.stack([y.double(), x[:, 1].double() + y], dim=1)
    ours = fit_ridge(x, targets, 1e-2)
    theirs = Ridge(alpha=1e-2 * n).fit(standard(x), targets.numpy())
    np.testing.assert_allclose(ours.predict(x), theirs.predict(standard(x)), rtol=1e-8)
    np.testing.assert_allclose(ours.weight.T, theirs.coef_, rtol=1e-6, atol=1e-8)
    assert ours.gradient < 1e-10


@pytest.mark.parametrize("l2", [1e-3, 1.0])
def test_the_gradient_of_the_stated_objective_vanishes(l2: float) -> None:
    """By autograd, from the docstring's formula alone."""
    x, y = data(60, 9, 3)
    z = (x.double() - x.double().mean(dim=0)) / x.double().std(dim=0, correction=0)
    hot = torch.nn.functional.one_hot(y, 3).double()
    fits = {
        "softmax": (fit_softmax(x, y, 3, l2), lambda p: torch.nn.functional.cross_entropy(p, y)),
        "sigmoid": (
            fit_sigmoid(x, hot, l2),
            lambda p: torch.nn.functional.binary_cross_entropy_with_logits(p, hot, reduction="sum") / 60,
        ),
        "ridge": (fit_ridge(x, hot, l2), lambda p: 0.5 * (p - hot).square().sum() / 60),
    }
    for name, (fit, loss) in fits.items():
        w, b = fit.weight.clone().requires_grad_(), fit.bias.clone().requires_grad_()
        (loss(z @ w + b) + 0.5 * l2 * w.square().sum()).backward()
        assert w.grad is not None
        assert b.grad is not None
        reached = max(float(w.grad.abs().max()), float(b.grad.abs().max()))
        assert reached <= 1.01e-7, name
        assert reached == pytest.approx(fit.gradient, abs=1e-12)


def test_units_do_not_matter_and_constant_columns_count_for_nothing() -> None:
    x, y = data(100, 5, 3)
    # A relative deviation of 5e-11, below what counts as varying, though it is 50 in absolute terms.
    wide = torch.cat([x.double() * 1e5 - 3, 1e12 + 50 * torch.randn(100, 1, dtype=torch.float64)], dim=1)
    a, b = fit_softmax(x, y, 3, 1e-2), fit_softmax(wide, y, 3, 1e-2)
    torch.testing.assert_close(a.predict(x), b.predict(wide), rtol=0, atol=1e-5)
    assert float(b.weight[5].abs().max()) < 1e-12
    assert float(b.scale[5]) == 1.0
    changed = wide.clone()
    changed[:, 5] += 1e6
    torch.testing.assert_close(b.predict(changed), b.predict(wide), rtol=0, atol=1e-9)


def test_fits_are_deterministic_and_classes_may_be_renamed() -> None:
    x, y = data(80, 6, 3)
    first, second = fit_softmax(x, y, 3, 1e-2), fit_softmax(x, y, 3, 1e-2)
    assert torch.equal(first.weight, second.weight)
    renamed = fit_softmax(x, (y + 1) % 3, 3, 1e-2)
    torch.testing.assert_close(renamed.weight[:, [1, 2, 0]], first.weight, rtol=0, atol=1e-5)


def test_separable_data_and_absent_classes_stay_finite() -> None:
    x = torch.cat([torch.randn(30, 2) - 50, torch.randn(30, 2) + 50])
    y = torch.arange(60) // 30
    fit = fit_softmax(x, y, 4, 1e-4)
    assert bool(torch.isfinite(fit.predict(x)).all())
    assert bool((fit.predict(x).argmax(dim=1) == y).all())
    assert float(fit.predict(x).softmax(dim=1)[:, 2:].max()) < 1e-4
    assert bool(torch.isfinite(fit_sigmoid(x, torch.ones(60, 1), 1e-4).bias).all())
    assert fit_softmax(torch.ones(60, 2), y, 2, 1e-4).predict(torch.ones(1, 2)).tolist() == [[0.0, 0.0]]


def test_input_without_a_fit_is_refused() -> None:
    x, y = data(30, 4, 3)
    for call in (
        lambda: fit_softmax(x, y, 3, 0.0),
        lambda: fit_softmax(x, y, 3, float("inf")),
        lambda: fit_softmax(x, y, 2, 1e-3),
        lambda: fit_softmax(x, y - 1, 3, 1e-3),
        lambda: fit_softmax(x, y[1:], 3, 1e-3),
        lambda: fit_softmax(x, y.float(), 3, 1e-3),
        lambda: fit_softmax(x * float("nan"), y, 3, 1e-3),
        lambda: fit_softmax(x[:1], y[:1], 3, 1e-3),
        lambda: fit_sigmoid(x, y[:, None].float(), 1e-3),
        lambda: fit_sigmoid(x, torch.ones(30), 1e-3),
        lambda: fit_ridge(x, torch.ones(29, 1), 1e-3),
        lambda: fit_ridge(x, torch.full((30, 1), float("inf")), 1e-3),
        lambda: fit_ridge(x, torch.ones(30, 1), 1e-3).predict(x[:, 1:]),
        lambda: fit_ridge(x * 1e-5, x[:, :1], 1e-3).predict(x.double() * 1e305),
    ):
        with pytest.raises(NumericsError):
            call()
