"""What modalities and results of a report are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from collapsekit.report.diagnosis import Result

if TYPE_CHECKING:
    from collapsekit.report.diagnosis import Report
    from collapsekit.report.repair import RepairReport


def modality_names(report: Report) -> list[str]:
    """Every name a modality goes by in the report, each once, the subject's own first."""
    names = [*report.subject.modalities, *report.modalities]
    names += [m for v in report.modalities.values() for m in v.costs_if_missing]
    names += [m for r in report.results for m in (r.modality, r.versus) if m is not None]
    return list(dict.fromkeys(names))


def repair_names(report: RepairReport) -> list[str]:
    """Every name a modality goes by in any of the reports within, each once, those of ``before`` first."""
    inner = [r for r in (report.before, report.after, report.control) if r is not None]
    found = [*(m for r in inner for m in modality_names(r)), *report.repaired]
    found += [m for r in report.findings for m in (r.modality, r.versus) if m is not None]
    found += [m for r in report.structure for m in (r.modality, getattr(r, "giver", None)) if m is not None]
    return list(dict.fromkeys(found))


def short_name(result: Result) -> str:
    """The name without its probe: ``vif.mean`` of probe ``vif`` is ``mean``."""
    return result.name.removeprefix(f"{result.probe}.") or result.name


def label(result: Result) -> str:
    """The short name with the modalities it is about: ``cka of image versus audio``."""
    of = f" of {result.modality}" if result.modality is not None else ""
    versus = f" versus {result.versus}" if result.versus is not None else ""
    return f"{short_name(result)}{of}{versus}"


def whole_label(result: Result | None) -> str:
    """The label with the whole name: ``similarity.cka of image versus audio``."""
    return "" if result is None else result.name + label(result).removeprefix(short_name(result))


def some(names: Sequence[str], limit: int = 3) -> str:
    """The first of them, and how many there are more."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
