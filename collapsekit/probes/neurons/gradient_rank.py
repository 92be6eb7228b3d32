"""gradient_rank: rank of the loss gradient and of the AGOP at the layer that mixes, and conflict of modalities."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from collapsekit.adapters.build import preserve_rng_state
from collapsekit.context import Options
from collapsekit.errors import NumericsError
from collapsekit.features.batching import CHUNK
from collapsekit.features.features import GROUPS, Features
from collapsekit.interventions.blocks import find_blocks
from collapsekit.interventions.gradients import (
    KEEP,
    SCOUT,
    FusionLayer,
    differentiable,
    find_site,
    leave_out_sums,
    loss_gradient,
    outer_products,
)
from collapsekit.interventions.marginal import marginal_samples, shifts
from collapsekit.measures import Finding, Measure, Panel, Picture, Quantity, declare
from collapsekit.probes._shared import estimate
from collapsekit.readouts.fit import HALF
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Curve, Result
from collapsekit.session.costs.cost import Cost
from collapsekit.session.costs.preview import Preview
from collapsekit.session.session import Session
from collapsekit.stats.linalg import gradients as gr
from collapsekit.stats.linalg.ranks import rank_interval
from collapsekit.stats.linalg.spectrum import effective_rank, numerical_rank


@dataclass(frozen=True)
class _Agop:
    """Outer products "r r" in a basis "d r" of the rows of the layer's weights, outside of which they are 0: there they are
    small and their decompositions cheap."""

    full: Tensor
    left: list[Tensor]  # without each jackknife group
    basis: Tensor


LEMMA, THEOREM = "Chaudhuri et al. 2025, Lemma 2", "Chaudhuri et al. 2025, Theorem 2"
AGOP_SOURCE = "Radhakrishnan et al. 2024, Science 383:1461"
GRADIENT = "the task loss's gradient by the weights of the first layer that the modalities enter, mean over examples"
AGOP = (
    "the average gradient outer product of that layer: mean over examples of the sum over {of} of g gᵀ, g the gradient "
    "by the layer's input (positions of an example summed), eigenvalues as its singular values"
)
NUMERICAL, EFFECTIVE = (
    "number of singular values above {rtol:g}·σmax, not centred, of ",
    "exp of the entropy of σ/Σσ of ",
)
ALIGNMENT = (
    "mean squared cosine of the principal angles between the directions in which the first layer's weights read the "
    "modality's columns and the leading directions of the AGOP, each as many as hold {leading:g} of Σσ² of these "
    "weights, of the AGOP's trace; the modality's columns: those of which at least {owned:g} of the mean squared change "
    "is its own, when each modality by itself is taken from other examples"
)
ANSATZ = "cosine (Frobenius) of WᵀW and the AGOP of the first layer{part}; W its weights"
CONFLICT = (
    "cosine of the loss gradients by all {count} weights outside the encoders that it reaches, one with the modality as "
    "it is and the others taken together from other examples ({draws} of them, losses averaged), one likewise with the "
    "other; below 0: learning from one undoes the other"
)

GRADIENT_NUMERICAL_RANK = declare(
    Measure(
        "gradient_rank.gradient_numerical_rank",
        definition=NUMERICAL + GRADIENT,
        source=LEMMA,
        unit="dimensions",
        bounds=(0.0, None),
    )
)
GRADIENT_EFFECTIVE_RANK = declare(
    Measure(
        "gradient_rank.gradient_effective_rank",
        definition=EFFECTIVE + GRADIENT,
        source=LEMMA,
        unit="dimensions",
        bounds=(0.0, None),
        headline="whole",
        figure="bars",
    )
)
AGOP_NUMERICAL_RANK = declare(
    Measure(
        "gradient_rank.agop_numerical_rank",
        definition=NUMERICAL + AGOP,
        source=f"{LEMMA}; {AGOP_SOURCE}",
        unit="dimensions",
        bounds=(0.0, None),
    )
)
AGOP_EFFECTIVE_RANK = declare(
    Measure(
        "gradient_rank.agop_effective_rank",
        definition=EFFECTIVE + AGOP,
        source=f"{LEMMA}; {AGOP_SOURCE}",
        unit="dimensions",
        bounds=(0.0, None),
        headline="whole",
        figure="bars",
    )
)
ALIGNMENT_OF = declare(
    Measure(
        "gradient_rank.alignment",
        definition=ALIGNMENT,
        source=f"after {THEOREM}",
        unit="squared cosine",
        bounds=(0.0, 1.0),
        figure="bars",
    )
)
ANSATZ_OF = declare(
    Measure(
        "gradient_rank.ansatz", definition=ANSATZ, source=AGOP_SOURCE, unit="cosine", bounds=(0.0, 1.0), figure="bars"
    )
)
LAYERS = declare(
    Measure(
        "gradient_rank.layers",
        definition=f"{EFFECTIVE}the task loss's gradient, mean over examples, by each matrix of weights outside the "
        "encoders that it reaches",
        source=LEMMA,
        unit="dimensions",
        bounds=(0.0, None),
        figure="rows",
    )
)
CONFLICT_OF = declare(
    Measure(
        "gradient_rank.conflict",
        definition=CONFLICT,
        source="Yu et al. 2020 (PCGrad), Definition 1, between modalities; Javaloy et al. 2022",
        unit="cosine",
        bounds=(-1.0, 1.0),
        figure="matrix",
    )
)
BLOCK_NORM = declare(
    Measure(
        "gradient_rank.block_norm",
        definition="Frobenius norm of the weights that read the modality alone, in the first layer outside the encoders "
        "that the most modalities enter; those of the inputs that noise on the modality's recorded features moves",
        source="definition of the norm",
        unit="norm",
        cannot="a small block reads a modality as loudly as a large one where the features are larger: see spectrum.spread",
    )
)
LAYER_NORM = declare(
    Measure(
        "gradient_rank.layer_norm",
        definition="Frobenius norm of all weights of that layer",
        source="definition of the norm",
        unit="norm",
    )
)
OF_MATRIX = {
    "gradient": (GRADIENT_NUMERICAL_RANK, GRADIENT_EFFECTIVE_RANK),
    "agop": (AGOP_NUMERICAL_RANK, AGOP_EFFECTIVE_RANK),
}


PICTURES = (
    Picture(
        "gradient_rank",
        "What training would change at the fusion",
        (
            Panel("conflict (cosine)", {"": "gradient_rank.conflict"}, along="with", most=1.0),
            Panel(
                "alignment: squared cosine; ansatz: cosine",
                {"alignment": "gradient_rank.alignment", "ansatz": "gradient_rank.ansatz"},
            ),
            Panel(
                "effective rank (dimensions)",
                {
                    "loss gradient": "gradient_rank.gradient_effective_rank",
                    "AGOP": "gradient_rank.agop_effective_rank",
                },
            ),
            Panel("effective rank (dimensions)", {"": "gradient_rank.layers"}, along="gradient of each layer"),
        ),
        (
            Finding(
                "beyond",
                "gradient_rank.conflict",
                {
                    "clear": "The gradients of {modality} and {versus} pull against each other: cosine {value}.",
                    "unclear": "No two modalities clearly have gradients that pull against each other.",
                },
                side="below",
            ),
        ),
    ),
)


class GradientRankOptions(Options):
    """Options of the gradient_rank probe."""

    agop: Literal["outputs", "loss"] = Field(default="outputs", description="what the AGOP's gradients are of")
    draws: int = Field(default=4, gt=0, description="other examples that absent modalities are taken from")
    rtol: float = Field(default=1e-3, gt=0, lt=1, description="tolerance of the numerical ranks, relative to σmax")
    leading: float = Field(default=0.9, gt=0, le=1, description="share that leading subspaces hold")
    owned: float = Field(default=0.9, gt=0.5, le=1, description="share of a column's changes that makes it one's own")
    projections: int = Field(default=64, gt=0, description="wider outputs are read through so many random signs")


def estimate_cost(preview: Preview) -> Cost:
    """Cost finding the layer, which is done on the first examples, and the gradients by its weights and by all others."""
    options = preview.options_of("gradient_rank", GradientRankOptions)
    adapter, features, n, count = preview.adapter, preview.features, preview.size, len(preview.modalities)
    with preserve_rng_state(), differentiable(adapter):
        site = find_site(adapter, features, preview.seed)
    scout, tried = min(SCOUT, n), min(CHUNK, n) * (site.layer is not None)
    cost = Cost(replays=(3 + 2 * count) * scout + (1 + count) * tried, gradients=site.backwards * scout)
    if site.layer is not None:
        weight, outputs = site.layer.weight, features.outputs[0].numel()
        ways = 1 if options.agop == "loss" else min(outputs, options.projections)
        basis = gr.row_basis(weight.detach().cpu())
        cost += _over_groups(preview, weight.numel()) + _over_groups(preview, basis.shape[1] ** 2, ways)
    if any(p.ndim == 2 for p in site.weights.values()):
        cost += Cost(replays=n, gradients=n)
    alone = _over_groups(preview, count * sum(p.numel() for p in site.weights.values()))
    draws = count * len(shifts(n, options.draws))
    return cost + Cost(replays=draws * alone.replays, gradients=draws * alone.gradients)


def _over_groups(preview: Preview, size: int, backwards: int = 1) -> Cost:
    """A sum over examples, of ``size`` numbers: what it is without each group is made again where all are too many to
    keep."""
    features, n = preview.features, preview.size
    groups = min(GROUPS, n if features.units is None else len(features.units.unique()))
    times = 1 + (size * 8 * groups > KEEP)
    return Cost(replays=times * n, gradients=times * backwards * n)


@probe(
    "gradient_rank",
    title="What training would change: gradients at the fusion",
    place=120,
    pictures=PICTURES,
    summary="rank of the fusion's loss gradient and AGOP; each modality's part in it; conflicts between modalities",
    definition="ranks of " + GRADIENT + ", and of " + AGOP.format(of="the model's outputs"),
    source=f"{LEMMA} and {THEOREM.split(', ')[1]}; {AGOP_SOURCE}",
    cannot="the lemma is about the limit of training: ranks at one checkpoint show neither a trend nor a collapse; a "
    "modality taken from other examples contradicts the rest, which the conflict contains; a "
    "contrastive loss has its negatives from the same jackknife group",
    options=GradientRankOptions,
    cost=estimate_cost,
)
def run(session: Session) -> Iterator[Result]:
    """Measure what a step of training would change at the fusion: ranks of gradients, and conflicts between modalities.

    After Lemma 2 and Theorem 2 of Chaudhuri et al. 2025; the average gradient outer product (AGOP) is that of
    Radhakrishnan et al. 2024, the conflict that of PCGrad (Yu et al. 2020).

    Yields:
        The norm of the first layer that mixes, and of the part of it that reads each modality; numerical and effective rank
        of the loss gradient and of the AGOP there; how each modality's
        weights lie to the AGOP; the rank of the gradient by every matrix of weights; and the cosine of the gradients of
        any two modalities.
    """
    options = session.options_of("gradient_rank", GradientRankOptions)
    yield from _blocks(session)
    # All of it before the first of these is handed out, so that nobody sees the model with its gradients on.
    with preserve_rng_state(), differentiable(session.adapter):
        site = find_site(session.adapter, session.features, session.seed)
        results = [
            *_first_layer(session, site, options),
            _layers(session, site),
            *_conflicts(session, site, options),
        ]
    yield from results


def _blocks(session: Session) -> Iterator[Result]:
    """How large the weights are that read each modality, beside all of the layer's."""
    found = find_blocks(session.adapter, session.features, session.seed)
    if found.whole is None:
        yield LAYER_NORM.skipped(next(iter(found.reasons.values())))
    else:
        yield LAYER_NORM.result(found.whole, note=f"the layer is {found.name}")
    for m in session.modalities:
        if m in found.reasons:
            yield BLOCK_NORM.skipped(found.reasons[m], modality=m)
        else:
            note = f"of {found.whole:.3g} in the whole layer, {found.name}"
            yield BLOCK_NORM.result(found.blocks[m], modality=m, note=note)


def _first_layer(session: Session, site: FusionLayer, options: GradientRankOptions) -> Iterator[Result]:
    """Ranks of gradient and AGOP, and every modality's part in the AGOP."""
    adapter, features, level = session.adapter, session.features, session.level
    if site.layer is None:
        for matrix in ("gradient", "agop"):
            yield from _ranks(matrix, None, features, site, options, level)
        yield from _in_agop(features, site, None, options, level)
        return
    count, weight = int(features.groups.max()) + 1, site.weights[f"{site.name}.weight"]
    total, out = leave_out_sums(partial(loss_gradient, adapter, features, [weight], None), count)
    spectra = [gr.spectrum_of(each.reshape(weight.shape)) for each in (total, *out)]
    yield from _ranks("gradient", spectra, features, site, options, level)
    basis = gr.row_basis(site.matrix)  # all of this small algebra is done on the CPU, wherever the model runs
    products = partial(outer_products, adapter, features, site, basis, options.agop, options.projections, session.seed)
    total, out = leave_out_sums(products, count)
    agop = _Agop(total, list(out), basis)
    spectra = [gr.spectrum_of(each) for each in (agop.full, *agop.left)]
    yield from _ranks("agop", spectra, features, site, options, level)
    yield from _in_agop(features, site, agop, options, level)


def _ranks(
    matrix: str,
    spectra: list[Tensor] | None,
    features: Features,
    site: FusionLayer,
    options: GradientRankOptions,
    level: float,
) -> Iterator[Result]:
    """Numerical and effective rank of one matrix by its singular values, over all examples and without each group; or why
    there is none."""
    ranks: tuple[Callable[[Tensor], float], ...] = (
        lambda sigma: float(numerical_rank(sigma, options.rtol)),
        effective_rank,
    )
    for measure, rank in zip(OF_MATRIX[matrix], ranks, strict=True):
        of = "the model's outputs" if options.agop == "outputs" else "the loss"
        quantity = measure.fill(rtol=options.rtol, of=of)
        if spectra is None:
            yield quantity.skipped(site.reason)
            continue
        try:
            value, *out = map(rank, spectra)
            ends = rank_interval(value, out, len(spectra[0]), level)
        except NumericsError:
            yield quantity.skipped(f"it is zero at {site.name}")
        else:
            yield quantity.result(value, ends, note=_note(features, site))


def _note(features: Features, site: FusionLayer) -> str:
    notes = [f"the layer is {site.name}"]
    if features.concatenated:
        notes.append("the fusion point only concatenates: this is the layer after it")
    if any(p.dtype in HALF for p in site.weights.values()):
        notes.append("half precision: small singular values are its rounding")
    return "; ".join(notes)


def _in_agop(
    features: Features, site: FusionLayer, agop: _Agop | None, options: GradientRankOptions, level: float
) -> Iterator[Result]:
    """How the layer's weights, and those of every modality, lie to its AGOP."""
    owner = gr.owned_columns(site.drive, options.owned)
    for i, modality in [(-1, None), *enumerate(features.modalities)]:
        part = " between the modality's columns" if modality is not None else ""
        ansatz = ANSATZ_OF.fill(part=part)
        alignment = ALIGNMENT_OF.fill(leading=options.leading, owned=options.owned)
        wanted = [ansatz] if modality is None else [alignment, ansatz]
        columns = torch.ones_like(owner, dtype=torch.bool) if modality is None else owner == i
        reason = site.reason
        if agop is not None and not bool(columns.any()):
            reason = (
                f"no input of {site.name} is the modality's own: it does not move it, or is mixed with others there"
            )
        if agop is None or reason:
            for quantity in wanted:
                yield quantity.skipped(reason, modality=modality)
            continue
        weight = site.matrix
        try:
            if modality is not None:
                yield _aligned(alignment, modality, weight, columns, agop, options, level)
            # Of these columns C the block is C A Cᵀ; C = Q turn, and Q changes no cosine.
            turn = torch.linalg.qr(agop.basis[columns])[1]
            read = turn @ agop.basis.T @ weight.T
            values = [gr.frobenius_cosine(read @ read.T, turn @ a @ turn.T) for a in (agop.full, *agop.left)]
            value, ends = estimate(torch.tensor(values, dtype=torch.float64), level, ansatz.bounds)
            yield ansatz.result(value, ends, modality=modality)
        except NumericsError as e:
            for quantity in wanted:
                yield quantity.skipped(str(e), modality=modality)


def _aligned(
    alignment: Quantity,
    modality: str,
    weight: Tensor,
    columns: Tensor,
    agop: _Agop,
    options: GradientRankOptions,
    level: float,
) -> Result:
    size = len(agop.basis)
    own = gr.row_subspace(weight, columns, options.leading)
    top = agop.basis @ gr.leading_subspace(agop.full, options.leading)
    k, r = top.shape[1], own.shape[1]
    value = gr.subspace_alignment(top, own)
    out = [gr.subspace_alignment(agop.basis @ gr.leading_subspace(a, 1.0, k), own) for a in agop.left]
    chance = max(k, r) / size
    return alignment.result(
        *estimate(torch.tensor([value, *out], dtype=torch.float64), level, alignment.bounds),
        modality=modality,
        note=f"{r} directions of the weights and {k} of the AGOP among {size}: by chance {chance:.2g}",
    )


def _layers(session: Session, site: FusionLayer) -> Result:
    """Effective rank of the loss gradient by every matrix of weights."""
    adapter, features = session.adapter, session.features
    weights = {k: p for k, p in site.weights.items() if p.ndim == 2}
    if not weights:
        return LAYERS.skipped("no weight outside the encoders that the loss reaches is a matrix")
    found: dict[str, float] = {}
    total = torch.zeros(sum(p.numel() for p in weights.values()), dtype=torch.float64)
    for g in range(int(features.groups.max()) + 1):
        total += loss_gradient(adapter, features, list(weights.values()), None, g)
    sizes = [p.numel() for p in weights.values()]
    for (name, p), flat in zip(weights.items(), total.split(sizes), strict=True):
        with contextlib.suppress(NumericsError):  # a gradient of 0 has no rank
            found[name] = effective_rank(gr.spectrum_of(flat.reshape(p.shape)))
    if not found:
        return LAYERS.skipped("the loss gradient is zero by every matrix of weights")
    curve = Curve(
        x=tuple(found), y=tuple(found.values()), x_label="weights", y_label="effective rank of their gradient"
    )
    return LAYERS.curve(curve)


def _conflicts(session: Session, site: FusionLayer, options: GradientRankOptions) -> Iterator[Result]:
    """Cosines between the loss gradients that modalities give alone, both ways."""
    adapter, features = session.adapter, session.features
    weights, modalities = list(site.weights.values()), features.modalities
    others = marginal_samples(len(features), options.draws, session.seed, features.alike)
    done = [0]

    def alone(group: int) -> Tensor:
        rows = []
        for m in modalities:
            absent = [k for k in modalities if k != m]
            draws = [loss_gradient(adapter, features, weights, dict.fromkeys(absent, o), group) for o in others]
            rows.append(torch.stack(draws).sum(0))
        done[0] += 1
        session.progress.step("gradients of single modalities", done[0], None)
        return torch.stack(rows)

    conflict = CONFLICT_OF.fill(count=sum(w.numel() for w in weights), draws=len(others))
    try:
        total, out = leave_out_sums(alone, int(features.groups.max()) + 1)
        full, left = gr.cosine_matrix(total), [gr.cosine_matrix(o) for o in out]
        reason = None
    except NumericsError:
        reason = "the loss gradient is zero with one of the modalities alone"
    for (i, modality), (j, versus) in permutations(enumerate(modalities), 2):
        if reason is not None:
            yield conflict.skipped(reason, modality=modality, versus=versus)
            continue
        values = torch.stack([full[i, j], *(o[i, j] for o in left)])
        value, ends = estimate(values, session.level, conflict.bounds)
        yield conflict.result(value, ends, modality=modality, versus=versus)
