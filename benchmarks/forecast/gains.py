"""One model: what repairing it was expected to gain, and what each method then gained."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import collapsekit
from benchmarks.forecast.subjects import ToRepair
from benchmarks.repair.measure import own_options
from collapsekit import registry
from collapsekit.adapters.base import Adapter
from collapsekit.config.options import RepairOptions
from collapsekit.context import Progress
from collapsekit.repairs.forecast import forecasts
from collapsekit.repairs.request import check_method_options, make_job, make_request
from collapsekit.repairs.training.loop import train
from collapsekit.repairs.training.snapshots import Snapshots
from collapsekit.report.verdicts import is_weak

PROBES = ("reliance", "missing")
RATES = (0.5, 0.9)


def gains(subject: ToRepair, methods: Sequence[str], split: str = "test") -> Iterator[dict[str, Any]]:
    """Yield a record of the model as it was ("none", with the forecast) and one after each method.

    Args:
        subject: The model.
        methods: Names of repairs, with a preset or an option as ``benchmarks.repair`` takes them.
        split: What is measured on; val, for choices.

    Yields:
        Records; a single one, of no method, where the diagnosis finds nobody to repair.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        how = RepairOptions.make(profile="quick", seed=subject.seed, cache=folder / "cache")
        request = make_request(subject.checkpoint, subject.config, how)
        every = check_method_options({})
        with request.open() as opened:
            before = request.diagnose(opened, "val", ("utilisation", "reliance"))
            weak = subject.weak or tuple(m for m, v in before.modalities.items() if is_weak(v))
            if not weak:
                yield {"subject": subject.name, "seed": subject.seed, "method": None}
                return
            if subject.weak is not None:  # as a repair does for its report, before it trains; where times are told
                request.diagnose(opened, "test", ("utilisation",))
        known = {f.modality: (f.gain, *(f.interval or ())) for f in forecasts(before, weak)}
        about = {"subject": subject.name, "seed": subject.seed, "weak": weak, "metric": before.subject.metric}
        now = _measured(opened.rebuilt(), split, subject.seed)
        yield {**about, "method": "none", "forecast": known, **now}
        for number, chosen in enumerate(methods):
            method, _, asked = chosen.partition(":")
            began = time.process_time()  # whatever else the machine does
            job, _ = make_job(request, opened, opened.rebuilt(), before, weak)
            here = job.at_place(0, own_options(every[method], asked))
            curves = train(
                registry.get_repair(method).stages(here), here, method, Snapshots(folder / str(number), {}), Progress()
            )
            took = time.process_time() - began
            kept = sum(curve.kept for curve in curves)
            found = _measured(job.adapter, split, subject.seed)
            yield {**about, "method": chosen, "seconds": took, "epoch_kept": kept, **found}


def _measured(adapter: Adapter, split: str, seed: int) -> dict[str, Any]:
    report = collapsekit.diagnose(
        model=adapter.model,
        config=adapter.config,
        split=split,
        probes=PROBES,
        options={"missing": {"rates": RATES}},
        profile="quick",
        seed=seed,
    )
    found = {
        name: report.find(name) for name in ("reliance.full_metric", "missing.patterns.zeros", "missing.rates.zeros")
    }
    return {name.partition(".")[2]: None if r is None else r.value for name, r in found.items()}
