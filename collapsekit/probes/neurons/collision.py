"""collision: are the two features that drive a fused neuron most of different modalities, and would chance do as much?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import torch
from pydantic import Field
from torch import Tensor

from collapsekit.context import Options
from collapsekit.errors import NumericsError
from collapsekit.features.batching import CHUNK
from collapsekit.features.features import Features
from collapsekit.measures import Finding, Measure, Panel, Picture, declare
from collapsekit.probes._shared import estimate, need_features, need_mixed
from collapsekit.probes._slopes import neuron_slopes
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Result
from collapsekit.session.costs.cost import Cost
from collapsekit.session.costs.preview import Preview
from collapsekit.session.session import Session
from collapsekit.stats.inference.quantiles import binomial
from collapsekit.stats.linalg.collision import Collisions, collisions, lemma_bound, random_collision

LARGEST = 2**20  # drives (neurons by features) kept at once, for each jackknife group
LEMMA = "Chaudhuri et al. 2025, Lemma 1 (Section 3.1; proof in Appendix B)"
DRIVE = (
    "drive of a feature (one dimension of a modality's pooled features): mean squared derivative of the neuron by it times "
    "its variance, which for a linear fusion is the variance it carries and otherwise bounds, up to a constant, its total "
    "effect"
)
DRIVE_SOURCE = "Sobol' & Kucherenko 2009, Math. Comput. Simul. 79:3009 (derivative-based global sensitivity)"
POLYSEMANTIC = (
    "a neuron is polysemantic where its second strongest feature has at least {second:g} of the first's drive; " + DRIVE
)
CROSSING = "fraction of polysemantic fused neurons whose two strongest features are of different modalities"

BOUND = declare(
    Measure(
        "collision.bound",
        definition="m(m-1)·(min dim f)²/(Σ dim f)² for m encoders whose pooled features have dim f dimensions: least "
        "probability that a neuron encoding two features, allocated at random, encodes two modalities'; (m-1)/m for equal "
        "widths",
        source=LEMMA,
        unit="probability",
        bounds=(0.0, 1.0),
        figure="bars",
    )
)
EXPECTED = declare(
    Measure(
        "collision.expected",
        definition="fraction of polysemantic neurons whose two strongest features would be of different modalities if "
        "each neuron's drives were permuted over all features that vary; the interval is where it would then lie for as "
        "many neurons",
        source=f"{{how}}{LEMMA}",
        unit="share of neurons",
        bounds=(0.0, 1.0),
        figure="bars",
    )
)
CROSS_MODAL = declare(
    Measure(
        "collision.cross_modal",
        definition=f"{CROSSING}; {POLYSEMANTIC}",
        source=DRIVE_SOURCE,
        unit="share of neurons",
        bounds=(0.0, 1.0),
        headline="whole",
        figure="bars",
    )
)
POLYSEMANTIC_SHARE = declare(
    Measure(
        "collision.polysemantic",
        definition=f"polysemantic among the fused neurons that any feature drives; {POLYSEMANTIC}",
        source=DRIVE_SOURCE,
        unit="share of neurons",
        bounds=(0.0, 1.0),
        figure="bars",
    )
)
PAIR_SHARE = declare(
    Measure(
        "collision.pair_share",
        definition="the two strongest features' part of a polysemantic neuron's drive, mean over neurons; "
        f"{POLYSEMANTIC}",
        source=DRIVE_SOURCE,
        unit="share of drive",
        bounds=(0.0, 1.0),
    )
)
DRIVERS = declare(
    Measure(
        "collision.drivers",
        definition="the modality's part of the two strongest features of polysemantic fused neurons; adds up to 1 over "
        f"modalities; {POLYSEMANTIC}",
        source=DRIVE_SOURCE,
        unit="share of places",
        bounds=(0.0, 1.0),
        figure="bars",
    )
)
PAIR = declare(
    Measure(
        "collision.pair",
        definition="fraction of polysemantic fused neurons whose two strongest features are one of either modality; "
        f"{POLYSEMANTIC}",
        source=DRIVE_SOURCE,
        unit="share of neurons",
        figure="matrix",
    )
)


PICTURES = (
    Picture(
        "collision",
        "Collisions of modalities in fused neurons",
        (
            Panel(
                "share of fused neurons",
                {
                    "cross-modal": "collision.cross_modal",
                    "by chance": "collision.expected",
                    "least by Lemma 1": "collision.bound",
                    "polysemantic": "collision.polysemantic",
                },
            ),
            Panel("share of strongest features", {"": "collision.drivers"}),
            Panel("share of fused neurons", {"": "collision.pair"}, along="beside", most=1.0),
        ),
        (
            Finding(
                "against",
                "collision.cross_modal",
                {
                    "above": "More polysemantic neurons than by chance are driven most by two modalities: a share of "
                    "{value} against {other}.",
                    "below": "Fewer polysemantic neurons than by chance are driven most by two modalities: a share of "
                    "{value} against {other}.",
                    "unclear": "Polysemantic neurons driven most by two modalities are neither clearly more nor clearly "
                    "fewer than by chance: a share of {value} against {other}.",
                },
                other="collision.expected",
            ),
        ),
    ),
)


class CollisionOptions(Options):
    """Options of the collision probe."""

    second: float = Field(default=0.1, gt=0, lt=1, description="drive, relative to the first, of a second feature")
    neurons: int = Field(default=128, gt=0, description="fused neurons that are read, evenly spaced")
    examples: int = Field(default=512, gt=15, description="examples whose derivatives are taken")


def estimate_cost(preview: Preview) -> Cost:
    """Cost one replay of some examples, and a pass back for each neuron that is read."""
    if preview.features.concatenated:
        return Cost()
    options = preview.options_of("collision", CollisionOptions)
    rows = min(options.examples, preview.size)
    return Cost(replays=rows, gradients=rows * len(_picked(preview.features, options)))


@probe(
    "collision",
    title="Collisions of modalities in fused neurons",
    place=80,
    pictures=PICTURES,
    summary="fused neurons driven by features of two modalities, beside Lemma 1's bound and chance",
    definition=f"{CROSSING}; {DRIVE}",
    source=f"{LEMMA}; {DRIVE_SOURCE}",
    cannot="few collisions are no sign of health: a modality that hardly drives the fusion cannot collide (see drivers); "
    "pooled dimensions stand for the paper's features, which they need not be, and correlated ones count apart; the lemma "
    "bounds random allocation, which training need not resemble; where pair_share is small, many features share a neuron "
    "and two of them tell little; derivatives do not see a saturated or stepwise fusion",
    options=CollisionOptions,
    cost=estimate_cost,
)
def run(session: Session) -> Iterator[Result]:
    """Tell whether the two features that drive a fused neuron most are of different modalities, and whether chance would
    do as much.

    The bound is Lemma 1 of Chaudhuri et al. 2025 (Section 3.1); a feature's drive is its derivative-based sensitivity
    (Sobol' & Kucherenko 2009).

    Yields:
        The bound, what permuted drives would give, the share of polysemantic neurons whose two strongest features are of
        different modalities, the share that is polysemantic, how much those two features carry, and both by modality.
    """
    options, features = session.options_of("collision", CollisionOptions), session.features
    bound = lemma_bound([x.shape[1] for x in features.pooled.values()])
    yield BOUND.result(bound, note="a bound on random allocation, so a trained model may lie below it")
    try:
        need_mixed(session)
        need_features(session, *session.modalities)
        drives = _drives(session, options)
        found = [collisions(d, drives.owner, len(features.modalities), options.second) for d in drives.left_out]
        chance = random_collision(drives.varying)
    except NumericsError as e:
        for measure in (CROSS_MODAL, POLYSEMANTIC_SHARE, PAIR_SHARE):
            yield measure.fill(second=options.second).skipped(str(e))
        yield EXPECTED.fill(how="").skipped(str(e))
        return
    yield _expected(chance, found[0].polysemantic, session.level)
    idle = drives.read - found[0].driven
    notes = [f"{drives.read} of {drives.width} fused neurons read" if drives.read < drives.width else None]
    if options.examples < len(features):
        notes.append(f"derivatives at {options.examples} of {len(features)} examples")
    notes.append(f"{idle} of {drives.read} fused neurons that no feature drives left out" if idle else None)
    make = partial(_measured, options=options, level=session.level, note="; ".join(filter(None, notes)) or None)
    yield make(CROSS_MODAL, [c.cross_modal for c in found])
    yield make(POLYSEMANTIC_SHARE, [c.polysemantic / c.driven for c in found])
    yield make(PAIR_SHARE, [c.reach for c in found])
    yield from _by_modality(make, features.modalities, found)


def _measured(
    measure: Measure,
    values: list[float],
    *,
    options: CollisionOptions,
    level: float,
    note: str | None,
    modality: str | None = None,
    versus: str | None = None,
) -> Result:
    """A share over all examples and without each group, as a result within 0 to 1."""
    quantity = measure.fill(second=options.second)
    value, ends = estimate(torch.tensor(values, dtype=torch.float64), level, quantity.bounds)
    return quantity.result(value, ends, modality=modality, versus=versus, note=note)


def _by_modality(make: partial[Result], modalities: tuple[str, ...], found: list[Collisions]) -> Iterator[Result]:
    for i, m in enumerate(modalities):
        yield make(DRIVERS, [float(c.pairs[i].sum()) for c in found], modality=m)
    for (i, a), (j, b) in combinations(enumerate(modalities), 2):
        both = [2 * float(c.pairs[i, j]) for c in found]
        # The same number told of either: none comes first.
        yield make(PAIR, both, modality=a, versus=b)
        yield make(PAIR, both, modality=b, versus=a)


def _expected(chance: float, neurons: int, level: float) -> Result:
    """Two features drawn at random, exactly; neurons being drawn apart, their number is binomial."""
    low, high = (binomial(0.5 + side * level / 2, neurons, chance) / neurons for side in (-1, 1))
    ends = min(chance, low), max(chance, high)
    return EXPECTED.fill(how="permutation null in closed form, after ").result(chance, ends)


@dataclass(frozen=True)
class _Drives:
    """Drives "k F" of the neurons read: over all examples, then without each group."""

    left_out: list[Tensor]
    owner: Tensor  # "F", place of each feature's modality
    varying: list[int]  # features a modality that are not constant
    read: int
    width: int


def _drives(session: Session, options: CollisionOptions) -> _Drives:
    features = session.features
    rows = torch.arange(min(options.examples, len(features)))
    groups = features.groups[rows]
    count = int(groups.max()) + 1
    width = features.fused.shape[1]
    x = torch.cat([features.pooled[m][rows] for m in features.modalities], 1).double()
    picked = _picked(features, options)
    squares = torch.zeros(count, len(picked), x.shape[1], dtype=torch.float64)
    for part in rows.split(CHUNK):
        for k, slope in enumerate(neuron_slopes(session, part, picked)):
            squares[:, k].index_add_(0, groups[part], slope.square())
    keeps = [torch.ones(len(rows), dtype=torch.bool), *(groups != g for g in range(count))]
    mean = [squares.sum(0), *(squares[torch.arange(count) != g].sum(0) for g in range(count))]
    left_out = [total / int(keep.sum()) * x[keep].var(0, correction=0) for total, keep in zip(mean, keeps, strict=True)]
    owner = torch.cat([torch.full((features.pooled[m].shape[1],), i) for i, m in enumerate(features.modalities)])
    varies = (x != x[0]).any(0)
    varying = [int(varies[owner == i].sum()) for i in range(len(features.modalities))]
    return _Drives(left_out, owner, varying, len(picked), width)


def _picked(features: Features, options: CollisionOptions) -> Tensor:
    """Numbers of the fused neurons that are read, evenly spaced, int64 (k,)."""
    width = features.fused.shape[1]
    most = min(options.neurons, width, max(1, LARGEST // sum(x.shape[1] for x in features.pooled.values())))
    picked: Tensor = torch.linspace(0, width - 1, most).round().long().unique()
    return picked
