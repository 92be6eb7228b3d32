"""similarity: how alike modalities' features are to the fused representation, and to one another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import combinations
from math import fsum

import torch
from pydantic import Field
from torch import Tensor

from collapsekit.context import Options
from collapsekit.distributed.process_group import current
from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.interventions.edits import Edit
from collapsekit.interventions.replay import predict_many
from collapsekit.measures import Finding, Measure, Panel, Picture, declare
from collapsekit.probes._shared import (
    CKA_SOURCE,
    SCALED,
    SweepOptions,
    cost_of_swept,
    estimate,
    need_features,
    need_fusion,
    swept_modalities,
)
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Curve, Result
from collapsekit.session.costs.cost import Cost
from collapsekit.session.costs.preview import Preview
from collapsekit.session.session import Session
from collapsekit.stats.inference.bounds import Bounds
from collapsekit.stats.linalg.cka import sides_leave_out
from collapsekit.stats.linalg.procrustes import procrustes_leave_out, procrustes_null

CKA = "debiased linear CKA of the modality's features with {other}"
PROCRUSTES = (
    "mean over examples of the cosine between the modality's features and {other}, both centred, after the orthogonal "
    "alignment of the one with the other that has the least squared error over the same examples"
)
PROCRUSTES_SOURCE = "Schönemann 1966, Psychometrika 31:1; equals scipy.linalg.orthogonal_procrustes on centred features"
SWEEP_SOURCE = "after Figure 5 (b, d) of Chaudhuri et al. 2025, which does not define its similarity; Schönemann 1966"
NULL = (
    "with the examples of one side shuffled, mean over shuffles of either side: what the alignment alone achieves at this n "
    "and d; the interval is the range of the shuffles"
)
FUSED, OTHER = "the fused representation", "those of the other modality"
SCALE_ONLY = (
    "the fused representation is the modalities' features side by side, so this tells of the scale and the redundancy of "
    "the features, not of what a fusion does with them"
)

CKA_OF = declare(
    Measure("similarity.cka", definition=CKA, source=CKA_SOURCE, unit="CKA", bounds=(-1.0, 1.0), figure="matrix")
)
ALIGNED = declare(
    Measure(
        "similarity.procrustes",
        definition=PROCRUSTES,
        source=PROCRUSTES_SOURCE,
        unit="cosine",
        bounds=(-1.0, 1.0),
        figure="bars",
    )
)
ALIGNED_BY_CHANCE = declare(
    Measure(
        "similarity.procrustes_null",
        definition=f"{PROCRUSTES}; {NULL}",
        source="row-permutation null",
        unit="cosine",
        bounds=(-1.0, 1.0),
        figure="bars",
    )
)
SWEEP = declare(
    Measure(
        "similarity.procrustes_sweep",
        definition=f"{PROCRUSTES.format(other=FUSED)}; {SCALED}",
        source=SWEEP_SOURCE,
        unit="cosine",
        bounds=(-1.0, 1.0),
        figure="lines",
    )
)


PICTURES = (
    Picture(
        "similarity",
        "Similarity of modalities and fusion",
        (
            Panel("CKA", {"": "similarity.cka"}, along="with", most=1.0),
            Panel(
                "Procrustes cosine with the fused representation",
                {"measured": "similarity.procrustes", "examples shuffled": "similarity.procrustes_null"},
            ),
            Panel(
                "Procrustes cosine",
                {"": "similarity.procrustes_sweep"},
                title="With the fused representation, over β",
                along="β",
                by="versus",
            ),
        ),
        (
            Finding(
                "most",
                "similarity.cka",
                {
                    "clear": "The fused representation is most like {modality}: CKA {value}.",
                    "unclear": "It is not clear which modality the fused representation is most like: CKA {value} with "
                    "{modality}, {other} with {second}.",
                },
            ),
        ),
    ),
)


class SimilarityOptions(Options):
    """Options of the similarity probe; its sweep is over rank_sweep's betas and modality, beside whose curves it lies."""

    shuffles: int = Field(default=4, gt=0, description="shuffles of the Procrustes null, each applied to either side")
    widest: int = Field(default=512, gt=0, description="most dimensions for which Procrustes alignments are computed")
    sweep: bool = Field(default=True, description="Procrustes similarity with the fused representation over β")


def estimate_cost(preview: Preview) -> Cost:
    """Cost the sweep: finding the least used modality, and a replay for each β."""
    options, features = preview.options_of("similarity", SimilarityOptions), preview.features
    if not options.sweep or len(_unaligned(features, options)) == len(features.modalities):
        return Cost()
    sweep = preview.options_of("rank_sweep", SweepOptions)
    chosen, cost = cost_of_swept(preview, sweep)
    return cost + preview.replayed(chosen * len(sweep.betas), together=True)


@probe(
    "similarity",
    title="Similarity of modalities and fusion",
    place=90,
    pictures=PICTURES,
    summary="CKA and Procrustes cosine of modalities with the fused representation and with one another",
    definition=f"{CKA.format(other=FUSED + ' or with those of another modality')}; and {PROCRUSTES.format(other='those')}",
    source=f"{CKA_SOURCE}; {PROCRUSTES_SOURCE}",
    cannot="alike is not used: a fusion may resemble features the head ignores. The Procrustes cosine is biased up where n "
    "is not far above d, since it is fitted on the examples it is read on: compare with its null",
    options=SimilarityOptions,
    cost=estimate_cost,
)
def run(session: Session) -> Iterator[Result]:
    """Measure how alike modalities' features are to the fused representation, and to one another.

    By the debiased linear CKA (Kornblith et al. 2019; Song et al. 2012) and by the cosine after the best orthogonal
    alignment (Schönemann 1966), which is biased up at few examples, so that its null stands beside it.

    Yields:
        CKA, Procrustes cosine and its null of each modality with the fused representation and with each other one; and the
        cosine with the fused representation as a modality is upweighted.
    """
    options, features = session.options_of("similarity", SimilarityOptions), session.features
    g = torch.Generator().manual_seed(session.seed)
    orders = [torch.randperm(len(features), generator=g) for _ in range(options.shuffles)]
    note = SCALE_ONLY if features.concatenated else None
    for m in features.modalities:
        for found in _compared(session, m, None, FUSED, orders):
            yield found.model_copy(update={"modality": m, "note": None if found.skipped else note})
    for a, b in combinations(features.modalities, 2):
        for found in _compared(session, a, b, OTHER, orders):
            # The same number told of either: none comes first.
            yield found.model_copy(update={"modality": a, "versus": b})
            yield found.model_copy(update={"modality": b, "versus": a})
    if options.sweep:
        yield from _sweep(session, options)


def _compared(session: Session, one: str, two: str | None, other: str, orders: list[Tensor]) -> Iterator[Result]:
    """CKA, Procrustes cosine and its null of a modality's features and another's (None: the fused representation), without
    the names of the two."""
    features, level = session.features, session.level
    x, y = features.pooled[one], features.fused if two is None else features.pooled[two]
    groups, count = features.groups, int(features.groups.max()) + 1
    cka, aligned = CKA_OF.fill(other=other), ALIGNED.fill(other=other)
    try:
        need_features(session, one, *([] if two is None else [two]))
        if two is None:
            need_fusion(session)
    except NumericsError as e:
        yield cka.skipped(str(e))
        yield aligned.skipped(str(e))
        return
    named = (f"the features of {one}", x), (FUSED if two is None else f"the features of {two}", y)
    fixed = sorted(what for what, t in named if not bool((t != t[0]).any()))
    if fixed:
        reason = f"{' and '.join(fixed)} did not vary over {len(x)} examples"
        yield cka.skipped(reason)
        yield aligned.skipped(reason)
        return
    try:
        found = sides_leave_out(features.side(one), features.side(two), current().map)
        yield cka.result(*_estimate(*found, level))
    except NumericsError as e:
        yield cka.skipped(str(e))
    try:
        _alignable(x, y, session.options_of("similarity", SimilarityOptions))
        yield aligned.result(*_estimate(*procrustes_leave_out(x, y, groups, count), level))
    except NumericsError as e:
        yield aligned.skipped(str(e))
        return
    null = procrustes_null(x, y, orders)
    mean = min(max(fsum(null) / len(null), min(null)), max(null))  # a mean may round beyond equal numbers
    yield ALIGNED_BY_CHANCE.fill(other=other).result(mean, (min(null), max(null)))


def _estimate(full: float, out: list[float], level: float) -> tuple[float, tuple[float, float]]:
    """Value and jackknife interval of a similarity, within the -1 to 1 that it can be."""
    return estimate(torch.tensor([full, *out], dtype=torch.float64), level, Bounds(-1.0, 1.0))


def _alignable(x: Tensor, y: Tensor, options: SimilarityOptions) -> None:
    """Raises NumericsError where no alignment is to be computed."""
    dx, dy = x.shape[1], y.shape[1]
    if dx != dy:
        raise NumericsError(f"an orthogonal alignment needs equal dimensions, found {dx} and {dy}: see the CKA")
    if dx > options.widest:
        raise NumericsError(f"{dx} dimensions are more than similarity.widest = {options.widest}: raise it")


def _unaligned(features: Features, options: SimilarityOptions) -> dict[str, str]:
    """Why modalities are not to be aligned with the fused representation, by those that are not."""
    reasons: dict[str, str] = {}
    for m, x in features.pooled.items():
        try:
            _alignable(x, features.fused, options)
        except NumericsError as e:
            reasons[m] = str(e)
    return reasons


def _sweep(session: Session, options: SimilarityOptions) -> Iterator[Result]:
    """Procrustes cosine of every modality with the fused representation as one modality is upweighted."""
    try:
        need_fusion(session)
        need_features(session, *session.modalities)
    except NumericsError as e:
        yield SWEEP.skipped(str(e))
        return
    adapter, features = session.adapter, session.features
    reasons = _unaligned(features, options)
    if len(reasons) == len(features.modalities):
        widths = ", ".join(str(d) for d in sorted({x.shape[1] for x in features.pooled.values()}))
        yield SWEEP.skipped(
            f"no modality has features as wide as the fused representation, or they are wider than "
            f"similarity.widest = {options.widest}: found {widths} and {features.fused.shape[1]} dimensions"
        )
        return
    sweep = session.options_of("rank_sweep", SweepOptions)
    betas = sweep.betas
    for swept in swept_modalities(session, sweep):
        fused = []
        asked = (Edit(scale={swept: beta}) for beta in betas)
        for i, prediction in enumerate(predict_many(adapter, features, asked)):
            fused.append(prediction.fused)
            session.progress.step(f"similarity over β of {swept}", i + 1, len(betas))
        for m in features.modalities:
            if m in reasons:
                yield SWEEP.skipped(reasons[m], modality=swept, versus=m)
            else:
                yield _curve(features, swept, m, betas, fused, session.level)


def _curve(
    features: Features,
    swept: str,
    modality: str,
    betas: tuple[float, ...],
    fused: list[Tensor],
    level: float,
) -> Result:
    groups = features.groups
    found: dict[float, tuple[float, float, float]] = {}
    for beta, there in zip(betas, fused, strict=True):
        with contextlib.suppress(NumericsError):  # constant or not finite at this β
            full, out = procrustes_leave_out(features.pooled[modality], there, groups, int(groups.max()) + 1)
            value, (low, high) = _estimate(full, out, level)
            found[beta] = value, low, high
    if not found:
        reason = "the fused representation or the features are constant or not finite at every β"
        return SWEEP.skipped(reason, modality=swept, versus=modality)
    lost = [f"{beta:g}" for beta in betas if beta not in found]
    y, lower, upper = (tuple(v[i] for v in found.values()) for i in range(3))
    curve = Curve(x=tuple(found), y=y, lower=lower, upper=upper, x_label="β", y_label="Procrustes cosine")
    note = f"not to be had at β = {', '.join(lost)}: constant or not finite there" if lost else None
    return SWEEP.curve(curve, modality=swept, versus=modality, note=note)
