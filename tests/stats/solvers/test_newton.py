"""Newton's method: no minimum of scipy's is lower, few passes over the features, second derivatives that are right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from collapsekit.errors import NumericsError
from collapsekit.stats import linear
from collapsekit.stats.linear import Linear, fit_cox, fit_sigmoid, fit_softmax, fit_softmaxes
from collapsekit.stats.scores.cox import cox_losses
from collapsekit.stats.solvers.newton import Curvature, FeatureRows, Loss, Newton

N, D, CLASSES, L2 = 90, 7, 3, 1e-3

Fit = Callable[[Tensor], Linear]


def labels(x: Tensor) -> Tensor:
    noise = torch.randn(len(x), CLASSES, generator=torch.Generator().manual_seed(1))
    return (x[:, :CLASSES] + noise).argmax(1)


def design() -> Tensor:
    """Features of very unequal spread that hang together."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=g, dtype=torch.float64)
    return x @ torch.randn(D, D, generator=g, dtype=torch.float64) + x[:, :1] * 3


X = design()
Y = labels(X)
HOT = F.one_hot(Y, CLASSES).double()
SOFT = torch.stack([0.7 * HOT + 0.1, HOT.roll(1, 0) * 0.4], 1)  # two fits, the second of other weight
TIME = (X[:, 1].exp() * 10).ceil()
EVENT = (torch.arange(N) % 3 > 0).double()

# By the docstrings' formulas alone: outputs (n, C) to the loss that is minimised.
FITS: dict[str, tuple[Fit, Callable[[Tensor], Tensor]]] = {
    "softmax": (lambda x: fit_softmax(x, Y, CLASSES, L2), lambda p: F.cross_entropy(p, Y)),
    "softmaxes": (
        lambda x: fit_softmaxes(x, SOFT, L2),
        lambda p: -(SOFT * p.reshape(N, 2, CLASSES).log_softmax(2)).sum() / N,
    ),
    "sigmoid": (
        lambda x: fit_sigmoid(x, HOT, L2),
        lambda p: F.binary_cross_entropy_with_logits(p, HOT, reduction="sum") / N,
    ),
    "cox": (lambda x: fit_cox(x, TIME, EVENT, L2), lambda p: cox_losses(p[:, 0], TIME, EVENT).mean()),
}


def losses_of(monkeypatch: pytest.MonkeyPatch, fit: Fit) -> list[tuple[Loss, int]]:
    """The loss that a fit minimises, and how many outputs it has."""
    seen: list[tuple[Loss, int]] = []
    whole = linear._Design.fit

    def kept(self: linear._Design, loss: Loss, outputs: int, l2: float) -> Linear:
        seen.append((loss, outputs))
        return whole(self, loss, outputs, l2)

    monkeypatch.setattr(linear._Design, "fit", kept)
    fit(X)
    return seen


@pytest.mark.parametrize("name", FITS)
def test_no_minimum_of_scipy_is_lower(name: str) -> None:
    fit, loss = FITS[name]
    ours = fit(X)
    z = (X - ours.mean) / ours.scale
    outputs = len(ours.bias)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        both = torch.from_numpy(flat.reshape(D + 1, outputs)).requires_grad_()
        value = loss(z @ both[:-1] + both[-1]) + L2 / 2 * both[:-1].square().sum()
        (gradient,) = torch.autograd.grad(value, [both])
        return float(value.detach()), gradient.numpy().ravel()

    options = {"maxiter": 20000, "maxfun": 20000, "gtol": 1e-10, "ftol": 0.0}
    theirs = minimize(objective, np.zeros((D + 1) * outputs), jac=True, method="L-BFGS-B", options=options)
    value, gradient = objective(torch.cat([ours.weight, ours.bias[None]]).numpy().ravel())
    assert value <= theirs.fun + 1e-11
    assert float(np.abs(gradient).max()) <= 1e-7


@pytest.mark.parametrize("name", FITS)
def test_second_derivatives_are_those_of_the_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ((loss, outputs),) = losses_of(monkeypatch, FITS[name][0])
    g = torch.Generator().manual_seed(2)
    logits, direction = (torch.randn(outputs, N, generator=g, dtype=torch.float64) for _ in range(2))
    step = 1e-5
    expected = (loss(logits + step * direction)[1] - loss(logits - step * direction)[1]) / (2 * step)
    curvature = loss(logits)[2]
    torch.testing.assert_close(curvature.times(direction), expected, rtol=1e-6, atol=1e-9)
    assert curvature.size().shape == (N,)
    assert bool((curvature.size() >= 0).all())


def test_a_weak_penalty_takes_few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients, and products with second derivatives; a method of first derivatives takes hundreds here."""
    counted = {"gradients": 0, "products": 0}
    whole = Newton._at

    def at(self: Newton, coefficients: Tensor) -> object:
        counted["gradients"] += 1
        here = whole(self, coefficients)
        times = here.curvature.times

        def counting(direction: Tensor) -> Tensor:
            counted["products"] += 1
            return times(direction)

        here.curvature = Curvature(counting, here.curvature.size)
        return here

    monkeypatch.setattr(Newton, "_at", at)
    g = torch.Generator().manual_seed(3)
    x = torch.randn(600, 40, generator=g, dtype=torch.float64) * torch.logspace(-2, 2, 40)
    mixed = x + x @ torch.randn(40, 40, generator=g, dtype=torch.float64)
    assert fit_softmax(mixed, labels(x), CLASSES, 1e-4).gradient <= 1e-7
    assert counted["gradients"] <= 15
    assert counted["products"] <= 150


@pytest.mark.parametrize("weights", [None, torch.rand(70, dtype=torch.float64)])
def test_gram_is_the_product_of_weighted_rows(weights: Tensor | None) -> None:
    rows = FeatureRows.of(torch.randn(70, 300, dtype=torch.float64))  # wider than is multiplied at once
    scaled = rows.z if weights is None else rows.z * weights[:, None]
    torch.testing.assert_close(rows.gram(weights), rows.z.T @ scaled)


def test_a_loss_without_a_minimum_ends() -> None:
    """It falls for ever along a flat direction: what is found is returned, or refused by whoever asked."""

    def falling(logits: Tensor) -> tuple[float, Tensor, Curvature]:
        return (
            float(logits.sum()),
            torch.ones_like(logits),
            Curvature(torch.zeros_like, lambda: torch.zeros(4).double()),
        )

    rows = FeatureRows.of(torch.randn(4, 2, dtype=torch.float64))
    found = Newton(rows, falling, 1e-3).minimise(torch.zeros(1, 3, dtype=torch.float64), 1e-7)
    assert bool(torch.isfinite(found).all())


def test_a_fit_that_does_not_converge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collapsekit.stats.solvers.newton.STEPS", 1)
    with pytest.raises(NumericsError, match="did not converge"):
        fit_softmax(X, Y, CLASSES, 1e-6)


@pytest.mark.parametrize("l2", [1e-12, 1e-4, 1e12])
@pytest.mark.parametrize("kind", ["apart", "one class", "classes missing", "constant columns", "wide"])
def test_extremes_converge(kind: str, l2: float) -> None:
    x, y = X.clone(), Y.clone()
    if kind == "apart":
        y = (x[:, 0] > x[:, 0].median()).long()
    elif kind == "one class":
        y = torch.zeros_like(y)
    elif kind == "classes missing":
        y = 2 * (y > 0).long()
    elif kind == "constant columns":
        x[:, 1], x[:, 2], x[:, 3] = 7.0, x[:, 0], x[:, 0] * 1e12
    else:
        x = x @ torch.randn(D, 3 * N, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    fitted = fit_softmax(x, y, 4, l2)
    assert fitted.gradient <= 1e-7
    assert bool(torch.isfinite(fitted.weight).all())


def test_examples_of_no_weight_count_for_nothing() -> None:
    assert not fit_softmaxes(X, HOT[:, None] * 0, L2).weight.any()
    some = (torch.arange(N) < N // 2).double()[:, None, None]
    fitted = fit_softmaxes(X, HOT[:, None] * some, L2)
    z, first = (X - fitted.mean) / fitted.scale, slice(N // 2)
    errors = fitted.predict(X[first]).softmax(1) - HOT[first]
    assert float((z[first].T @ errors / N + L2 * fitted.weight).abs().max()) <= 1e-7


def test_the_order_of_examples_matters_to_the_tolerance_only() -> None:
    order = torch.randperm(N, generator=torch.Generator().manual_seed(5))
    a, b = fit_softmax(X, Y, CLASSES, L2), fit_softmax(X[order], Y[order], CLASSES, L2)
    torch.testing.assert_close(a.predict(X), b.predict(X), rtol=0, atol=1e-6 / L2)
