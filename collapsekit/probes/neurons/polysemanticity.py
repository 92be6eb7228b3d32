"""polysemanticity: do the fusion's neurons serve one modality or several?"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.adapters.build import preserve_rng_state
from collapsekit.adapters.pooling import shifted_features
from collapsekit.context import Options
from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.interventions.marginal import marginal_samples, shifts
from collapsekit.interventions.replay import predict
from collapsekit.measures import Finding, Measure, Panel, Picture, declare
from collapsekit.probes._shared import estimate, need_mixed
from collapsekit.readouts.fit import Recipe, fit, rows_of
from collapsekit.readouts.linear import FitSplit
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Curve, Result
from collapsekit.session.costs.cost import Cost
from collapsekit.session.costs.preview import Preview
from collapsekit.session.session import Session
from collapsekit.stats.inference.bounds import NOT_NEGATIVE, SHARE
from collapsekit.stats.inference.jackknife import assign_groups
from collapsekit.stats.polysemy import drive_shares, row_entropy

PAPER = "Chaudhuri et al. 2025, Appendix C.7 and Table 9; after Scherlis et al. 2022"
WEIGHTS = (
    "a neuron's weights on a modality are the mean derivative of the neuron by that modality's features, in their leading "
    "principal coordinates times their deviation, at unit length"
)
CLASSIFIER = (
    "two-layer ReLU classifier of the modality, trained on first-layer weights of unimodal models over the same features "
    "(two thirds of the seeds; the rest checks it), applied to the fused neurons' weights on each modality; " + WEIGHTS
)
DRIVE = (
    "half the mean squared change of the fused neuron when the modality is taken from another example (total effect)"
)
READ, STEPS = 256, 200  # examples that neurons' weights are read on; steps of the classifier
SOBOL = "total effect index, Jansen 1999; Saltelli et al. 2010, Table 2 (f)"

DRIVE_OF = declare(
    Measure(
        "polysemanticity.drive",
        definition=f"the modality's part of what drives the fused neurons, summed over neurons; {DRIVE}",
        source=SOBOL,
        unit="share",
        bounds=(0.0, 1.0),
        figure="bars",
    )
)
NEURONS = declare(
    Measure(
        "polysemanticity.neurons",
        definition=f"the modality's drive share of each fused neuron, descending; {DRIVE}",
        source=SOBOL,
        figure="profile",
    )
)
DRIVE_ENTROPY = declare(
    Measure(
        "polysemanticity.drive_entropy",
        definition="mean entropy of a fused neuron's drive shares: 0 one modality a neuron, ln m all alike",
        source=SOBOL,
        unit="nats",
        bounds=(0.0, None),
    )
)
CROSS_MODAL_FRACTION = declare(
    Measure(
        "polysemanticity.cross_modal_fraction",
        definition="fused neurons that at least two modalities drive with a share of {shared:g} or more",
        source=SOBOL,
        unit="share of neurons",
        bounds=(0.0, 1.0),
        headline="whole",
    )
)
CROSS_ENTROPY = declare(
    Measure(
        "polysemanticity.cross_entropy",
        definition=f"mean over fused neurons and modalities of minus the log-probability of the modality; {CLASSIFIER}",
        source=PAPER,
        unit="nats",
        bounds=(0.0, None),
        headline="whole",
        figure="bars",
    )
)
ENTROPY = declare(
    Measure(
        "polysemanticity.entropy",
        definition=f"mean over fused neurons and modalities of the entropy of the classifier's answer; {CLASSIFIER}",
        source=PAPER,
        unit="nats",
        bounds=(0.0, None),
        figure="bars",
    )
)
CHECK = declare(
    Measure(
        "polysemanticity.check",
        definition="the classifier's cross-entropy on unimodal models it has not seen; near ln m it knows nothing; "
        f"{CLASSIFIER}",
        source=PAPER,
        unit="nats",
        bounds=(0.0, None),
    )
)
UNIFORM = declare(
    Measure(
        "polysemanticity.uniform",
        definition=f"ln m, what a uniform answer gives for either; {CLASSIFIER}",
        source="{source}",
        unit="nats",
        bounds=(0.0, None),
        figure="bars",
    )
)


PICTURES = (
    Picture(
        "neuron_drive",
        "Which modality drives each neuron",
        (Panel("share of variation", {"": "polysemanticity.neurons"}, along="fused neurons, sorted by it"),),
        (
            Finding(
                "most",
                "polysemanticity.drive",
                {
                    "clear": "{modality} drives the fused neurons most: a share of {value}.",
                    "unclear": "It is not clear which modality drives the fused neurons most: a share of {value} is due to "
                    "{modality}, {other} to {second}.",
                },
            ),
        ),
    ),
    Picture(
        "polysemanticity",
        "Neurons shared between modalities",
        (
            Panel(
                "nats",
                {
                    "cross-entropy": "polysemanticity.cross_entropy",
                    "entropy": "polysemanticity.entropy",
                    "uniform (ln m)": "polysemanticity.uniform",
                },
            ),
            Panel("mean share of neurons' variation", {"": "polysemanticity.drive"}),
        ),
        (
            Finding(
                "against",
                "polysemanticity.cross_entropy",
                {
                    "above": "A neuron's weights tell of its modality worse than a uniform answer: cross-entropy {value} "
                    "against {other} nats.",
                    "below": "A neuron's weights tell of its modality better than a uniform answer: cross-entropy {value} "
                    "against {other} nats.",
                    "unclear": "A neuron's weights tell of its modality neither clearly better nor clearly worse than a "
                    "uniform answer: cross-entropy {value} against {other} nats.",
                },
                other="polysemanticity.uniform",
            ),
        ),
    ),
)


class PolysemanticityOptions(Options):
    """Options of the polysemanticity probe."""

    seeds: int = Field(default=4, ge=3, description="unimodal models a modality the classifier learns from")
    hidden: int = Field(default=64, gt=1, description="hidden width of unimodal models and of the classifier")
    epochs: int = Field(default=20, gt=0, description="at most so many epochs a unimodal model")
    coordinates: int = Field(default=32, gt=0, description="principal coordinates a weight vector keeps")
    neurons: int = Field(default=128, gt=1, description="fused neurons whose weights are read, evenly spaced")
    draws: int = Field(default=4, gt=0, description="other examples a modality is taken from, for the drive")
    shared: float = Field(default=0.1, gt=0, lt=0.5, description="drive share from which a neuron counts as served")


def estimate_cost(preview: Preview) -> Cost:
    """Cost the replays that take one modality from other examples, and the models that the classifier learns from."""
    options, features = preview.options_of("polysemanticity", PolysemanticityOptions), preview.features
    if features.concatenated:
        return Cost()
    count = len(preview.modalities)
    cost = preview.replayed(1 + count * len(shifts(preview.size, options.draws)))
    if preview.profile == "quick":
        return cost
    try:
        cost += preview.fit_split()
    except NumericsError:  # the classifier is skipped
        return cost
    if min(x.shape[1] for x in features.pooled.values()) < 2:
        return cost
    rows = min(READ, preview.size)
    cost += Cost(replays=rows, gradients=rows * len(_picked(features.fused.shape[1], options)))
    return cost + preview.fitted(count * options.seeds, options.epochs) + Cost(heads=1, steps=STEPS)


@probe(
    "polysemanticity",
    title="Neurons shared between modalities",
    place=70,
    pictures=PICTURES,
    summary="whether fused neurons serve several modalities: modality classifier on weights, and drive by data",
    definition="cross-entropy and entropy of a modality classifier on neurons' weights; and drive shares: " + DRIVE,
    source=PAPER,
    cannot="sharing neurons is not a collapse, and a cross-entropy above ln m is confident error, not spread mass",
    options=PolysemanticityOptions,
    trains="models",
    cost=estimate_cost,
)
def run(session: Session) -> Iterator[Result]:
    """Tell whether the fusion's neurons serve one modality or several.

    By a classifier of modalities that reads a neuron's weights (Chaudhuri et al. 2025, Appendix C.7 and Table 9; after
    Scherlis et al. 2022), and by what moves the neuron on data, its total effect indices (Jansen 1999).

    Yields:
        By modality its part of what drives the neurons, as a whole and neuron by neuron; the entropy of these parts and the
        share of neurons that several modalities drive; cross-entropy and entropy of the classifier, its check, and what a
        uniform answer would give.
    """
    options = session.options_of("polysemanticity", PolysemanticityOptions)
    need_mixed(session)
    yield from _drive(session, options)
    try:
        yield from _classifier(session, options)
    except NumericsError as e:
        for measure in (CROSS_ENTROPY, ENTROPY, CHECK, UNIFORM.fill(source=PAPER)):
            yield measure.skipped(str(e))


def _drive(session: Session, options: PolysemanticityOptions) -> Iterator[Result]:
    """Which modality's variation drives each fused neuron."""
    totals = _effects(session, options)
    shares, kept = drive_shares(totals[0])
    idle = int((~kept).sum())
    note = f"{idle} of {len(kept)} fused neurons that no modality moves left out" if idle else None
    out = [drive_shares(t)[0] for t in totals[1:]]
    weight = [t.sum(1) / t.sum() for t in totals]  # by variance: a neuron that hardly moves hardly counts
    for i, m in enumerate(session.modalities):
        value, span = estimate(torch.stack([w[i] for w in weight]), session.level, SHARE)
        yield DRIVE_OF.result(value, span, modality=m, note=note)
        line = shares[i].sort(descending=True).values
        curve = Curve(
            x=tuple(range(1, len(line) + 1)), y=tuple(line.tolist()), x_label="fused neuron", y_label="drive share"
        )
        yield NEURONS.curve(curve, modality=m, note=note)
    yield from _sharing(shares, out, note, options, session.level)


def _effects(session: Session, options: PolysemanticityOptions) -> list[Tensor]:
    """Total effect of every modality on every fused neuron (m, D): over all examples, then without each group."""
    adapter, features = session.adapter, session.features
    groups = features.groups
    count = int(groups.max()) + 1
    sums = {m: torch.zeros(count, features.fused.shape[1], dtype=torch.float64) for m in features.modalities}
    others = marginal_samples(len(features), options.draws, session.seed, features.alike)
    before = predict(adapter, features).fused.double()  # in the same batches, so that what is not read changes nothing
    for m in features.modalities:
        for other in others:
            change = predict(adapter, features, swap={m: other}).fused.double() - before
            sums[m].index_add_(0, groups, change.square() / (2 * len(others)))
    effects = torch.stack([sums[m] for m in features.modalities])  # m G D
    # A difference of sums may be a rounding under 0.
    return [effects.sum(1), *((effects.sum(1) - effects[:, g]).clamp_min(0) for g in range(count))]


def _sharing(
    shares: Tensor, out: list[Tensor], note: str | None, options: PolysemanticityOptions, level: float
) -> Iterator[Result]:
    """How many modalities drive a neuron, from drive shares (m, D) over all examples and without each group."""
    for quantity, value, values in (
        (
            DRIVE_ENTROPY.fill(),
            float(row_entropy(shares.T).mean()),
            [float(row_entropy(s.T).mean()) for s in out],
        ),
        (
            CROSS_MODAL_FRACTION.fill(shared=options.shared),
            _cross_modal(shares, options.shared),
            [_cross_modal(s, options.shared) for s in out],
        ),
    ):
        found = torch.tensor([value, *values], dtype=torch.float64)
        yield quantity.result(*estimate(found, level, quantity.bounds), note=note)


def _cross_modal(shares: Tensor, threshold: float) -> float:
    return float(((shares >= threshold).sum(0) >= 2).double().mean())


def _classifier(session: Session, options: PolysemanticityOptions) -> Iterator[Result]:
    if session.profile == "quick":
        raise NumericsError("profile quick trains no unimodal models")
    values, silent = _classified(session, options)
    for measure, each in values:
        groups = assign_groups(len(each), min(16, len(each)))
        found = torch.stack([each.mean(), *(each[groups != g].mean() for g in range(int(groups.max()) + 1))]).double()
        notes = ["interval over neurons, not examples"]
        if silent and measure is not CHECK:
            notes.append(f"no fused neuron has weights on {', '.join(silent)}, which is not in this mean")
        value, span = estimate(found, session.level, NOT_NEGATIVE)
        yield measure.result(value, span, note="; ".join(notes))
    yield UNIFORM.fill(source="definition of entropy").result(math.log(len(session.modalities)))


def _classified(session: Session, options: PolysemanticityOptions) -> tuple[list[tuple[Measure, Tensor]], list[str]]:
    """Cross-entropy and entropy of every neuron's weights, the check, and modalities no neuron has weights on."""
    at, features, modalities = session.fit_split, session.features, session.modalities
    width = min(options.coordinates, *(x.shape[1] for x in features.pooled.values()))
    if width < 2:
        raise NumericsError("a modality has one feature only, so its weights have no direction to tell apart")
    jacobian = _fusion_weights(session, options)
    axes = {k: _axes(at.train.pooled[k], width) for k in modalities}
    weights = {k: _unit(jacobian[k] @ axes[k]) for k in modalities}
    truth = torch.cat([torch.full((len(weights[k]),), i) for i, k in enumerate(modalities)])
    if len(truth) < 2:
        raise NumericsError("fewer than two fused neurons have weights on any modality")
    rows, labels, held = _unimodal_weights(session, at, axes, options)
    unlearnt = [k for i, k in enumerate(modalities) if len(set(held[labels == i].tolist())) < 2]
    if unlearnt:
        raise NumericsError(f"the features of {', '.join(unlearnt)} do not vary, so unimodal models have no weights")
    net = _train_classifier(rows[~held], labels[~held], len(modalities), options.hidden, session.seed)
    with torch.no_grad():
        log_p = net(torch.cat(list(weights.values())).float()).double().log_softmax(1)
        check = net(rows[held].float()).double().log_softmax(1)
    values = [
        (CROSS_ENTROPY, -log_p.gather(1, truth[:, None])[:, 0]),
        (ENTROPY, row_entropy(log_p.exp())),
        (CHECK, -check.gather(1, labels[held][:, None])[:, 0]),
    ]
    return values, [k for k in modalities if not len(weights[k])]


def _axes(x: Tensor, width: int) -> Tensor:
    """Leading principal axes of features (n, d) times their deviations, (d, width)."""
    centred = x.double() - x.double().mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    values, vectors = values.flip(0)[:width].clamp_min(0), vectors.flip(1)[:, :width]
    # An axis has no sign of its own: its largest entry is made positive.
    sign = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    axes: Tensor = vectors * sign * values.sqrt()
    return axes


def _unit(rows: Tensor) -> Tensor:
    length = rows.norm(dim=1, keepdim=True)
    found: Tensor = rows[length[:, 0] > 1e-12] / length[length[:, 0] > 1e-12]
    return found


def _unimodal_weights(
    session: Session, at: FitSplit, axes: dict[str, Tensor], options: PolysemanticityOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """First-layer weights of unimodal models, their modality, and which belong to seeds kept for checking."""
    rows, labels, held = [], [], []
    for i, (modality, axis) in enumerate(axes.items()):
        for seed in range(options.seeds):
            with torch.random.fork_rng():
                torch.manual_seed(session.seed + seed)
                net = nn.Sequential(
                    nn.Linear(len(axis), options.hidden), nn.ReLU(), nn.Linear(options.hidden, at.width)
                )

            def outputs(f: Features, r: Tensor, net: nn.Module = net, modality: str = modality) -> Tensor:
                out: Tensor = net(f.pooled[modality][r])
                return out

            recipe = Recipe(rate=1e-3, epochs=options.epochs, seed=session.seed + seed)
            fit(net, list(net.parameters()), outputs, at, session.task, recipe)
            weight = _unit(next(net.parameters()).detach().double() @ axis)
            rows.append(weight)
            labels.append(torch.full((len(weight),), i))
            held.append(torch.full((len(weight),), seed >= math.ceil(options.seeds * 2 / 3)))
        session.progress.step("unimodal models for polysemanticity", i + 1, len(axes))
    return torch.cat(rows), torch.cat(labels), torch.cat(held)


def _train_classifier(rows: Tensor, labels: Tensor, m: int, hidden: int, seed: int) -> nn.Module:
    with preserve_rng_state():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(rows.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, m))
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=1e-2)
        for _ in range(STEPS):
            loss = F.cross_entropy(net(rows.float()), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def _picked(width: int, options: PolysemanticityOptions) -> Tensor:
    """Numbers of the fused neurons whose weights are read, evenly spaced, int64 (k,)."""
    picked: Tensor = torch.linspace(0, width - 1, min(options.neurons, width)).round().long().unique()
    return picked


def _fusion_weights(session: Session, options: PolysemanticityOptions) -> dict[str, Tensor]:
    """Mean derivative of fused neurons by each modality's pooled features, {modality: (neurons, d)}.

    It is taken by a shift of the features that is the same for every example and position, which moves what mean
    pooling gives by as much.
    """
    adapter, features = session.adapter, session.features
    rows = torch.arange(min(READ, len(features)))
    recorded, inputs = rows_of(features, rows)
    shifts, shifted = {}, {}
    for m, tensors in recorded.items():
        shifts[m] = torch.zeros(features.pooled[m].shape[1], requires_grad=True)
        section = adapter.config.modalities[m]
        shifted[m] = tuple(shifted_features(t, shifts[m], section.pool, adapter.layout(m, t)) for t in tensors)
    with torch.enable_grad():
        fused = adapter.rerun(shifted, inputs).fused
    if not fused.requires_grad:
        raise NumericsError("the fused representation has no gradient by the features, so no weights to read")
    picked = _picked(fused.shape[1], options)
    out: dict[str, list[Tensor]] = {m: [] for m in shifts}
    for k in picked.tolist():
        grads = torch.autograd.grad(fused[:, k].sum(), list(shifts.values()), retain_graph=True, allow_unused=True)
        for m, g in zip(shifts, grads, strict=True):
            out[m].append(torch.zeros(len(shifts[m])).double() if g is None else g.double() / len(rows))
    return {m: torch.stack(v) for m, v in out.items()}
