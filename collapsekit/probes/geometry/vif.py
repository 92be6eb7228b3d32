"""vif: multicollinearity of the fused representation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.context import Settings
from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.measures import Measure, declare
from collapsekit.probes.geometry.spectrum import CONCATENATED
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Curve, Result
from collapsekit.stats.inference.jackknife import interval
from collapsekit.stats.linalg.vif import vif
from collapsekit.stats.threads import side_by_side

DEFINITION = "diagonal of the inverse correlation matrix of the fused representation's non-constant columns"
SOURCE = "Belsley, Kuh & Welsch 1980, 3.2; its mean in Chaudhuri et al. 2025, Table 7"
MEDIAN = declare(
    Measure(
        "vif.median",
        definition=f"median over neurons of the {DEFINITION}",
        source=SOURCE,
        unit="times",
        better="lower",
        why="1 is no redundancy between fused neurons",
        headline="whole",
    )
)
MEAN = declare(
    Measure(
        "vif.mean",
        definition=f"mean over neurons of the {DEFINITION}",
        source=SOURCE,
        unit="times",
        better="lower",
        why="1 is no redundancy between fused neurons",
        headline="whole",
    )
)
MAX = declare(
    Measure(
        "vif.max",
        definition=f"max over neurons of the {DEFINITION}",
        source=SOURCE,
        unit="times",
        better="lower",
        why="1 is no redundancy between fused neurons",
    )
)
PER_FEATURE = declare(Measure("vif.per_feature", definition=DEFINITION, source=SOURCE, figure="profile"))
SUMMARIES: tuple[tuple[Measure, Callable[[Tensor], float]], ...] = (
    (MEAN, lambda v: float(v.mean())),
    (MEDIAN, lambda v: float(v.quantile(0.5))),
    (MAX, lambda v: float(v.max())),
)


@probe(
    "vif",
    title="Redundancy of fused neurons (VIF)",
    place=60,
    summary="variance inflation of the fused representation: mean, median, max and per neuron",
    definition=DEFINITION,
    source=SOURCE,
    cannot="collinear neurons say nothing of which modality they serve; compare only on equal n and width",
)
def run(adapter: Adapter, features: Features, *, settings: Settings) -> Iterator[Result]:
    x = features.fused
    n, d = x.shape
    try:
        if features.concatenated:
            raise NumericsError(CONCATENATED)
        if n < 2 * d:
            raise NumericsError(
                f"needs at least 2·d = {2 * d} examples for d = {d} neurons, found {n}: use more examples"
            )
        whole, left = features.moments(x)
        full, *out = side_by_side(vif, chain([whole], left), 9.0 * d**3)
    except NumericsError as e:
        for measure, _ in SUMMARIES:
            yield measure.skipped(str(e))
        return
    notes = []
    if full.constant:
        listed = ", ".join(map(str, full.constant[:12])) + (", …" if len(full.constant) > 12 else "")
        notes.append(f"{len(full.constant)} constant neurons left out: {listed}")
    if full.bound:
        notes.append("near-singular: the values are lower bounds")
    if n < 10 * d:
        notes.append(f"n = {n} is under 10·d = {10 * d}: biased up")
    note = "; ".join(notes) or None
    for measure, summary in SUMMARIES:
        value = summary(full.values)
        low, high = interval(value, [summary(v.values) for v in out], settings.level, log=True)
        yield measure.result(value, (min(value, max(1.0, low)), high), note=note)
    curve = Curve(
        x=tuple(map(float, full.kept)),
        y=tuple(full.values.tolist()),
        x_label="neuron of the fused representation",
        y_label="variance inflation factor",
    )
    yield PER_FEATURE.curve(curve, note=note)
