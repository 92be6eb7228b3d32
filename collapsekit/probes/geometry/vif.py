"""vif: multicollinearity of the fused representation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.context import Settings
from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.probes.geometry.spectrum import CONCATENATED
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Curve, Result
from collapsekit.stats.inference.jackknife import interval
from collapsekit.stats.linalg.vif import vif
from collapsekit.stats.threads import side_by_side

DEFINITION = "diagonal of the inverse correlation matrix of the fused representation's non-constant columns"
SOURCE = "Belsley, Kuh & Welsch 1980, 3.2; its mean in Chaudhuri et al. 2025, Table 7"
SUMMARIES: dict[str, Callable[[Tensor], float]] = {
    "mean": lambda v: float(v.mean()),
    "median": lambda v: float(v.quantile(0.5)),
    "max": lambda v: float(v.max()),
}


@probe(
    "vif",
    summary="variance inflation of the fused representation: mean, median, max and per neuron",
    definition=DEFINITION,
    source=SOURCE,
    cannot="collinear neurons say nothing of which modality they serve; compare only on equal n and width",
)
def run(adapter: Adapter, features: Features, *, settings: Settings) -> Iterator[Result]:
    x = features.fused
    n, d = x.shape
    make = partial(Result, probe="vif", source=SOURCE)
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
        for name in SUMMARIES:
            yield make(
                name=f"vif.{name}", definition=f"{name} over neurons of the {DEFINITION}", skipped=str(e).rstrip(".")
            )
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
    for name, summary in SUMMARIES.items():
        value = summary(full.values)
        low, high = interval(value, [summary(v.values) for v in out], settings.level, log=True)
        ends = (min(value, max(1.0, low)), high)
        what = f"{name} over neurons of the {DEFINITION}"
        yield make(name=f"vif.{name}", value=value, interval=ends, unit="times", definition=what, note=note)
    yield make(
        name="vif.per_feature",
        definition=DEFINITION,
        curve=Curve(
            x=tuple(map(float, full.kept)),
            y=tuple(full.values.tolist()),
            x_label="neuron of the fused representation",
            y_label="variance inflation factor",
        ),
        note=note,
    )
