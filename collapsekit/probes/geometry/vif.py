"""vif: multicollinearity of the fused representation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.measures import Finding, Measure, Panel, Picture, declare
from collapsekit.probes._shared import VIF, need_mixed
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Curve, Result
from collapsekit.session.costs.cost import reads_features
from collapsekit.session.session import Session
from collapsekit.stats.inference.jackknife import interval
from collapsekit.stats.linalg.vif import vif
from collapsekit.stats.threads import side_by_side

SOURCE = "Belsley, Kuh & Welsch 1980, 3.2; its mean in Chaudhuri et al. 2025, Table 7"
MEDIAN = declare(
    Measure(
        "vif.median",
        definition=f"median over neurons of the {VIF}",
        source=SOURCE,
        unit="times",
        bounds=(1.0, None),
        better="lower",
        why="1 is no redundancy between fused neurons",
        headline="whole",
    )
)
MEAN = declare(
    Measure(
        "vif.mean",
        definition=f"mean over neurons of the {VIF}",
        source=SOURCE,
        unit="times",
        bounds=(1.0, None),
        better="lower",
        why="1 is no redundancy between fused neurons",
        headline="whole",
    )
)
MAX = declare(
    Measure(
        "vif.max",
        definition=f"max over neurons of the {VIF}",
        source=SOURCE,
        unit="times",
        bounds=(1.0, None),
        better="lower",
        why="1 is no redundancy between fused neurons",
    )
)
PER_FEATURE = declare(Measure("vif.per_feature", definition=VIF, source=SOURCE, figure="profile", bounds=(1.0, None)))
SUMMARIES: tuple[tuple[Measure, Callable[[Tensor], float]], ...] = (
    (MEAN, lambda v: float(v.mean())),
    (MEDIAN, lambda v: float(v.quantile(0.5))),
    (MAX, lambda v: float(v.max())),
)


PICTURES = (
    Picture(
        "vif",
        "Redundancy of the fused neurons",
        (Panel("VIF", {"": "vif.per_feature"}, along="fused neuron, largest first", limits=(5.0, 10.0), log=True),),
        (
            Finding(
                "share",
                "vif.per_feature",
                {"clear": "{count} fused neurons have a VIF above {limit}."},
                limit=10.0,
            ),
        ),
    ),
)


@probe(
    "vif",
    title="Redundancy of fused neurons (VIF)",
    place=60,
    pictures=PICTURES,
    summary="variance inflation of the fused representation: mean, median, max and per neuron",
    definition=VIF,
    source=SOURCE,
    cannot="collinear neurons say nothing of which modality they serve; compare only on equal n and width",
    cost=reads_features,
    reads="fused sums",
)
def run(session: Session) -> Iterator[Result]:
    """Measure how collinear the fused neurons are, by their variance inflation factors.

    The factors are the diagonal of the inverse correlation matrix of the neurons that vary (Belsley, Kuh & Welsch 1980,
    3.2; its mean in Chaudhuri et al. 2025, Table 7).

    Yields:
        Mean, median and maximum over neurons, and the factor of each neuron.
    """
    features = session.features
    n, d = features.fused.shape
    try:
        need_mixed(session)
        if n < 2 * d:
            raise NumericsError(
                f"needs at least 2·d = {2 * d} examples for d = {d} neurons, found {n}: use more examples"
            )
        whole, left = features.moments_of(None)
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
        low, high = interval(value, [summary(v.values) for v in out], session.level, log=True)
        yield measure.result(value, (min(value, max(1.0, low)), high), note=note)
    curve = Curve(
        x=tuple(map(float, full.kept)),
        y=tuple(full.values.tolist()),
        x_label="neuron of the fused representation",
        y_label="variance inflation factor",
    )
    yield PER_FEATURE.curve(curve, note=note)
