"""Linear models fitted to convergence: softmax, sigmoid and ridge on standardised features."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import finite, matrix
from collapsekit.stats.linalg.moments import Moments
from collapsekit.stats.scores.cox import RiskSets
from collapsekit.stats.threads import threads_for

_Array = NDArray[np.float64]
_Loss = Callable[[Tensor], tuple[float, Tensor]]  # logits (n, C) -> mean loss, its gradient by logits

_GRADIENT_TOL = 1e-7  # aimed at
_GRADIENT_MAX = 1e-4  # refused above
_AIM: ContextVar[float] = ContextVar("gradient aimed at", default=_GRADIENT_TOL)


@contextmanager
def fitted_roughly(gradient: float) -> Iterator[None]:
    """Fit to a larger gradient meanwhile, at most 1e-4, where models are only compared.

    Args:
        gradient: the largest absolute entry of the objective's gradient that is aimed at.

    Yields:
        Nothing; fits aim at 1e-7 again afterwards.
    """
    token = _AIM.set(min(_GRADIENT_MAX, max(_GRADIENT_TOL, gradient)))
    try:
        yield
    finally:
        _AIM.reset(token)


@dataclass(frozen=True, eq=False)
class Linear:
    """A fitted linear model, ``(x - mean) / scale @ weight + bias``, in float64.

    ``weight`` is (d, C), ``bias`` (C,), ``mean`` and ``scale`` (d,); ``gradient`` is the largest absolute entry of the
    objective's gradient at the solution.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor
    gradient: float = 0.0

    def predict(self, x: Tensor) -> Tensor:
        """Compute logits or predictions (n, C), float64, for ``x`` (n, d). Raises NumericsError for another width."""
        x = matrix(x, "the features").cpu()
        if x.shape[1] != self.mean.shape[0]:
            raise NumericsError(
                f"the linear model was fitted on {self.mean.shape[0]} features, found {x.shape[1]}: "
                "predict from the same layer."
            )
        return finite((x - self.mean) / self.scale @ self.weight + self.bias, "the predictions")


def fit_softmax(x: Tensor, y: Tensor, classes: int, l2: float) -> Linear:
    """Fit a multinomial logistic regression to convergence.

    Minimises mean cross-entropy (nats) + l2/2·|W|² over features standardised by their training mean and deviation
    (constant ones count for nothing); the bias is free. Every class has its own column, two classes too. A class without
    examples only gets a very negative bias. L-BFGS from zero to a gradient of 1e-7; ``gradient`` says what was reached.
    Equals ``sklearn.linear_model.LogisticRegression`` on standardised features with C = 1/(l2·n) for three
    classes or more, and C = 2/(l2·n) for two, where scikit-learn penalises the difference of the two columns.

    Args:
        x: (n, d), features.
        y: (n,), class numbers in 0..classes-1.
        classes: how many classes there are, C; at least 2.
        l2: the penalty's weight, above 0.

    Returns:
        The model, with weight (d, C).

    Raises:
        NumericsError: where shapes or labels do not fit, and where the gradient stays above 1e-4.
    """
    design = _Design.of(x, l2)
    n = design.n
    if y.shape != (n,) or y.is_floating_point() or classes < 2:
        raise NumericsError(
            f"a softmax fit needs {n} class numbers and 2 or more classes, found shape {tuple(y.shape)} "
            f"({y.dtype}) and {classes} classes: pass one label an example."
        )
    labels = y.detach().cpu().numpy().astype(np.int64)
    if labels.min() < 0 or labels.max() >= classes:
        raise NumericsError(
            f"labels must lie in 0..{classes - 1}, found {labels.min()}..{labels.max()}: "
            "number the classes from 0, or give a larger number of classes."
        )
    rows, wanted = torch.arange(n), torch.from_numpy(labels)

    def loss(logits: Tensor) -> tuple[float, Tensor]:
        log_p = logits.log_softmax(1)
        gradient = log_p.exp()
        gradient[rows, wanted] -= 1.0
        return -float(log_p[rows, wanted].mean()), gradient / n

    return design.fit(loss, classes, curvature=(1 - 1 / classes) / classes)


def fit_softmaxes(x: Tensor, y: Tensor, l2: float) -> Linear:
    """Fit several multinomial logistic regressions to soft labels, side by side.

    Minimises the mean over examples of the cross-entropies (nats) to ``y``, summed over the S regressions, + l2/2·|W|²;
    otherwise as :func:`fit_softmax`, which it equals for S = 1 and labels that are 0 or 1.

    Args:
        x: (n, d), features.
        y: (n, S, C), weights of classes, at least 0; what they sum to is the weight of a regression's label.
        l2: the penalty's weight, above 0.

    Returns:
        The model, with weight (d, S · C).

    Raises:
        NumericsError: where shapes or labels do not fit, and where the gradient stays above 1e-4.
    """
    design = _Design.of(x, l2)
    if y.ndim != 3 or y.shape[0] != design.n or y.shape[2] < 2 or bool((y < 0).any()):
        raise NumericsError(
            f"softmax fits need weights (n, fits, classes) from 0 on, of {design.n} examples and 2 or more classes, found "
            f"shape {tuple(y.shape)}: pass one row an example."
        )
    wanted, shape = y.detach().cpu().double(), y.shape
    total = wanted.sum(2, keepdim=True)

    def loss(logits: Tensor) -> tuple[float, Tensor]:
        log_p = logits.reshape(shape).log_softmax(2)
        gradient = (log_p.exp() * total - wanted).flatten(1)
        return -float((wanted * log_p).sum()) / design.n, gradient / design.n

    share = float(total.mean())  # how much of an example's weight a regression has
    return design.fit(loss, shape[1] * shape[2], curvature=max(share, 1e-12) * (1 - 1 / shape[2]) / shape[2])


def fit_sigmoid(x: Tensor, y: Tensor, l2: float) -> Linear:
    """Fit independent logistic regressions, one a column of the labels.

    Minimises the mean over examples of the cross-entropies (nats) summed over columns, + l2/2·|W|²; otherwise as
    :func:`fit_softmax`. Each column equals ``sklearn.linear_model.LogisticRegression`` with C = 1/(l2·n).

    Args:
        x: (n, d), features.
        y: (n, C), labels in [0, 1].
        l2: the penalty's weight, above 0.

    Returns:
        The model, with weight (d, C).

    Raises:
        NumericsError: where shapes or labels do not fit, and where the gradient stays above 1e-4.
    """
    design = _Design.of(x, l2)
    targets = _targets(y, design.n)
    if targets.min() < 0 or targets.max() > 1:
        raise NumericsError(
            f"a sigmoid fit needs labels in 0..1, found {targets.min()}..{targets.max()}: binarise them."
        )

    wanted = torch.from_numpy(targets)

    def loss(logits: Tensor) -> tuple[float, Tensor]:
        total = torch.logaddexp(torch.zeros_like(logits), logits) - wanted * logits
        return float(total.sum()) / design.n, (logits.sigmoid() - wanted) / design.n

    return design.fit(loss, targets.shape[1], curvature=0.25)


def fit_cox(x: Tensor, time: Tensor, event: Tensor, l2: float) -> Linear:
    """Fit a linear Cox model of log-risk to convergence.

    Minimises minus the log partial likelihood (Cox 1972, ties by Breslow 1974) over n, + l2/2·|w|², on standardised
    features; the bias, which is in no likelihood, stays 0. L-BFGS as :func:`fit_softmax`.

    Args:
        x: (n, d), features.
        time: (n,), until the event or until the subject was lost.
        event: (n,), 1 where the event was seen, 0 where not.
        l2: the penalty's weight, above 0.

    Returns:
        The model, with weight (d, 1).

    Raises:
        NumericsError: where shapes do not fit or no event was seen, and where the gradient stays above 1e-4.
    """
    design = _Design.of(x, l2)
    if time.shape != (design.n,) or event.shape != (design.n,) or not bool(event.any()):
        raise NumericsError(
            f"a Cox fit needs {design.n} times and events, one event at least, found shapes {tuple(time.shape)} and "
            f"{tuple(event.shape)} and {int(event.sum())} events: use more examples."
        )
    sets = RiskSets.of(time.cpu().double(), event.cpu().double())

    def loss(log_risk: Tensor) -> tuple[float, Tensor]:
        eta = log_risk.detach().requires_grad_()
        with torch.enable_grad():
            value = sets.losses(eta[:, 0]).mean()
        (gradient,) = torch.autograd.grad(value, [eta])
        return float(value.detach()), gradient

    return design.fit(loss, 1, curvature=float(event.double().mean()))


def fit_ridge(x: Tensor, y: Tensor, l2: float) -> Linear:
    """Fit a ridge regression in closed form.

    Minimises the mean over examples of half the squared error summed over columns, + ``l2/2·|W|²``, on standardised
    features with a free bias. Equals ``sklearn.linear_model.Ridge`` on standardised features with alpha = l2·n.

    Args:
        x: (n, d), features.
        y: (n, k), targets.
        l2: the penalty's weight, above 0.

    Returns:
        The model, with weight (d, k).

    Raises:
        NumericsError: where shapes do not fit.
    """
    design = _Design.of(x, l2)
    targets = _targets(y, design.n)
    centre = targets.mean(axis=0)
    # In the basis where the design's Gram matrix is diagonal, ridge is a division.
    slopes = design.rotated.T @ (targets - centre) / design.n / (design.power + l2)[:, None]
    residual = design.rotated @ slopes + centre - targets
    return design.linear(slopes, centre, residual / design.n)


@dataclass(frozen=True, eq=False)
class LinearAtPlaces:
    """One linear model for all P places of an example, which reads what is known of each place, ``about`` (P, k), beside its
    features."""

    linear: Linear
    about: Tensor

    def predict(self, x: Tensor) -> Tensor:
        """Compute natural values (n, P*C), float64, of ``x`` (n, P*d), features of places side by side."""
        places = x.reshape(len(x), len(self.about), -1).double()
        return self.linear.predict(with_about(places, self.about)).reshape(len(x), -1)


def with_about(x: Tensor, about: Tensor) -> Tensor:
    """Lay features (n, P, d) out as rows of places, with what is known of each, (P, k), beside them: (n · P, d + k)."""
    return torch.cat([x, about.expand(len(x), -1, -1)], 2).flatten(0, 1)


def side_by_side(models: Sequence[Linear]) -> Linear:
    """Put linear models of the same d features, each of its own columns, together: weight (d, sum of columns)."""
    weight = torch.cat([m.weight / m.scale[:, None] for m in models], 1)
    bias = torch.cat([m.bias - (m.mean / m.scale) @ m.weight for m in models])
    d = weight.shape[0]
    gradient = max(m.gradient for m in models)
    return Linear(weight, bias, weight.new_zeros(d), weight.new_ones(d), gradient)


@dataclass(frozen=True, eq=False)
class _Design:
    """Standardised features in their principal axes, where the problem is nearly diagonal.

    |W|² does not change under rotation, and where d > n nothing outside the span of the rows can help, so
    the optimum is that of the original problem; L-BFGS just gets there in far fewer steps.
    """

    n: int
    standard: _Array  # (n, d)
    axes: _Array  # (d, r), orthonormal
    rotated: _Array  # (n, r) = standard @ axes
    power: _Array  # (r,), mean square along each axis
    mean: Tensor
    scale: Tensor
    l2: float

    @classmethod
    def of(cls, x: Tensor, l2: float) -> _Design:
        """The design of ``x`` (n, d); of the very tensor that the last one was of only the penalty is another."""
        last = _LAST.get(x)
        if last is not None and 0 < l2 < float("inf"):
            return replace(last, l2=l2)
        made = cls._decomposed(x, l2)
        _LAST.keep(x, made)
        return made

    @classmethod
    def _decomposed(cls, x: Tensor, l2: float) -> _Design:
        x = matrix(x, "the features").cpu()
        n, d = x.shape
        if n < 2 or d < 1 or not 0 < l2 < float("inf"):
            raise NumericsError(
                f"a linear fit needs 2 or more examples, a feature and l2 > 0, found {n}, {d} and l2 = {l2}: "
                "use more examples, or l2 = 1e-3."
            )
        mean = x.mean(dim=0)
        centred = x - mean
        variance = centred.square().mean(dim=0)
        constant = Moments(n, mean, torch.diag(variance * n)).constant()
        scale = torch.where(constant, 1.0, variance.sqrt())
        standard = (centred / scale * ~constant).numpy()
        axes = np.eye(d)
        reduced = standard
        if d > n:
            axes, triangle = np.linalg.qr(standard.T)
            reduced = triangle.T
        power, turn = np.linalg.eigh(reduced.T @ reduced / n)
        return cls(n, standard, axes @ turn, reduced @ turn, np.maximum(power, 0.0), mean, scale, l2)

    def fit(self, loss: _Loss, outputs: int, curvature: float) -> Linear:
        """L-BFGS on coefficients divided by the root of the expected curvature along each axis."""
        step = 1.0 / np.sqrt(curvature * self.power + self.l2)
        rotated = torch.from_numpy(self.rotated)
        z, penalty = rotated * torch.from_numpy(step), torch.from_numpy(self.l2 * step**2)[:, None]
        shape = (step.shape[0] + 1, outputs)

        def objective(flat: _Array) -> tuple[float, _Array]:
            coefficients = torch.from_numpy(flat.reshape(shape))
            slopes, bias = coefficients[:-1], coefficients[-1]
            value, by_logits = loss(z @ slopes + bias)
            gradient = torch.cat([z.T @ by_logits + penalty * slopes, by_logits.sum(0, keepdim=True)])
            return value + 0.5 * float((penalty * slopes**2).sum()), gradient.numpy().ravel()

        options = {"maxiter": 2000, "maxfun": 20000, "maxcor": 20, "ftol": 0.0}
        flat = np.zeros(shape[0] * shape[1])
        best: Linear | None = None
        for tighter in (1.0, 0.1, 0.01):  # a restart also forgets a bad curvature estimate
            options["gtol"] = tighter * _AIM.get() * min(1.0, float(step.min()))
            with threads_for(4.0 * rotated.numel() * outputs):
                flat = minimize(objective, flat, jac=True, method="L-BFGS-B", options=options).x
            coefficients = flat.reshape(shape)
            slopes = coefficients[:-1] * step[:, None]
            by_logits = loss(torch.from_numpy(self.rotated @ slopes + coefficients[-1]))[1]
            found = self.linear(slopes, coefficients[-1], by_logits.numpy())
            if best is None or found.gradient < best.gradient:
                best = found
            if best.gradient <= _AIM.get():
                break
        assert best is not None
        if best.gradient > _GRADIENT_MAX:
            raise NumericsError(
                f"a linear fit did not converge (gradient {best.gradient:.1e}, wanted {_GRADIENT_TOL:.0e}): "
                f"use a larger l2 than {self.l2:g}."
            )
        return best

    def linear(self, slopes: _Array, bias: _Array, by_logits: _Array) -> Linear:
        """The solution in the standardised features, with its gradient measured there."""
        weight = self.axes @ slopes
        gradient = np.abs(self.standard.T @ by_logits + self.l2 * weight).max()
        gradient = max(gradient, np.abs(by_logits.sum(axis=0)).max())
        w, b = torch.from_numpy(weight), torch.from_numpy(bias.copy())
        return Linear(w, b, self.mean, self.scale, float(gradient))


class _Last:
    """The design of the last features, as penalties are tried one after another on the same tensor."""

    def __init__(self) -> None:
        self._of: tuple[weakref.ref[Tensor], int, _Design] | None = None

    def get(self, x: Tensor) -> _Design | None:
        """Its design, where ``x`` (n, d) is that tensor and nobody has written into it since."""
        if self._of is None:
            return None
        tensor, version, design = self._of
        if tensor() is None:
            self._of = None
        return design if tensor() is x and version == x._version else None

    def keep(self, x: Tensor, design: _Design) -> None:
        """Remember the design of ``x`` (n, d)."""
        self._of = weakref.ref(x), x._version, design


_LAST = _Last()


def _targets(y: Tensor, n: int) -> _Array:
    targets: _Array = matrix(y, "the targets").cpu().numpy()
    if targets.shape[0] != n or targets.shape[1] < 1:
        raise NumericsError(
            f"a linear fit needs targets (n, outputs) with n = {n}, found {targets.shape}: pass one row each."
        )
    return targets
