"""Linear models fitted to convergence: softmax, sigmoid and ridge on standardised features."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import finite, matrix
from collapsekit.stats.linalg.moments import Moments
from collapsekit.stats.scores.cox import RiskSets
from collapsekit.stats.solvers.newton import Curvature, FeatureRows, Loss, Newton
from collapsekit.stats.threads import threads_for

_Array = NDArray[np.float64]

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
    examples only gets a very negative bias. Newton's method from zero to a gradient of 1e-7; ``gradient`` says what was
    reached. Equals ``sklearn.linear_model.LogisticRegression`` on standardised features with C = 1/(l2·n) for three
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

    def loss(logits: Tensor) -> tuple[float, Tensor, Curvature]:
        log_p = logits.log_softmax(0)
        p = log_p.exp()
        gradient = p / n
        gradient[wanted, rows] -= 1.0 / n
        return -float(log_p[wanted, rows].mean()), gradient, _softmax_curvature(p, p / n)

    return design.fit(loss, classes, l2)


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
    wanted = (y.detach().cpu().double() / design.n).permute(1, 2, 0).contiguous()  # (S, C, n)
    total = wanted.sum(1, keepdim=True)

    def loss(logits: Tensor) -> tuple[float, Tensor, Curvature]:
        log_p = logits.reshape(wanted.shape).log_softmax(1)
        p = log_p.exp()
        weighted = p * total
        return -float((wanted * log_p).sum()), (weighted - wanted).flatten(0, 1), _softmax_curvature(p, weighted)

    return design.fit(loss, wanted.shape[0] * wanted.shape[1], l2)


def _softmax_curvature(p: Tensor, weighted: Tensor) -> Curvature:
    """Of cross-entropies to probabilities (..., C, n), and the same times the weights that the loss gives examples."""

    def times(direction: Tensor) -> Tensor:
        moved = weighted * direction.reshape(p.shape)
        return torch.addcmul(moved, p, moved.sum(-2, keepdim=True), value=-1.0).reshape(direction.shape)

    return Curvature(times, lambda: (weighted * (1 - p)).flatten(0, -2).mean(0))


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

    wanted, n = torch.from_numpy(targets).T.contiguous(), design.n

    def loss(logits: Tensor) -> tuple[float, Tensor, Curvature]:
        total = torch.logaddexp(torch.zeros_like(logits), logits) - wanted * logits
        p = logits.sigmoid()
        curved = p * (1 - p) / n
        return float(total.sum()) / n, (p - wanted) / n, Curvature(curved.mul, lambda: curved.mean(0))

    return design.fit(loss, len(wanted), l2)


def fit_cox(x: Tensor, time: Tensor, event: Tensor, l2: float) -> Linear:
    """Fit a linear Cox model of log-risk to convergence.

    Minimises minus the log partial likelihood (Cox 1972, ties by Breslow 1974) over n, + l2/2·|w|², on standardised
    features; the bias, which is in no likelihood, stays 0. Newton's method as :func:`fit_softmax`.

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

    often = float(event.double().mean()) / design.n

    def loss(log_risk: Tensor) -> tuple[float, Tensor, Curvature]:
        eta = log_risk.detach().requires_grad_()
        with torch.enable_grad():
            value = sets.losses(eta[0]).mean()
            (gradient,) = torch.autograd.grad(value, [eta], create_graph=True)

        def times(direction: Tensor) -> Tensor:
            with torch.enable_grad():  # as grad_outputs would give it, whose first use imports sympy
                along = (gradient * direction).sum()
            return torch.autograd.grad(along, [eta], retain_graph=True)[0]

        return float(value.detach()), gradient.detach(), Curvature(times, lambda: eta.new_full((design.n,), often))

    return design.fit(loss, 1, l2)


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
    axes, rotated, power = design.principal
    slopes = rotated.T @ (targets - centre) / design.n / (power + l2)[:, None]
    residual = rotated @ slopes + centre - targets
    return design.linear(axes @ slopes, centre, residual / design.n, l2)


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
    """Standardised features, and what all fits on them share.

    Where d > n nothing outside the span of the rows can help, so the problem is solved there: |W|² does not change under
    rotation, and the optimum is that of the original problem.
    """

    standard: _Array  # (n, d)
    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, x: Tensor, l2: float) -> _Design:
        """The design of ``x`` (n, d); that of the very tensor that the last one was of is kept. Raises NumericsError where
        ``l2`` is no penalty."""
        if not 0 < l2 < float("inf"):
            raise _unfit(tuple(x.shape), l2)
        last = _LAST.get(x)
        if last is not None:
            return last
        made = cls._standardised(x, l2)
        _LAST.keep(x, made)
        return made

    @classmethod
    def _standardised(cls, x: Tensor, l2: float) -> _Design:
        x = matrix(x, "the features").cpu()
        n, d = x.shape
        if n < 2 or d < 1:
            raise _unfit((n, d), l2)
        mean = x.mean(dim=0)
        centred = x - mean
        variance = centred.square().mean(dim=0)
        constant = Moments(n, mean, torch.diag(variance * n)).constant()
        scale = torch.where(constant, 1.0, variance.sqrt())
        return cls((centred / scale * ~constant).numpy(), mean, scale)

    @property
    def n(self) -> int:
        """How many examples there are."""
        return len(self.standard)

    @cached_property
    def spanned(self) -> tuple[_Array | None, _Array]:
        """Orthonormal axes (d, n) of the span of the rows, where that is narrower than the features, and rows in these."""
        n, d = self.standard.shape
        if d <= n:
            return None, self.standard
        axes, triangle = np.linalg.qr(self.standard.T)
        return axes, triangle.T

    @cached_property
    def rows(self) -> FeatureRows:
        """What models are fitted on step by step."""
        return FeatureRows.of(torch.from_numpy(np.ascontiguousarray(self.spanned[1])))

    @cached_property
    def principal(self) -> tuple[_Array, _Array, _Array]:
        """Principal axes (d, r), rows in these (n, r), and their mean square along each (r,)."""
        axes, reduced = self.spanned
        power, turn = np.linalg.eigh(reduced.T @ reduced / self.n)
        whole = np.eye(self.standard.shape[1]) if axes is None else axes
        return whole @ turn, reduced @ turn, np.maximum(power, 0.0)

    def fit(self, loss: Loss, outputs: int, l2: float) -> Linear:
        """Minimise the loss (logits (C, n)) with its penalty, from zero."""
        rows, aim = self.rows, _AIM.get()
        newton = Newton(rows, loss, l2)
        coefficients = rows.z.new_zeros(outputs, rows.z.shape[1])
        best: Linear | None = None
        for tighter in (1.0, 0.1, 0.01):  # as axes of the span are turned, their largest entry is not the features'
            with threads_for(4.0 * rows.z.numel() * outputs):
                coefficients = newton.minimise(coefficients, tighter * aim)
                by_logits = loss(coefficients @ rows.z.T)[1]
            found = self.linear(
                self._turned(coefficients[:, :-1]), coefficients[:, -1].numpy(), by_logits.numpy().T, l2
            )
            if best is None or found.gradient < best.gradient:
                best = found
            if best.gradient <= aim:
                break
        assert best is not None
        if not best.gradient <= _GRADIENT_MAX:
            raise NumericsError(
                f"a linear fit did not converge (gradient {best.gradient:.1e}, wanted {_GRADIENT_TOL:.0e}): "
                f"use a larger l2 than {l2:g}."
            )
        return best

    def _turned(self, slopes: Tensor) -> _Array:
        """Coefficients (C, r) along the rows' axes as those of the features, (d, C)."""
        axes, along = self.spanned[0], slopes.numpy().T
        return np.ascontiguousarray(along) if axes is None else axes @ along

    def linear(self, weight: _Array, bias: _Array, by_logits: _Array, l2: float) -> Linear:
        """The solution in the standardised features, with its gradient measured there."""
        gradient = np.abs(self.standard.T @ by_logits + l2 * weight).max()
        gradient = max(gradient, np.abs(by_logits.sum(axis=0)).max())
        w, b = torch.from_numpy(weight), torch.from_numpy(bias.copy())
        return Linear(w, b, self.mean, self.scale, float(gradient))


def _unfit(shape: tuple[int, ...], l2: float) -> NumericsError:
    return NumericsError(
        f"a linear fit needs 2 or more examples, a feature and l2 > 0, found {' x '.join(map(str, shape))} and l2 = {l2}: "
        "use more examples, or l2 = 1e-3."
    )


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
