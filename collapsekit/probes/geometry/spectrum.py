"""spectrum: eigenspectra and ranks of every modality's features, before and after fusion."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from pydantic import Field
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.measures import Finding, Measure, Panel, Picture, declare
from collapsekit.probes._shared import CONCATENATED, RankOptions, need_features, need_fusion
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Curve, Result
from collapsekit.session.costs.cost import reads_features
from collapsekit.session.session import Session
from collapsekit.stats.inference.jackknife import interval
from collapsekit.stats.linalg import spectrum as st
from collapsekit.stats.linalg.ranks import CENTRED, RANKS, rank_functions, rank_interval, small_n
from collapsekit.stats.linalg.spread import spread

EFFECTIVE_RANK = declare(
    Measure(
        "spectrum.effective_rank",
        definition=RANKS["effective_rank"][0],
        source=RANKS["effective_rank"][1],
        unit="dimensions",
        bounds=(0.0, None),
        headline="whole",
    )
)
NUMERICAL_RANK = declare(
    Measure(
        "spectrum.numerical_rank",
        definition=RANKS["numerical_rank"][0],
        source=RANKS["numerical_rank"][1],
        unit="dimensions",
        bounds=(0.0, None),
        headline="whole",
    )
)
STABLE_RANK = declare(
    Measure(
        "spectrum.stable_rank",
        definition=RANKS["stable_rank"][0],
        source=RANKS["stable_rank"][1],
        unit="dimensions",
        bounds=(0.0, None),
    )
)
PARTICIPATION_RATIO = declare(
    Measure(
        "spectrum.participation_ratio",
        definition=RANKS["participation_ratio"][0],
        source=RANKS["participation_ratio"][1],
        unit="dimensions",
        bounds=(0.0, None),
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
SPREAD = declare(
    Measure(
        "spectrum.spread",
        definition="root mean square over features of their standard deviation over examples; the features as the encoder "
        "gives them, before they are pooled",
        source="definition of the standard deviation",
        unit="units of the features",
    )
)
OF_RANK = {
    "effective_rank": EFFECTIVE_RANK,
    "numerical_rank": NUMERICAL_RANK,
    "stable_rank": STABLE_RANK,
    "participation_ratio": PARTICIPATION_RATIO,
}


PICTURES = (
    Picture(
        "spectra",
        "Eigenvalue spectra before and after fusion",
        (
            Panel(
                "share of variance",
                {"": "spectrum.eigenvalues", "effective rank": "spectrum.effective_rank"},
                along="component",
            ),
        ),
        (
            Finding(
                "among",
                "spectrum.effective_rank",
                {
                    "above": "The fused representation fills more dimensions than any modality: effective rank {value}, "
                    "against {other} of {modality}.",
                    "below": "The fused representation fills fewer dimensions than every modality: effective rank {value}, "
                    "against {other} of {modality}.",
                    "unclear": "The effective rank of the fused representation, {value}, is neither clearly below nor "
                    "clearly above those of all modalities.",
                },
            ),
        ),
    ),
)


class SpectrumOptions(RankOptions):
    """Options of the spectrum probe."""

    precise: bool = Field(default=False, description="SVD of the features instead of eigenvalues of their scatter")
    components: int = Field(default=256, gt=0, description="how many eigenvalues the spectrum curve keeps")


@probe(
    "spectrum",
    title="Spectra before and after fusion",
    place=50,
    pictures=PICTURES,
    summary="eigenspectrum and effective, numerical and stable rank of every modality and of the fusion",
    definition="eigenvalues of the covariance of each modality's features and of the fused representation",
    source="Kim et al. 2025, Figure 2; Roy & Vetterli 2007",
    cannot="a low rank is not a collapse: a healthy model may be low-rank, and a collapsed one high-rank",
    options=SpectrumOptions,
    cost=reads_features,
)
def run(session: Session) -> Iterator[Result]:
    """Measure the eigenspectrum of every modality's features, before and after fusion, and the ranks read off it.

    Of the covariance of n examples by d dimensions, centred (Kim et al. 2025, Figure 2; ranks after Roy & Vetterli 2007,
    Golub & Van Loan, Rudelson & Vershynin 2007 and Gao et al. 2017).

    Yields:
        By modality how much its features move from example to example; by modality and of the fused representation
        eigenvalues as shares of their sum, effective, numerical and stable rank, participation ratio, and the effective
        rank that independent dimensions would have.
    """
    options, features = session.options_of("spectrum", SpectrumOptions), session.features
    named: list[tuple[str | None, Tensor]] = [*features.pooled.items(), (None, features.fused)]
    concatenated = features.concatenated
    for modality, x in named:
        if modality is None and concatenated:
            yield from _skip_all(None, CONCATENATED, options)
            continue
        try:
            if modality is None:
                need_fusion(session)
            else:
                yield _spread(modality, session)
                need_features(session, modality)
            yield from _one(modality, x, session, options)
        except NumericsError as e:
            yield from _skip_all(modality, str(e).rstrip("."), options)


def _spread(modality: str, session: Session) -> Result:
    """How much the encoder's output moves; next to nothing where it is dead."""
    adapter, features = session.adapter, session.features
    x = adapter.features_of(modality, features.recorded[modality])
    try:
        need_features(session, modality)
        value, *out = spread(x, features.groups, int(features.groups.max()) + 1).tolist()
    except NumericsError as e:
        return SPREAD.skipped(str(e), modality=modality)
    low, high = interval(value, out, session.level)
    shape = " x ".join(map(str, x.shape[1:])) or "1"
    return SPREAD.result(value, (max(0.0, low), high), modality=modality, note=f"features of {shape}")


def _one(modality: str | None, x: Tensor, session: Session, options: SpectrumOptions) -> Iterator[Result]:
    (n, d), features = x.shape, session.features
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
        ends = rank_interval(rank(sigma), [rank(s) for s in out], d, session.level)
        of_rank = OF_RANK[name].fill(rtol=options.rtol)
        yield of_rank.result(rank(sigma), ends, modality=modality, note=small_n(n, d))
    yield _null(modality, x, features, session.seed, session.level)


def _null(modality: str | None, x: Tensor, features: Features, seed: int, level: float) -> Result:
    """Effective rank were the dimensions independent: every column permuted by itself."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.stack([c[torch.randperm(len(c), generator=generator)] for c in x.T], 1)
    whole, left = features.moments(shuffled)
    value, *out = map(st.effective_rank, st.spectra(chain([whole], left), x.shape[1]))
    ends = rank_interval(value, out, x.shape[1], level)
    return NULL_EFFECTIVE_RANK.result(value, ends, modality=modality)


def _skip_all(modality: str | None, reason: str, options: SpectrumOptions) -> Iterator[Result]:
    for of_rank in OF_RANK.values():
        yield of_rank.fill(rtol=options.rtol).skipped(reason, modality=modality)
