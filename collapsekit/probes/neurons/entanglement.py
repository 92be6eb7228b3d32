"""entanglement: do fused neurons carry what one modality predicts together with what is noise in another?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.adapters.pooling import shifted_features
from collapsekit.context import Options
from collapsekit.errors import NumericsError
from collapsekit.features.batching import CHUNK
from collapsekit.features.features import Features
from collapsekit.interventions.gradients import SCOUT, FusionLayer, differentiable, find_site, gradients
from collapsekit.io.transfer import to_device
from collapsekit.measures import Finding, Measure, Panel, Picture, Quantity, declare
from collapsekit.probes._layers import fusion_layers, layer_outputs
from collapsekit.probes._shared import estimate, need_features, need_mixed
from collapsekit.probes._slopes import neuron_slopes
from collapsekit.readouts.fit import rows_of
from collapsekit.readouts.linear import FitSplit
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Curve, Result
from collapsekit.session.costs.cost import Cost
from collapsekit.session.costs.preview import Preview
from collapsekit.session.session import Session
from collapsekit.stats.checks import doubled
from collapsekit.stats.linalg import entanglement as en
from collapsekit.stats.linalg.gradients import spectrum_of
from collapsekit.stats.linalg.ranks import rank_interval
from collapsekit.stats.linalg.spectrum import effective_rank
from collapsekit.stats.linear import Linear

LARGEST = 2**20  # drives (neurons by features) kept at once, for each jackknife group
INFORMATIVE = 0.01  # share of the prior loss a readout has to gain to have predictive directions
PAPER = "Chaudhuri et al. 2025"
SOBOL = "Sobol' & Kucherenko 2009, Math. Comput. Simul. 79:3009 (derivative-based global sensitivity)"
DEFINITION = f"after {PAPER}, Definition 1 and Section 3.1; {SOBOL}"
LEMMA = f"after {PAPER}, Lemma 3; {SOBOL}"
THEOREM = f"after {PAPER}, Theorem 1"
PARTS = (
    "a modality's predictive part: what its {read} fitted on train tells of its pooled features by least squares, the "
    "fewest values that hold {leading:g} of the variance; its noisy part: the rest, uncorrelated with these; a modality of "
    "which a linear readout gains under 1 % of the prior loss is all noise"
)
DRIVE = (
    "drive of a part: mean over examples of the variance that the part, at the neuron's derivative by the modality's "
    "pooled features there, would give it, which for a linear fusion is the variance it carries"
)
CARRIES = "a neuron carries a part that has at least {shared:g} of its drive; " + DRIVE + "; " + PARTS
KEEPS = "with only the modality's predictive part as it is, everything else at its mean over the examples; " + PARTS

ENTANGLED = declare(
    Measure(
        "entanglement.entangled",
        definition="fraction of the fused neurons that any feature drives which carry the predictive part of one modality "
        f"and the noisy part of another; {CARRIES}",
        source=DEFINITION,
        unit="share of neurons",
        bounds=(0.0, 1.0),
        headline="whole",
        figure="bars",
    )
)
EXPECTED = declare(
    Measure(
        "entanglement.expected",
        definition="the same fraction if each neuron's drives were permuted over all parts that there are; the interval is "
        "where it would then lie for as many neurons; " + PARTS,
        source=f"permutation null in closed form, {DEFINITION}",
        unit="share of neurons",
        bounds=(0.0, 1.0),
        figure="bars",
    )
)
SHARED_DRIVE = declare(
    Measure(
        "entanglement.shared_drive",
        definition="probability that of two features drawn from a fused neuron, each by its part's share of the drive, one "
        "is in the predictive part of one modality and one in the noisy part of another, mean over driven neurons; "
        f"{DRIVE}; {PARTS}",
        source=DEFINITION,
        unit="probability",
        bounds=(0.0, 1.0),
        figure="bars",
    )
)
EXPECTED_SHARED = declare(
    Measure(
        "entanglement.expected_shared",
        definition="the same probability if each neuron's drives were permuted over all parts that there are, mean over "
        f"permutations; {DRIVE}; {PARTS}",
        source=f"permutation null in closed form, {DEFINITION}",
        unit="probability",
        bounds=(0.0, 1.0),
        figure="bars",
    )
)
PAIR = declare(
    Measure(
        "entanglement.pair",
        definition="fraction of driven fused neurons that carry the modality's noisy part and the other's predictive part; "
        + CARRIES,
        source=DEFINITION,
        unit="share of neurons",
        bounds=(0.0, 1.0),
        figure="matrix",
    )
)
CONJUGATES = declare(
    Measure(
        "entanglement.conjugates",
        definition="fraction of driven fused neurons that carry both parts of the modality: where its noise can cancel what "
        f"it predicts; {CARRIES}",
        source=DEFINITION,
        unit="share of neurons",
        bounds=(0.0, 1.0),
    )
)
PREDICTIVE_DRIVE = declare(
    Measure(
        "entanglement.predictive_drive",
        definition="share that the modality's predictive part has of a fused neuron's drive, mean over driven neurons; "
        f"{DRIVE}; {PARTS}",
        source=SOBOL,
        unit="share of drive",
        bounds=(0.0, 1.0),
        figure="bars",
    )
)
NOISY_DRIVE = declare(
    Measure(
        "entanglement.noisy_drive",
        definition="share that the modality's noisy part has of a fused neuron's drive, mean over driven neurons; with the "
        f"predictive ones adds up to 1 over modalities; {DRIVE}; {PARTS}",
        source=SOBOL,
        unit="share of drive",
        bounds=(0.0, 1.0),
        figure="bars",
    )
)
FEATURE_RATIO = declare(
    Measure(
        "entanglement.feature_ratio",
        definition="share of a neuron's drive that a feature of the modality's predictive part has, divided by the same of "
        "its noisy part, features being uncorrelated directions of variance 1; means over neurons, each weighted by the "
        f"share that the other modality's predictive part has of its drive; {DRIVE}; {PARTS}",
        source=LEMMA,
        unit="ratio",
        bounds=(0.0, None),
    )
)
EXPECTED_RATIO = declare(
    Measure(
        "entanglement.expected_ratio",
        definition="the same ratio with every neuron weighted alike, which is what it would be if the modality's drives "
        f"were permuted over neurons; {DRIVE}; {PARTS}",
        source=f"permutation null in closed form, {LEMMA}",
        unit="ratio",
        bounds=(0.0, None),
    )
)
GAMMA = declare(
    Measure(
        "entanglement.gamma",
        definition="features that a fused neuron, a subspace of one dimension, encodes, mean over driven neurons: "
        "dimensions of pooled features with at least {second:g} of the drive of its strongest one, drive being mean squared "
        "derivative times variance",
        source=f"after {PAPER}, Definition 2; {SOBOL}",
        unit="features a dimension",
        bounds=(0.0, None),
    )
)
GRADIENT_SUM = declare(
    Measure(
        "entanglement.gradient_sum",
        definition="length of the sum over examples of the task loss's gradients by a neuron's weights in the first layer "
        "that the modalities enter, divided by the sum of their lengths, both added up over its neurons; {of}",
        source=THEOREM,
        unit="share",
        bounds=(0.0, 1.0),
        cannot="training ends where the gradients of training examples add up to about nothing whatever the cause: hold it "
        "against the value without a modality, of examples as they are",
    )
)
EXPECTED_SUM = declare(
    Measure(
        "entanglement.expected_sum",
        definition="the same share if each example's gradient had a random sign, in root mean square; {of}",
        source=f"closed form, {THEOREM}",
        unit="share",
        bounds=(0.0, 1.0),
    )
)
LAYER_RANKS = declare(
    Measure(
        "entanglement.layer_ranks",
        definition="effective rank of what each layer of the fusion gives, pooled, in the order of calls: exp of the "
        "entropy of σ/Σσ, σ the singular values of the column-centred features",
        source=f"after {PAPER}, Theorem 4; Roy & Vetterli 2007",
        unit="dimensions",
        bounds=(0.0, None),
    )
)
AS_IS = "of examples as they are"


PICTURES = (
    Picture(
        "entanglement",
        "Noise of one modality in neurons of another",
        (
            Panel(
                "share of fused neurons, of drive",
                {
                    "entangled": "entanglement.entangled",
                    "by chance": "entanglement.expected",
                    "shared drive": "entanglement.shared_drive",
                    "the same, permuted": "entanglement.expected_shared",
                },
            ),
            Panel(
                "share of a neuron's drive",
                {"predictive": "entanglement.predictive_drive", "noisy": "entanglement.noisy_drive"},
            ),
            Panel(
                "noise of a row (share of neurons)",
                {"": "entanglement.pair"},
                along="with predictive features of",
                most=1.0,
            ),
        ),
        (
            Finding(
                "against",
                "entanglement.entangled",
                {
                    "above": "More fused neurons than by chance carry one modality's predictive features with another's "
                    "noise: a share of {value} against {other}.",
                    "below": "Fewer fused neurons than by chance carry one modality's predictive features with another's "
                    "noise: a share of {value} against {other}.",
                    "unclear": "Fused neurons that carry one modality's predictive features with another's noise are "
                    "neither clearly more nor clearly fewer than by chance: a share of {value} against {other}.",
                },
                other="entanglement.expected",
            ),
        ),
    ),
)


class EntanglementOptions(Options):
    """Options of the entanglement probe."""

    split: Literal["readout", "lda"] = Field(
        default="readout",
        description="which directions are predictive: those of a linear readout, or of LDA (classes only)",
    )
    leading: float = Field(
        default=0.99, gt=0, le=1, description="share of the variance of predictive values that directions have to hold"
    )
    shared: float = Field(
        default=0.1, gt=0, lt=0.5, description="share of its drive from which a neuron carries a part"
    )
    second: float = Field(
        default=0.1, gt=0, lt=1, description="drive, relative to the first, from which a feature counts"
    )
    neurons: int = Field(
        default=128, gt=0, description="neurons that are read, evenly spaced, of the fusion and its layer"
    )
    examples: int = Field(default=512, gt=15, description="examples whose derivatives are taken")


def estimate_cost(preview: Preview) -> Cost:
    """Cost readouts, one replay of some examples with a pass back for each neuron, and two for each modality's gradients."""
    if preview.features.concatenated:
        return Cost()
    options, adapter, features = (
        preview.options_of("entanglement", EntanglementOptions),
        preview.adapter,
        preview.features,
    )
    cost = preview.pooled_readouts()
    count, rows = len(preview.modalities), min(options.examples, preview.size)
    cost += Cost(replays=rows, gradients=rows * len(_picked(features, options)))
    with contextlib.suppress(NumericsError):  # no layer is listened to
        cost += Cost(replays=rows * bool(fusion_layers(preview.session)))
    try:
        with preserve_rng_state(), differentiable(adapter):
            site = find_site(adapter, features, preview.seed)
    except NumericsError:  # the gradients are skipped
        return cost
    scout, tried = min(SCOUT, preview.size), min(CHUNK, preview.size) * (site.layer is not None)
    cost += Cost(replays=(2 + count) * scout + (1 + count) * tried, gradients=site.backwards * scout)
    runs = (1 + count) * rows * (site.layer is not None)
    return cost + Cost(replays=runs, gradients=runs).at_most("only modalities with a predictive part have gradients")


@probe(
    "entanglement",
    title="Noise of one modality in neurons of another",
    place=85,
    pictures=PICTURES,
    summary="fused neurons that carry one modality's predictive features together with another's noise, beside chance; only "
    "with `-p entanglement`",
    definition="fraction of fused neurons that carry the predictive part of one modality and the noisy part of another; "
    f"{DRIVE}",
    source=f"{DEFINITION}; Lemma 3, Definition 2 and Theorem 1",
    cannot="carrying noise is not a collapse, and a modality that is not heard entangles nothing (see predictive_drive); "
    "noisy means that no linear readout of this modality alone uses it: it may predict in a curve, or with another "
    "modality; the split is fitted on examples, so a part of few examples is uncertain beyond its interval; derivatives do "
    "not see a saturated or stepwise fusion",
    options=EntanglementOptions,
    trains="heads",
    default=False,
    cost=estimate_cost,
)
def run(session: Session) -> Iterator[Result]:
    """Tell whether fused neurons carry what one modality predicts together with what is noise in another.

    After Definitions 1 and 2, Lemma 3 and Theorem 1 of Chaudhuri et al. 2025; a part's drive is a derivative-based
    sensitivity (Sobol' & Kucherenko 2009).

    Yields:
        The share of neurons that carry a predictive part and another modality's noisy one, beside what permuted drives
        would give; the same by pair, and both parts of one modality; each part's share of the drive; how much more a
        predictive feature drives than a noisy one in another modality's neurons; features a neuron; and how far the loss
        gradients of predictive parts cancel; and the rank after each layer of the fusion.
    """
    options = session.options_of("entanglement", EntanglementOptions)
    need_mixed(session)
    need_features(session, *session.modalities)
    subject = _SplitSubject(session, options)
    drives = _drives(subject)
    try:
        found = [en.carried_parts(d, options.shared) for d in drives.parts]
    except NumericsError as e:
        yield from _skipped(subject, str(e))
    else:
        yield from _entangled(subject, drives, found)
        yield from _by_modality(subject, drives, found)
        values = [en.features_of_neurons(d, options.second) for d in drives.features]
        yield subject.measured(GAMMA.fill(second=options.second), values, note=drives.note(found[0]))
    yield from _gradient_sums(subject)
    yield _layer_ranks(subject)


class _SplitSubject:
    """What is split and read."""

    def __init__(self, session: Session, options: EntanglementOptions) -> None:
        self.session, self.options, self.features = session, options, session.features
        self.rows = torch.arange(min(options.examples, len(self.features)))
        units, self.groups = self.features.groups[self.rows].unique(return_inverse=True)
        self.count = len(units)
        if self.count < 2:
            raise NumericsError(
                f"the first {len(self.rows)} examples belong together, so nothing tells how sure it is: raise "
                "entanglement.examples"
            )
        self.pooled = {m: self.features.pooled[m][self.rows].double() for m in session.modalities}
        at = session.fit_split
        self.readouts = {m: _predictive_values(session, at, m, options) for m in session.modalities}
        if not any(r.shape[1] for r in self.readouts.values()):
            raise NumericsError(
                "no modality's features have a linear readout that gains 1 % of the prior loss, so none is predictive"
            )

    def fill(self, measure: Measure, **fields: object) -> Quantity:
        """The measure under these options."""
        read = "linear readout" if self.options.split == "readout" else "linear discriminant analysis"
        names = {"read": read, "leading": self.options.leading, "shared": self.options.shared}
        of = {"of": str(fields["of"]).format(**names)} if "of" in fields else {}
        return measure.fill(**names, **of)

    def measured(self, quantity: Quantity, values: list[float], **about: Any) -> Result:
        """A number over all examples and without each group, as a result within its bounds."""
        value, ends = estimate(torch.tensor(values, dtype=torch.float64), self.session.level, quantity.bounds)
        return quantity.result(value, ends, **about)

    def counted(self, measure: Measure, values: list[float], **about: Any) -> Result:
        """A share of neurons likewise, its interval cut at 0 and 1: the share moves in steps of one neuron, and a scale
        that has no end there would stretch the last step over all that there is."""
        value, (low, high) = estimate(torch.tensor(values, dtype=torch.float64), self.session.level)
        return self.fill(measure).result(value, (max(0.0, low), min(1.0, high)), **about)

    @property
    def keeps(self) -> list[Tensor]:
        """Which rows count: all, then all without each group."""
        return [torch.ones(len(self.rows), dtype=torch.bool), *(self.groups != g for g in range(self.count))]

    def split(self, modality: str) -> str:
        """How many directions are predictive, in words."""
        return f"{self.readouts[modality].shape[1]} predictive directions of {self.pooled[modality].shape[1]}"


def _predictive_values(session: Session, at: FitSplit, modality: str, options: EntanglementOptions) -> Tensor:
    """Slopes (d, k) of what predicts by a modality's pooled features; of no columns where nothing does."""
    chosen = session.pooled_readout(modality)
    x = at.train.pooled[modality][at.fit].double()
    constant = session.task.prior(at.targets, at.width).expand(len(at.choose), -1)
    prior = float(session.task.loss(constant, at.held_targets).mean())
    if prior - chosen.fitted.loss < INFORMATIVE * abs(prior):
        return torch.zeros(x.shape[1], 0, dtype=torch.float64)
    if options.split == "lda":
        if session.task.name != "classification":
            raise NumericsError(
                f"entanglement.split=lda is for classes, and the task is {session.task.name}: use split=readout"
            )
        return en.leading_values(en.class_directions(x, at.targets), x, options.leading)
    readout = chosen.fitted.readout
    if not isinstance(readout, Linear):
        raise NumericsError("the task reads features out by no linear model, so they have no predictive directions")
    return en.leading_values(readout.weight / readout.scale[:, None], x, options.leading)


@dataclass(frozen=True)
class _PartDrives:
    """Drives of the neurons read: over all examples, then without each group."""

    parts: list[Tensor]  # "k m 2"
    features: list[Tensor]  # "k F"
    sizes: Tensor  # "m 2", directions of each part
    read: int
    width: int
    notes: tuple[str, ...]

    @property
    def there(self) -> Tensor:
        return self.sizes > 0

    def note(self, parts: en.CarriedParts) -> str | None:
        idle = self.read - len(parts.shares)
        left = (f"{idle} of {self.read} fused neurons that no feature drives left out",) if idle else ()
        return "; ".join((*self.notes, *left)) or None


def _drives(subject: _SplitSubject) -> _PartDrives:
    features, rows, options = subject.features, subject.rows, subject.options
    picked = _picked(features, options)
    spaces = [_FeatureSpace(subject, m) for m in features.modalities]
    widths = [subject.pooled[m].shape[1] for m in features.modalities]
    forms = torch.zeros(len(picked), len(spaces), 2, 1 + subject.count, subject.count, dtype=torch.float64)
    squares = torch.zeros(subject.count, len(picked), sum(widths), dtype=torch.float64)
    for part in rows.split(CHUNK):
        for k, slopes in enumerate(neuron_slopes(subject.session, part, picked)):
            squares[:, k].index_add_(0, subject.groups[part], slopes.square())
            for i, (space, own) in enumerate(zip(spaces, slopes.split(widths, 1), strict=True)):
                made = en.grouped_forms(own @ space.basis, subject.groups[part], subject.count, space.forms)
                forms[k, i] += made.reshape(2, 1 + subject.count, subject.count)
    x = torch.cat([subject.pooled[m] for m in features.modalities], 1)
    parts, by_feature = [], []
    for place, keep in enumerate(subject.keeps):
        groups = torch.arange(subject.count) != place - 1
        n = int(keep.sum())
        explained, total = (forms[..., place, :][..., groups].sum(-1) / n).unbind(2)
        parts.append(torch.stack([explained, (total - explained).clamp_min(0)], 2))
        by_feature.append(squares[groups].sum(0) / n * x[keep].var(0, correction=0))
    sizes = torch.tensor([[s.predictive, s.basis.shape[1] - s.predictive] for s in spaces])
    width, notes = features.fused.shape[1], []
    if len(picked) < width:
        notes.append(f"{len(picked)} of {width} fused neurons read")
    if len(rows) < len(features):
        notes.append(f"derivatives at {len(rows)} of {len(features)} examples")
    return _PartDrives(parts, by_feature, sizes, len(picked), width, tuple(notes))


class _FeatureSpace:
    """The directions in which a modality's features vary, and covariances in them: of what is explained and of all."""

    def __init__(self, subject: _SplitSubject, modality: str) -> None:
        x = subject.pooled[modality]
        _, sizes, axes = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        # Features are float32: a direction that varies by less than a millionth of the first is their rounding.
        self.basis = axes[sizes > 1e-6 * sizes.max()].T if float(sizes.max()) > 0 else axes[:0].T
        inside, readout = x @ self.basis, self.basis.T @ subject.readouts[modality]
        every = [torch.cov(inside[keep].T, correction=0).reshape(2 * self.basis.shape[1:]) for keep in subject.keeps]
        explained = [en.explained_covariance(c, readout) for c in every]
        self.forms = torch.stack([*explained, *every])
        self.predictive = min(readout.shape[1], self.basis.shape[1])


def _picked(features: Features, options: EntanglementOptions) -> Tensor:
    """Numbers of the fused neurons that are read, evenly spaced, int64 (k,)."""
    width = features.fused.shape[1]
    most = min(options.neurons, width, max(1, LARGEST // sum(x.shape[1] for x in features.pooled.values())))
    return _evenly(width, most)


def _evenly(width: int, most: int) -> Tensor:
    picked: Tensor = torch.linspace(0, width - 1, min(width, most)).round().long().unique()
    return picked


def _entangled(subject: _SplitSubject, drives: _PartDrives, neurons: list[en.CarriedParts]) -> Iterator[Result]:
    note = drives.note(neurons[0])
    values = [float(f.entangled.any(2).any(1).double().mean()) for f in neurons]
    yield subject.counted(ENTANGLED, values, note=note)
    carried = neurons[0].carried.sum((1, 2))
    parts = int(drives.there.sum())
    chances = torch.tensor([en.chance_of_entanglement(c, drives.there) for c in carried.tolist()], dtype=torch.float64)
    mean = float(chances.mean())
    low, high = (c / len(chances) for c in en.count_range(chances, subject.session.level))
    yield subject.fill(EXPECTED).result(
        mean,
        (min(mean, low), max(mean, high)),
        note=f"{parts} parts, of which a neuron carries {float(carried.double().mean()):.2g} in the mean",
    )
    for measure, values in (
        (SHARED_DRIVE, [f.shared_drive for f in neurons]),
        (EXPECTED_SHARED, [f.expected_shared(drives.there) for f in neurons]),
    ):
        yield subject.measured(subject.fill(measure), values, note=note)
    by_pair = sum(en.chance_of_pair(c, parts) for c in carried.tolist()) / len(carried)
    for (i, m), (j, versus) in permutations(enumerate(subject.session.modalities), 2):
        if not (drives.there[i, en.NOISY] and drives.there[j, en.PREDICTIVE]):
            which = f"{m} has no noisy part" if not drives.there[i, en.NOISY] else f"{versus} has no predictive part"
            yield subject.fill(PAIR).skipped(which, modality=m, versus=versus)
            continue
        values = [float(f.entangled[:, i, j].double().mean()) for f in neurons]
        yield subject.counted(PAIR, values, modality=m, versus=versus, note=f"by chance {by_pair:.2g}, as in expected")


def _by_modality(subject: _SplitSubject, drives: _PartDrives, neurons: list[en.CarriedParts]) -> Iterator[Result]:
    modalities = subject.session.modalities
    for i, m in enumerate(modalities):
        for measure, place in ((PREDICTIVE_DRIVE, en.PREDICTIVE), (NOISY_DRIVE, en.NOISY)):
            values = [float(f.shares[:, i, place].mean()) for f in neurons]
            yield subject.measured(subject.fill(measure), values, modality=m, note=subject.split(m))
        if bool(drives.there[i].all()):
            values = [float(f.conjugate[:, i].double().mean()) for f in neurons]
            yield subject.counted(CONJUGATES, values, modality=m)
        else:
            yield subject.fill(CONJUGATES).skipped(f"it has one part only: {subject.split(m)}", modality=m)
        yield _ratio(subject, drives, neurons, i, None)
    for (i, _), (j, _) in permutations(enumerate(modalities), 2):
        yield _ratio(subject, drives, neurons, i, j)


def _ratio(
    subject: _SplitSubject, drives: _PartDrives, neurons: list[en.CarriedParts], modality: int, versus: int | None
) -> Result:
    names = subject.session.modalities
    about: dict[str, Any] = {"modality": names[modality], "versus": None if versus is None else names[versus]}
    quantity = subject.fill(EXPECTED_RATIO if versus is None else FEATURE_RATIO)
    try:
        values = [en.feature_ratio(f, drives.sizes, modality, versus) for f in neurons]
    except NumericsError as e:
        return quantity.skipped(str(e), **about)
    return subject.measured(quantity, values, **about)


def _skipped(subject: _SplitSubject, reason: str) -> Iterator[Result]:
    """Why no drive can be told; what is said of modalities is left out."""
    for measure in (ENTANGLED, EXPECTED, SHARED_DRIVE, EXPECTED_SHARED):
        yield subject.fill(measure).skipped(reason)
    yield GAMMA.fill(second=subject.options.second).skipped(reason)


# ---- Theorem 1


def _gradient_sums(subject: _SplitSubject) -> Iterator[Result]:
    """How far loss gradients cancel: of examples as they are, then of each modality's predictive part alone."""
    session = subject.session
    results: list[Result] = []
    # All of it before the first of these is handed out, so that nobody sees the model with its gradients on.
    with preserve_rng_state(), differentiable(session.adapter):
        try:
            site = find_site(session.adapter, session.features, session.seed)
            reason = site.reason
        except NumericsError as e:
            reason = str(e)
        for m in (None, *session.modalities):
            why = reason
            if m is not None and subject.readouts[m].shape[1] == 0:
                why = "it has no predictive part"
            results += _cancelled(subject, None if why else site, why, m)
    yield from results


def _cancelled(subject: _SplitSubject, site: FusionLayer | None, reason: str, modality: str | None) -> Iterator[Result]:
    of = AS_IS if modality is None else KEEPS
    quantities = [subject.fill(measure, of=of) for measure in (GRADIENT_SUM, EXPECTED_SUM)]
    try:
        if site is None:
            raise NumericsError(reason)
        sums = _sums(subject, site, modality)
    except NumericsError as e:
        yield from (quantity.skipped(str(e), modality=modality) for quantity in quantities)
        return
    values = [sums.agreement(g) for g in (None, *range(subject.count))]
    yield subject.measured(quantities[0], values, modality=modality, note=f"the layer is {site.name}")
    yield quantities[1].result(sums.chance, modality=modality)


def _sums(subject: _SplitSubject, site: FusionLayer, modality: str | None) -> en.GradientSums:
    """Gradients by the layer's weights with only what is predictive in the modality as it is."""
    assert site.layer is not None
    shifts: dict[str, Tensor] = {}
    if modality is not None:
        shifts = {m: x.mean(0) - x for m, x in subject.pooled.items()}
        x = subject.pooled[modality]
        shifts[modality] = en.explained_part(x, subject.readouts[modality]) - x
    calls: list[tuple[Tensor, Tensor]] = []

    def note(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls.append((args[0], output))
        return output.clone()  # what follows may write into it

    entered, left = [], []
    handle = site.layer.register_forward_hook(note)
    try:
        for part in subject.rows.split(CHUNK):
            loss = _loss(subject, part, {m: shift[part] for m, shift in shifts.items()})
            x, y = calls.pop()
            (slope,) = gradients(loss, [y])
            if slope is None or len(slope) != len(part):
                raise NumericsError(f"{site.name} has no row for each example, so no gradient is of one example")
            picked = _evenly(slope.shape[-1], subject.options.neurons)
            entered.append(_by_position(x, len(part)))
            left.append(_by_position(slope[..., picked.to(slope.device)], len(part)))
    finally:
        handle.remove()
    sums = en.gradient_sums(torch.cat(entered), torch.cat(left), subject.groups, subject.count)
    if float(sums.lengths.sum()) == 0:
        raise NumericsError(f"the loss gradient is zero at {site.name}")
    return sums


def _by_position(x: Tensor, n: int) -> Tensor:
    """What enters or leaves a layer as float64 "n t d", t positions."""
    return x.detach().cpu().double().reshape(n, -1, x.shape[-1])


def _loss(subject: _SplitSubject, rows: Tensor, shifts: Mapping[str, Tensor]) -> Tensor:
    """The examples' training loss, added up, with the pooled features of modalities moved by "n d"."""
    adapter = subject.session.adapter
    recorded, inputs = rows_of(subject.features, rows)
    for m, shift in shifts.items():
        pool = adapter.config.modalities[m].pool
        recorded[m] = tuple(shifted_features(t, shift, pool, adapter.layout(m, t)) for t in recorded[m])
    seed_everything(0)  # as in replay
    outputs = doubled(adapter.rerun(recorded, inputs).outputs)
    return adapter.task.training_loss(outputs, to_device(subject.features.targets[rows], outputs.device)) * len(rows)


# ---- Theorem 4


def _layer_ranks(subject: _SplitSubject) -> Result:
    """Effective rank after each layer of the fusion."""
    try:
        outputs = layer_outputs(subject.session, subject.rows)
    except NumericsError as e:
        return LAYER_RANKS.skipped(str(e))
    ranks: dict[str, tuple[float, tuple[float, float]]] = {}
    for name, x in outputs.items():
        with contextlib.suppress(NumericsError):  # what is constant has no rank
            value, *out = (effective_rank(spectrum_of(x[keep] - x[keep].mean(0))) for keep in subject.keeps)
            ranks[name] = value, rank_interval(value, out, min(x.shape), subject.session.level)
    if not ranks:
        return LAYER_RANKS.skipped("no layer of the fusion is called once with a row for each example")
    return LAYER_RANKS.curve(
        Curve(
            x=tuple(ranks),
            y=tuple(value for value, _ in ranks.values()),
            lower=tuple(low for _, (low, _) in ranks.values()),
            upper=tuple(high for _, (_, high) in ranks.values()),
            x_label="layer",
            y_label="effective rank",
        )
    )
