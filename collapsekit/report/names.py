"""What modalities and results of a report are called; reports under other names, and with every string cleaned.

Checkpoints, configs and reports come from strangers: what shows a report shows a clean one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from collapsekit.io.safe_text import NAME_LIMIT, TEXT_LIMIT, clean, display_names, distinct_names
from collapsekit.io.safe_text import some as some

if TYPE_CHECKING:
    from collapsekit.report.base import Contract
    from collapsekit.report.comparison import Comparison
    from collapsekit.report.diagnosis import Report, Result
    from collapsekit.report.gate import GateReport
    from collapsekit.report.repair import RepairReport

Names = dict[str, str]
T = TypeVar("T", bound="Contract")


def modality_names(report: Report) -> list[str]:
    """List every name a modality goes by in the report, each once, the subject's own first."""
    names = [*report.subject.modalities, *report.modalities]
    names += [m for v in report.modalities.values() for m in v.costs_if_missing]
    names += [m for r in report.results for m in (r.modality, r.versus) if m is not None]
    for category in report.categories.each if report.categories is not None else ():
        names += [*category.modalities, *(m for v in category.modalities.values() for m in v.costs_if_missing)]
        names += [m for r in category.results for m in (r.modality, r.versus) if m is not None]
    return list(dict.fromkeys(names))


def subset_members(modalities: Sequence[str], name: str) -> frozenset[str] | None:
    """Return the modalities in a set of that name, or None where it is the name of none."""
    if name == "(none)":
        return frozenset()
    parts = [name] if name in modalities else name.split("+")
    return frozenset(parts) if all(p in modalities for p in parts) else None


def repair_names(report: RepairReport) -> list[str]:
    """List every name a modality goes by in any of the reports within, each once, those of ``before`` first."""
    inner = [r for r in (report.before, report.after, report.control) if r is not None]
    found = [*(m for r in inner for m in modality_names(r)), *report.repaired]
    found += [m for r in report.findings for m in (r.modality, r.versus) if m is not None]
    found += [f.modality for f in report.forecast]
    found += [m for r in report.structure for m in (r.modality, getattr(r, "giver", None)) if m is not None]
    return list(dict.fromkeys(found))


def short_name(result: Result) -> str:
    """Name a result without its probe: ``vif.mean`` of probe ``vif`` is ``mean``."""
    return result.name.removeprefix(f"{result.probe}.") or result.name


def label(result: Result) -> str:
    """Name a result briefly, with the modalities it is about: ``cka of image versus audio``."""
    of = f" of {result.modality}" if result.modality is not None else ""
    versus = f" versus {result.versus}" if result.versus is not None else ""
    return f"{short_name(result)}{of}{versus}"


def whole_label(result: Result | None) -> str:
    """Name a result whole, with the modalities it is about: ``similarity.cka of image versus audio``."""
    return "" if result is None else result.name + label(result).removeprefix(short_name(result))


def cleaned(report: Report) -> Report:
    """Clean every string of a report.

    Names of modalities stay distinct and the same wherever they occur, subsets ("a+b") included.
    """
    raw = _renamed(report, display_names(modality_names(report)))
    if report.categories is not None:
        shown = display_names(c.name for c in report.categories.each)
        for category in raw["categories"]["each"]:
            category["name"] = shown[category["name"]]
    return _checked(report, raw)


def renamed(report: Report, names: Names) -> Report:
    """Call the modalities of a report by other names; sentences and settings are left as they are.

    ``names`` has one entry for each of :func:`modality_names`, all values different.
    """
    return type(report).model_validate(_renamed(report, names))


def cleaned_repair(report: RepairReport) -> RepairReport:
    """Clean every string of the report of a repair.

    Names of modalities, of methods and of encoders stay distinct, and the same in all the reports within.
    """
    raw = _renamed_repair(report, display_names(repair_names(report)))
    methods = display_names([*report.method, *report.definitions, *(c.method for c in report.losses)])
    raw["method"] = tuple(methods[m] for m in report.method)
    raw["definitions"] = {methods[m]: text for m, text in report.definitions.items()}
    paths = display_names((record.path for record in report.structure), 4 * NAME_LIMIT)
    for record in raw["structure"]:
        record["path"] = paths[record["path"]]
    for curve in raw["losses"]:
        curve["method"] = methods[curve["method"]]
    return _checked(report, raw)


def renamed_repair(report: RepairReport, names: Names) -> RepairReport:
    """Call modalities by other names in all the reports within; ``names`` has one entry for each of :func:`repair_names`."""
    return type(report).model_validate(_renamed_repair(report, names))


def cleaned_gate(report: GateReport) -> GateReport:
    """Clean every string of a decision.

    Names of modalities stay distinct and the same wherever they occur; no two checks have the same name.
    """
    names = _display([*report.subject.modalities, *report.modalities, *(c.modality for c in report.checks)])
    raw = report.model_dump()
    raw["subject"]["modalities"] = tuple(names[m] for m in report.subject.modalities)
    raw["modalities"] = {names[m]: state for m, state in report.modalities.items()}
    titles = distinct_names((c.name for c in report.checks), TEXT_LIMIT // 2)  # room for a number
    for check, title in zip(raw["checks"], titles, strict=True):
        check["name"] = title
        _rename(check, names, "modality")
    return _checked(report, raw)


def cleaned_comparison(comparison: Comparison) -> Comparison:
    """Clean every string of a comparison; names of columns and of modalities stay distinct."""
    columns = display_names(c.name for c in comparison.columns)
    names = _display([*comparison.modalities, *(n for r in comparison.rows for n in (r.modality, r.versus))])
    raw = comparison.model_dump()
    raw["modalities"] = tuple(names[m] for m in raw["modalities"])
    for column in raw["columns"]:
        column["name"] = columns[column["name"]]
    for row in raw["rows"]:
        _rename(row, names)
    if raw["testing"] is not None:
        raw["testing"]["reference"] = columns[raw["testing"]["reference"]]
    if raw["base"] is not None:
        raw["base"] = columns[raw["base"]]
    return _checked(comparison, raw)


def _checked(report: T, raw: dict[str, Any]) -> T:
    """``raw``, every string in it cleaned, as a report of the same kind."""
    return type(report).model_validate(_walk(raw))


def _display(names: Iterable[str | None]) -> Names:
    return display_names(n for n in names if n is not None)


def _renamed_repair(report: RepairReport, names: Names) -> dict[str, Any]:
    raw = report.model_dump()
    for part, inner in (("before", report.before), ("after", report.after), ("control", report.control)):
        if inner is not None:
            raw[part] = _renamed(inner, names)
    raw["repaired"] = tuple(names[m] for m in report.repaired)
    for finding in raw["findings"]:
        _rename_result(finding, names)
    for said in raw["forecast"]:
        _rename(said, names, "modality")
    for record in raw["structure"]:
        _rename(record, names, *({"modality", "giver"} & record.keys()))
    for check in raw["checks"]:
        what, dot, modality = check["name"].partition(".")  # "score.audio"
        check["name"] = what + dot + names.get(modality, modality)
    return raw


def _renamed(report: Report, names: Names) -> dict[str, Any]:
    raw = report.model_dump()
    raw["subject"]["modalities"] = tuple(names[m] for m in report.subject.modalities)
    raw["modalities"] = {names[k]: v for k, v in raw["modalities"].items()}
    for verdict in raw["modalities"].values():
        verdict["costs_if_missing"] = {names[k]: v for k, v in verdict["costs_if_missing"].items()}
    for category in (raw.get("categories") or {"each": ()})["each"]:
        category["modalities"] = {names[k]: v for k, v in category["modalities"].items()}
        for verdict in category["modalities"].values():
            verdict["costs_if_missing"] = {names[k]: v for k, v in verdict["costs_if_missing"].items()}
        for result in category["results"]:
            _rename_result(result, names)
    for result in raw["results"]:
        _rename_result(result, names)
    return raw


def _rename_result(result: dict[str, Any], names: Names) -> None:
    _rename(result, names)
    if result["curve"] is not None:
        result["curve"]["x"] = tuple(_category(x, names) for x in result["curve"]["x"])


def _rename(raw: dict[str, Any], names: Names, *fields: str) -> None:
    for field in fields or ("modality", "versus"):
        raw[field] = None if raw[field] is None else names[raw[field]]


def _category(x: float | str, names: Names) -> float | str:
    if not isinstance(x, str):
        return x
    parts = [x] if x in names else x.split("+")
    return "+".join(names[p] for p in parts) if all(p in names for p in parts) else x


def _walk(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value, TEXT_LIMIT)
    if isinstance(value, dict):
        return {clean(str(k), TEXT_LIMIT): _walk(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_walk(v) for v in value)
    return value
