"""baseline(): a baseline of reports, and later ones added to it."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from collapsekit.errors import ConfigError
from collapsekit.gating.inputs import path_of
from collapsekit.report.baseline import Baseline, Run, differs, same_run
from collapsekit.report.diagnosis import Report
from collapsekit.report.per_example import load_records, load_report
from collapsekit.version import __version__

_KEPT = ("training_seed", "examples", "records", "profile")  # settings that the gate reads


def baseline(
    reports: Report | str | os.PathLike[str] | Sequence[Report | str | os.PathLike[str]],
    *,
    earlier: Baseline | str | os.PathLike[str] | None = None,
    records: bool = True,
) -> Baseline:
    """Make a baseline of reports, one a training run, for :func:`collapsekit.gate` to compare with.

    Nothing is written: ``Path("baseline.json").write_text(baseline.to_json())`` keeps it, with the bytes that
    ``collapsekit baseline create`` (with ``earlier``: ``update``) of the same reports writes.

    Args:
        reports: A report or several: objects, or paths of report.json or of its folder, whose records are read with it.
        earlier: A baseline, or the path of one, whose runs stay, but for those of the same weights or training seed as one
            of ``reports``, which takes their place.
        records: Whether to keep what is known of each example, without which nothing can be paired.

    Returns:
        The baseline, its runs in the order given, after the earlier ones.

    Raises:
        ConfigError: For what is no report, reports that cannot be compared, or one training run given twice.
        RefusedError: Where a file or its records are damaged.

    Example:
        >>> import collapsekit
        >>> one = collapsekit.baseline("report.json")
        >>> two = collapsekit.baseline("other/report.json", earlier=one)
        >>> len(one.runs), len(two.runs)
        (1, 2)
    """
    every = [reports] if isinstance(reports, Report | str | os.PathLike) else list(reports)
    if not every:
        raise ConfigError("a baseline needs at least one report, found none: give a report.json.")
    before = None if earlier is None else baseline_of(earlier, "earlier")
    return make_baseline([run_of(report, records=records) for report in every], before)


def slim(report: Report) -> Report:
    """Return the report without its curves, environment, and the settings that the gate does not read."""
    return report.model_copy(
        update={
            "results": tuple(r for r in report.results if r.value is not None or r.curve is None),
            "settings": {k: report.settings[k] for k in _KEPT if k in report.settings},
            "environment": {},
        }
    )


def make_run(report: Report, records: bytes | None) -> Run:
    """Return a report as a run of a baseline."""
    return Run(report=slim(report), records=None if records is None else base64.b64encode(records).decode())


def read_run(path: Path, *, records: bool = True) -> Run:
    """Return the report at ``path``, with its records where they lie beside it and are wanted. Raises RefusedError."""
    report = load_report(path)
    return make_run(report, load_records(report, path) if records else None)


def make_baseline(runs: Sequence[Run], earlier: Baseline | None = None) -> Baseline:
    """Return a baseline of these runs; those of ``earlier`` stay, but for runs of the same weights or the same training
    seed, which these replace. Raises ConfigError for runs that cannot be compared, or are given twice.
    """
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
    """Return one line a run, for people: checkpoint, training seed, verdict, whether records are there."""
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


def baseline_of(baseline: Baseline | str | os.PathLike[str], name: str = "baseline") -> Baseline:
    """Return a baseline, or the one at a path.

    Raises ConfigError for what is neither, RefusedError for a file that is none.
    """
    return baseline if isinstance(baseline, Baseline) else Baseline.load(path_of(baseline, name))


def run_of(report: Report | str | os.PathLike[str], *, records: bool) -> Run:
    """Return a report, or the one at a path or in a folder, as a run of a baseline; ``records``: with what it says of
    each example.

    Raises ConfigError for what is no report, RefusedError where a file cannot be read as one.
    """
    if isinstance(report, Report):
        return make_run(report, report.records if records else None)
    path = path_of(report, "a report")
    file = path / "report.json" if path.is_dir() else path
    if not file.exists():
        raise ConfigError(f"{path} is not a report: give a report.json that `collapsekit diagnose` wrote.")
    return read_run(file, records=records)
