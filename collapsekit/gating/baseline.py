"""Makes a baseline of reports, and adds later ones to it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from collapsekit.errors import ConfigError
from collapsekit.report.baseline import Baseline, Run, differs, same_run
from collapsekit.report.diagnosis import Report
from collapsekit.report.per_example import load_records, load_report
from collapsekit.version import __version__

_KEPT = ("training_seed", "examples", "records", "profile")  # settings that the gate reads


def slim(report: Report) -> Report:
    """The report without its curves, environment, and the settings that the gate does not read."""
    return report.model_copy(
        update={
            "results": tuple(r for r in report.results if r.value is not None or r.curve is None),
            "settings": {k: report.settings[k] for k in _KEPT if k in report.settings},
            "environment": {},
        }
    )


def make_run(report: Report, records: bytes | None) -> Run:
    """A report as a run of a baseline."""
    return Run(report=slim(report), records=None if records is None else base64.b64encode(records).decode())


def read_run(path: Path, *, records: bool = True) -> Run:
    """The report at ``path``, with its records where they lie beside it and are wanted. Raises RefusedError."""
    report = load_report(path)
    return make_run(report, load_records(report, path) if records else None)


def make_baseline(runs: Sequence[Run], earlier: Baseline | None = None) -> Baseline:
    """A baseline of these runs; those of ``earlier`` stay, but for runs of the same weights or the same training seed, which
    these replace. Raises ConfigError for runs that cannot be compared, or are given twice."""
    for i, run in enumerate(runs):
        again = next((r for r in runs[:i] if same_run(r.report, run.report)), None)
        if again is not None:
            what = f"{again.report.subject.checkpoint} and {run.report.subject.checkpoint}"
            raise ConfigError(
                f"two of the reports are of one training run ({what}: the same weights or training seed): give each once."
            )
    kept = (
        [r for r in earlier.runs if not any(same_run(r.report, n.report) for n in runs)] if earlier is not None else []
    )
    every = [*kept, *runs]
    for run in every[1:]:
        said = differs(every[0].report, run.report)
        if said is not None:
            names = f"{every[0].report.subject.checkpoint} and {run.report.subject.checkpoint}"
            raise ConfigError(f"the reports of {names} cannot be compared, as {said}: diagnose both in the same way.")
    return Baseline(collapsekit=__version__, runs=tuple(every))


def listed(baseline: Baseline) -> list[dict[str, Any]]:
    """One line a run, for people: checkpoint, training seed, verdict, whether records are there."""
    return [
        {
            "checkpoint": r.report.subject.checkpoint,
            "sha256": r.report.subject.sha256,
            "training_seed": r.training_seed,
            "verdict": r.report.verdict,
            "records": r.records is not None,
        }
        for r in baseline.runs
    ]
