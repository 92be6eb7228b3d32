"""Our numbers beside those of other packages: the same data, one process, in turn; medians.

python -m benchmarks.speed.peers

Each row says how both are timed and how far their numbers lie apart; where definitions differ, what is compared is said.
One thread each, of torch and of NumPy: on a busy machine a second one mostly waits, in some packages more than in others.
"""

from __future__ import annotations

import argparse
import math
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from benchmarks.speed.reliance import Compared, by_shapiq, reliance
from collapsekit.readouts.linear import L2_GRID
from collapsekit.stats.linalg import spectrum
from collapsekit.stats.linalg.moments import Moments
from collapsekit.stats.linalg.vif import vif
from collapsekit.stats.linear import Linear, fit_softmax

A, B = TypeVar("A"), TypeVar("B")
ROWS, REPEATS = 4_000, 3
PEER_COLUMNS = 8  # of a wide matrix, each of which takes statsmodels a regression of its own


class MissingPeerError(ImportError):
    """A package to compare with is not there."""


@dataclass(frozen=True)
class Row:
    """One number computed by both."""

    what: str
    ours: float  # seconds
    peer_seconds: float
    peer: str  # name and version
    apart: float  # largest difference, as `agreement` says relative to what
    tolerance: float
    agreement: str
    asked: float | None = None  # the least ratio that is asked for

    @property
    def ratio(self) -> float:
        """How many times as long as ours the peer takes."""
        return self.peer_seconds / self.ours

    @property
    def agrees(self) -> bool:
        """Whether both numbers are the same within the tolerance; where there is none to compare, nan, they are not."""
        return self.apart <= self.tolerance


def peer(module: str, distribution: str | None = None) -> tuple[Any, str]:
    """A package to compare with, and its name and version. Raises MissingPeerError."""
    name = distribution or module.partition(".")[0]
    try:
        return import_module(module), f"{name} {version(name)}"
    except ImportError:
        raise MissingPeerError(
            f'{name} is not installed, which the comparison is with: pip install -c constraints.txt -e ".[bench]"'
        ) from None


def in_turn(ours: Callable[[], A], theirs: Callable[[], B], repeats: int = REPEATS) -> tuple[float, float, A, B]:
    """Median seconds of both, run alternately, and what each gave."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        start = time.perf_counter()
        a = ours()
        middle = time.perf_counter()
        b = theirs()
        taken[0].append(middle - start)
        taken[1].append(time.perf_counter() - middle)
    return median(taken[0]), median(taken[1]), a, b


def correlated(n: int, d: int, seed: int = 0) -> Tensor:
    """Features (n, d), float64, that share a few directions, with falling spreads and a mean."""
    g = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, max(2, d // 8), generator=g, dtype=torch.float64)
    mixed = shared @ torch.randn(shared.shape[1], d, generator=g, dtype=torch.float64)
    spread = torch.linspace(3, 0.5, d, dtype=torch.float64)
    return (mixed + torch.randn(n, d, generator=g, dtype=torch.float64)) * spread + 2.0


def inflation(d: int, n: int = ROWS, repeats: int = REPEATS) -> Row:
    """Variance inflation factors of all columns; of wide matrices, the peer's seconds are those of a few columns, scaled."""
    module, name = peer("statsmodels.stats.outliers_influence")
    x = correlated(n, d)
    design = np.column_stack([np.ones(n), x.numpy()])
    columns = range(d) if d <= 64 else range(0, d, d // PEER_COLUMNS)

    def theirs() -> list[float]:
        return [module.variance_inflation_factor(design, i + 1) for i in columns]

    seconds, others, found, expected = in_turn(lambda: vif(Moments.of(x)), theirs, repeats)
    ours = found.values[list(columns)].numpy()
    apart = float(np.abs(ours / np.array(expected) - 1).max())
    part = "" if len(columns) == d else f"; seconds of {len(columns)} columns, times {d / len(columns):g}"
    said = f"every factor, relative{part}"
    return Row(f"VIF, n = {n:,}, d = {d}", seconds, others * d / len(columns), name, apart, 1e-6, said)


def effective_rank(d: int, n: int = ROWS, repeats: int = REPEATS) -> Row:
    """Effective rank of centred features. No package that installs without torchvision has the number as Roy and Vetterli
    define it (reptrix takes squared singular values, torchmetrics has none), so the peer is its definition."""
    stats, name = peer("scipy.stats")
    x = correlated(n, d)

    def theirs() -> float:
        values = x.numpy()
        sigma = np.linalg.svd(values - values.mean(axis=0), compute_uv=False)
        return math.exp(stats.entropy(sigma))

    def ours() -> float:
        return spectrum.effective_rank(spectrum.singular_values(Moments.of(x)))

    seconds, others, a, b = in_turn(ours, theirs, repeats)
    name = f"NumPy {np.__version__} svd, {name} entropy"
    return Row(f"effective rank, n = {n:,}, d = {d}", seconds, others, name, abs(a / b - 1), 1e-6, "the rank, relative")


def softmax(
    tol: float, n: int = 2_000, d: int = 256, classes: int = 10, l2: float = 1e-3, repeats: int = REPEATS
) -> Row:
    """Multinomial logistic regression on standardised features, to the same optimum."""
    linear, _ = peer("sklearn.linear_model", "scikit-learn")
    name = f"scikit-learn {version('scikit-learn')}"
    g = torch.Generator().manual_seed(0)
    x = correlated(n, d)
    y = (x[:, :classes] / x[:, :classes].std(0) + torch.randn(n, classes, generator=g, dtype=torch.float64)).argmax(1)

    def theirs() -> Linear:
        values = x.numpy()
        mean, scale = values.mean(axis=0), values.std(axis=0)
        fit = linear.LogisticRegression(C=1 / (l2 * n), tol=tol, max_iter=20_000)
        fit.fit((values - mean) / scale, y.numpy())
        parts = (fit.coef_.T.copy(), fit.intercept_, mean, scale)
        return Linear(*(torch.from_numpy(part) for part in parts))

    def objective(fit: Linear) -> float:
        loss = torch.nn.functional.cross_entropy(fit.predict(x), y)
        return float(loss + l2 / 2 * fit.weight.square().sum())

    seconds, others, a, b = in_turn(
        lambda: fit_softmax(x.clone(), y, classes, l2), theirs, repeats
    )  # a copy: nothing is remembered of it
    ours, other = objective(a), objective(b)
    # Ours is to a gradient of 1e-7; what the peer stops short of shows in the loss.
    said = f"loss at the optimum, relative ({ours:.9f} and {other:.9f})"
    what = f"softmax readout, peer's tol {tol:g}"
    apart, allowed = abs(other / ours - 1), max(1e-8, 0.1 * tol)
    return Row(what, seconds, others, f"{name} LogisticRegression", apart, allowed, said, asked=1.0)


def penalties(n: int = 1_200, d: int = 240, classes: int = 10, repeats: int = REPEATS) -> Row:
    """A readout whose penalty held-out examples choose, beside scikit-learn as a user tunes it: the same penalties, weaker
    ones from where the last one ended, a tolerance a tenth of the default, the best by held-out loss."""
    linear, _ = peer("sklearn.linear_model", "scikit-learn")
    g = torch.Generator().manual_seed(1)
    x = correlated(2 * n, d, 1)
    said_by = x[:, :classes] / x[:, :classes].std(0)
    y = (said_by + torch.randn(2 * n, classes, generator=g, dtype=torch.float64)).argmax(1)

    def chosen(held: Callable[[float], float]) -> tuple[float, float]:
        return min((held(l2), l2) for l2 in L2_GRID)

    def ours() -> tuple[float, float]:
        fitted = x[:n].clone()  # one tensor, as a diagnosis has it: what its fits share is computed once

        def held(l2: float) -> float:
            return float(
                torch.nn.functional.cross_entropy(fit_softmax(fitted, y[:n], classes, l2).predict(x[n:]), y[n:])
            )

        return chosen(held)

    def theirs() -> tuple[float, float]:
        mean, scale = x[:n].mean(0), x[:n].std(0, correction=0)
        fit = linear.LogisticRegression(tol=1e-5, max_iter=20_000, warm_start=True)
        standard, other = ((part - mean).div(scale).numpy() for part in (x[:n], x[n:]))

        def held(l2: float) -> float:
            fit.set_params(C=1 / (l2 * n)).fit(standard, y[:n].numpy())
            p = torch.from_numpy(fit.predict_proba(other))
            return float(torch.nn.functional.nll_loss(p.log(), y[n:]))

        return chosen(held)

    seconds, others, a, b = in_turn(ours, theirs, repeats)
    name = f"scikit-learn {version('scikit-learn')} LogisticRegression, warm start"
    said = f"held-out loss of the penalty that is chosen, relative ({a[1]:g} and {b[1]:g})"
    apart = abs(b[0] / a[0] - 1)
    return Row(f"{len(L2_GRID)} penalties, n = {n:,}, d = {d}", seconds, others, name, apart, 1e-3, said, asked=1.0)


def rows() -> Iterator[Row]:
    """Every comparison."""
    for d in (64, 256):
        yield inflation(d)
    for d in (64, 256):
        yield effective_rank(d, repeats=7)
    for tol in (1e-4, 1e-8):
        yield softmax(tol)
    yield penalties()
    _, name = peer("captum")
    for depth in (1, 3):
        for found in reliance(depth):
            yield _timed(found, name)
    _, name = peer("shapiq")
    for depth in (1, 3):
        yield _timed(by_shapiq(depth), name)


def _timed(found: Compared, name: str) -> Row:
    seconds, others, _, _ = in_turn(found.ours, found.theirs, REPEATS)
    return Row(found.what, seconds, others * found.times, f"{name} {found.peer}", *found.compared())


def shown(row: Row) -> str:
    """A row of at most 100 columns, and under it how the numbers compare."""
    line = f"{row.what:36}{row.ours:>8.3f}{row.peer_seconds:>9.3f}{row.ratio:>8.1f}  {row.peer}"
    verdict = f"{row.apart:.1e} apart, {row.tolerance:.1e} allowed" + ("" if row.agrees else ", NOT THE SAME")
    verdict = "not compared" if math.isnan(row.apart) else verdict
    return "\n".join(
        [line, *textwrap.wrap(f"{verdict}: {row.agreement}", 96, initial_indent="    ", subsequent_indent="    ")]
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    print(f"{'what':36}{'ours, s':>8}{'peer, s':>9}{'ratio':>8}  peer")
    try:
        threads, _ = peer("threadpoolctl")
        with threads.threadpool_limits(1):
            for row in rows():
                print(shown(row), flush=True)
    except MissingPeerError as e:
        raise SystemExit(str(e)) from None


if __name__ == "__main__":
    main()
