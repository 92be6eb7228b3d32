"""spectrum: eigenspectra and ranks of every modality's features, before and after fusion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import torch
from pydantic import Field
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.context import Options, Settings
from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.measures import Measure, declare
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Curve, Result
from collapsekit.stats.inference.jackknife import interval
from collapsekit.stats.linalg import spectrum as st

CENTRED = "of the column-centred features (n examples by d dimensions), σ their singular values"
RANKS: dict[str, tuple[str, str]] = {
    "effective_rank": (
        f"exp of the entropy of σ/Σσ {CENTRED}",
        "Roy & Vetterli 2007, eq. 5; as used by Kim et al. 2025",
    ),
    "numerical_rank": (
        f"number of σ above {{rtol:g}}·σmax {CENTRED}",
        "Golub & Van Loan, Matrix Computations, 5.4.1; as in Chaudhuri et al. 2025, Figure 5",
    ),
    "stable_rank": (f"Σσ²/σmax² {CENTRED}", "Rudelson & Vershynin 2007"),
    "participation_ratio": (f"(Σσ²)²/Σσ⁴ {CENTRED}", "Gao et al. 2017, eq. 3"),
}
EFFECTIVE_RANK = declare(
    Measure(
        "spectrum.effective_rank",
        definition=RANKS["effective_rank"][0],
        source=RANKS["effective_rank"][1],
        unit="dimensions",
        headline="whole",
    )
)
NUMERICAL_RANK = declare(
    Measure(
        "spectrum.numerical_rank",
        definition=RANKS["numerical_rank"][0],
        source=RANKS["numerical_rank"][1],
        unit="dimensions",
        headline="whole",
    )
)
STABLE_RANK = declare(
    Measure(
        "spectrum.stable_rank", definition=RANKS["stable_rank"][0], source=RANKS["stable_rank"][1], unit="dimensions"
    )
)
PARTICIPATION_RATIO = declare(
    Measure(
        "spectrum.participation_ratio",
        definition=RANKS["participation_ratio"][0],
        source=RANKS["participation_ratio"][1],
        unit="dimensions",
    )
)
EIGENVALUES = declare(
    Measure(
        "spectrum.eigenvalues",
        definition="eigenvalues of the covariance, as shares of their sum, descending",
        source="Kim et al. 2025, Figure 2",
        figure="spectrum",
        side_by_side=True,
    )
)
NULL_EFFECTIVE_RANK = declare(
    Measure(
        "spectrum.null_effective_rank",
        definition=f"effective rank after permuting every column by itself {CENTRED}: its value without correlation",
        source="column-permutation null, after Buja & Eyuboglu 1992",
        unit="dimensions",
    )
)
OF_RANK = {
    "effective_rank": EFFECTIVE_RANK,
    "numerical_rank": NUMERICAL_RANK,
    "stable_rank": STABLE_RANK,
    "participation_ratio": PARTICIPATION_RATIO,
}


class SpectrumOptions(Options):
    """Options of the spectrum probe."""

    rtol: float = Field(default=1e-3, gt=0, lt=1, description="tolerance of the numerical rank, relative to σmax")
    precise: bool = Field(default=False, description="SVD of the features instead of eigenvalues of their scatter")
    components: int = Field(default=256, gt=0, description="how many eigenvalues the spectrum curve keeps")


def rank_functions(rtol: float) -> dict[str, Callable[[Tensor], float]]:
    """The four ranks, all read off one spectrum σ."""
    return {
        "effective_rank": st.effective_rank,
        "numerical_rank": lambda sigma: float(st.numerical_rank(sigma, rtol)),
        "stable_rank": st.stable_rank,
        "participation_ratio": st.participation_ratio,
    }


def rank_interval(value: float, leave_out: list[float], d: int, level: float) -> tuple[float, float]:
    """Jackknife interval of a rank on the log scale, within the 1 to d that a rank can be."""
    low, high = interval(value, leave_out, level, log=True)
    return min(value, max(1.0, low)), max(value, min(float(d), high))


def small_n(n: int, d: int) -> str | None:
    """The caveat for few examples: ranks are biased low under n = 10·d."""
    return f"n = {n} is under 10·d = {10 * d}: ranks are biased low" if n < 10 * d else None


@probe(
    "spectrum",
    title="Spectra before and after fusion",
    place=50,
    summary="eigenspectrum and effective, numerical and stable rank of every modality and of the fusion",
    definition="eigenvalues of the covariance of each modality's features and of the fused representation",
    source="Kim et al. 2025, Figure 2; Roy & Vetterli 2007",
    cannot="a low rank is not a collapse: a healthy model may be low-rank, and a collapsed one high-rank",
    options=SpectrumOptions,
)
def run(adapter: Adapter, features: Features, *, settings: Settings) -> Iterator[Result]:
    options = settings.own(SpectrumOptions)
    named: list[tuple[str | None, Tensor]] = [*features.pooled.items(), (None, features.fused)]
    concatenated = features.concatenated
    for modality, x in named:
        if modality is None and concatenated:
            yield from _skip_all(None, CONCATENATED, options)
            continue
        try:
            yield from _one(modality, x, features, options, settings)
        except NumericsError as e:
            yield from _skip_all(modality, str(e).rstrip("."), options)


def _one(
    modality: str | None, x: Tensor, features: Features, options: SpectrumOptions, settings: Settings
) -> Iterator[Result]:
    n, d = x.shape
    if options.precise:
        groups = features.groups
        sigma, out = st.singular_values_svd(x), [st.singular_values_svd(x[groups != g]) for g in groups.unique()]
    else:
        whole, left = features.moments(x)
        sigma, *out = st.spectra(chain([whole], left), d)
    st.effective_rank(sigma)  # raises where all of them are 0
    power = sigma.square() / sigma.square().sum()
    kept = power[: options.components]
    curve = Curve(
        x=tuple(range(1, len(kept) + 1)), y=tuple(kept.tolist()), x_label="component", y_label="share of variance"
    )
    few = f"the first {len(kept)} of {d} components" if len(kept) < d else None
    yield EIGENVALUES.curve(curve, modality=modality, note=few)
    if n < 2 * d:
        reason = f"needs at least 2·d = {2 * d} examples for d = {d} dimensions, found {n}: use more examples"
        yield from _skip_all(modality, reason, options)
        return
    for name, rank in rank_functions(options.rtol).items():
        ends = rank_interval(rank(sigma), [rank(s) for s in out], d, settings.level)
        of_rank = OF_RANK[name].fill(rtol=options.rtol)
        yield of_rank.result(rank(sigma), ends, modality=modality, note=small_n(n, d))
    yield _null(modality, x, features, settings)


def _null(modality: str | None, x: Tensor, features: Features, settings: Settings) -> Result:
    """Effective rank were the dimensions independent: every column permuted by itself."""
    generator = torch.Generator().manual_seed(settings.seed)
    shuffled = torch.stack([c[torch.randperm(len(c), generator=generator)] for c in x.T], 1)
    whole, left = features.moments(shuffled)
    value, *out = map(st.effective_rank, st.spectra(chain([whole], left), x.shape[1]))
    ends = rank_interval(value, out, x.shape[1], settings.level)
    return NULL_EFFECTIVE_RANK.result(value, ends, modality=modality)


def _skip_all(modality: str | None, reason: str, options: SpectrumOptions) -> Iterator[Result]:
    for of_rank in OF_RANK.values():
        yield of_rank.fill(rtol=options.rtol).skipped(reason, modality=modality)


CONCATENATED = (
    "the fusion point only concatenates the modalities' features, so this reads the same for a healthy and a collapsed "
    "model: set `fusion` to the first submodule that mixes them"
)
