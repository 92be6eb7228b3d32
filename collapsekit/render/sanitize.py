"""Text from files is hostile until it has been through here: checkpoints, configs and reports come from strangers."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collapsekit.report.diagnosis import Report
    from collapsekit.report.gate import GateReport
    from collapsekit.report.repair import RepairReport

NAME_LIMIT = 80
TEXT_LIMIT = 4000
# Control, format (bidi, zero-width, tags), surrogate, private use, line and paragraph separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
# What a CI log would run as a command: "::error::…" at a line's start, "##[…]" anywhere (GitHub Actions).
_COMMAND = re.compile(r"(?<=:):|(?<=#)#(?=\[)")


def _visible(char: str) -> str:
    point = ord(char)
    hidden = unicodedata.category(char) in _HIDDEN or point & 0xFFFE == 0xFFFE or 0xFDD0 <= point <= 0xFDEF
    if not hidden:
        return char
    if point < 0x100:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def clean(text: str, limit: int = NAME_LIMIT) -> str:
    """``text`` with nothing in it that acts instead of being read, at most ``limit`` characters long.

    Control characters (ANSI and OSC escapes, NUL, newlines), bidirectional and zero-width controls, lone
    surrogates and CI log commands become visible escapes such as ``\\x1b``; what is too long ends in ``…``.
    HTML, Markdown and other syntax is left to each sink's own escaping. Cleaning twice changes nothing more.
    """
    escaped = text[: limit + 1]  # bounds the work on a text of any length
    if not escaped.isprintable():  # what str calls printable holds nothing of _HIDDEN
        escaped = "".join(map(_visible, escaped))
    escaped = _COMMAND.sub(lambda m: f"\\x{ord(m[0]):02x}", escaped)
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


def display_names(names: Iterable[str], limit: int = NAME_LIMIT) -> dict[str, str]:
    """Each name's cleaned form, numbered where two names would otherwise look the same."""
    every = list(dict.fromkeys(names))
    return dict(zip(every, _distinct(every, limit), strict=True))


def _distinct(names: Iterable[str], limit: int) -> Iterator[str]:
    """The cleaned form of each, numbered where it was there before."""
    used: set[str] = set()
    last: Counter[str] = Counter()
    for name in names:
        base = candidate = clean(name, limit)
        while candidate in used:
            last[base] += 1
            candidate = f"{base} ({last[base] + 1})"
        used.add(candidate)
        yield candidate


def cleaned(report: Report) -> Report:
    """The same report with every string cleaned, so that no renderer can forget one.

    Names of modalities stay distinct and stay the same wherever they occur, subsets ("a+b") included.
    """
    names = display_names(modality_names(report))
    safe: dict[str, Any] = _walk(_renamed(report, names))
    return type(report).model_validate(safe)


def renamed(report: Report, names: dict[str, str]) -> Report:
    """The same report with its modalities called by other names; sentences and settings are left as they are.

    ``names`` has one entry for each of :func:`modality_names`, all values different.
    """
    return type(report).model_validate(_renamed(report, names))


def cleaned_repair(report: RepairReport) -> RepairReport:
    """The same report of a repair with every string cleaned, so that no renderer can forget one.

    Names of modalities, of methods and of encoders stay distinct, and the same in all the reports within.
    """
    methods = display_names(dict.fromkeys([*report.method, *report.definitions, *(c.method for c in report.losses)]))
    raw = _renamed_repair(report, display_names(repair_names(report)))
    raw["method"] = tuple(methods[m] for m in report.method)
    raw["definitions"] = {methods[m]: text for m, text in report.definitions.items()}
    paths = display_names(dict.fromkeys(record.path for record in report.structure), 4 * NAME_LIMIT)
    for record in raw["structure"]:
        record["path"] = paths[record["path"]]
    for curve in raw["losses"]:
        curve["method"] = methods[curve["method"]]
    return type(report).model_validate(_walk(raw))


def cleaned_gate(report: GateReport) -> GateReport:
    """The same decision with every string cleaned, so that no renderer can forget one.

    Names of modalities stay distinct and the same wherever they occur; no two checks have the same name.
    """
    found = [*report.subject.modalities, *report.modalities, *(c.modality for c in report.checks)]
    names = display_names(n for n in found if n is not None)
    raw = report.model_dump()
    raw["subject"]["modalities"] = tuple(names[m] for m in report.subject.modalities)
    raw["modalities"] = {names[m]: state for m, state in report.modalities.items()}
    titles = _distinct((c.name for c in report.checks), TEXT_LIMIT // 2)  # room for a number
    for check, title in zip(raw["checks"], titles, strict=True):
        check["name"] = title
        check["modality"] = None if check["modality"] is None else names[check["modality"]]
    return type(report).model_validate(_walk(raw))


def renamed_repair(report: RepairReport, names: dict[str, str]) -> RepairReport:
    """:func:`renamed` in all the reports within; ``names`` has one entry for each of :func:`repair_names`."""
    return type(report).model_validate(_renamed_repair(report, names))


def repair_names(report: RepairReport) -> list[str]:
    """Every name a modality goes by in any of the reports within, each once, those of ``before`` first."""
    inner = [r for r in (report.before, report.after, report.control) if r is not None]
    found = [*(m for r in inner for m in modality_names(r)), *report.repaired]
    found += [m for r in report.findings for m in (r.modality, r.versus) if m is not None]
    found += [m for r in report.structure for m in (r.modality, getattr(r, "giver", None)) if m is not None]
    return list(dict.fromkeys(found))


def _renamed_repair(report: RepairReport, names: dict[str, str]) -> dict[str, Any]:
    raw = report.model_dump()
    for part, inner in (("before", report.before), ("after", report.after), ("control", report.control)):
        if inner is not None:
            raw[part] = _renamed(inner, names)
    raw["repaired"] = tuple(names[m] for m in report.repaired)
    for finding in raw["findings"]:
        _rename_result(finding, names)
    for record in raw["structure"]:
        record.update({k: names[record[k]] for k in ("modality", "giver") if k in record})
    for check in raw["checks"]:
        what, dot, modality = check["name"].partition(".")  # "score.audio"
        check["name"] = what + dot + names.get(modality, modality)
    return raw


def _renamed(report: Report, names: dict[str, str]) -> dict[str, Any]:
    raw = report.model_dump()
    raw["subject"]["modalities"] = tuple(names[m] for m in report.subject.modalities)
    raw["modalities"] = {names[k]: v for k, v in raw["modalities"].items()}
    for verdict in raw["modalities"].values():
        verdict["costs_if_missing"] = {names[k]: v for k, v in verdict["costs_if_missing"].items()}
    for result in raw["results"]:
        _rename_result(result, names)
    return raw


def _rename_result(result: dict[str, Any], names: dict[str, str]) -> None:
    for field in ("modality", "versus"):
        result[field] = None if result[field] is None else names[result[field]]
    if result["curve"] is not None:
        result["curve"]["x"] = tuple(_category(x, names) for x in result["curve"]["x"])


def _category(x: float | str, names: dict[str, str]) -> float | str:
    if not isinstance(x, str):
        return x
    parts = [x] if x in names else x.split("+")
    return "+".join(names[p] for p in parts) if all(p in names for p in parts) else x


def modality_names(report: Report) -> list[str]:
    """Every name a modality goes by in the report, each once, the subject's own first."""
    names = [*report.subject.modalities, *report.modalities]
    names += [m for v in report.modalities.values() for m in v.costs_if_missing]
    names += [m for r in report.results for m in (r.modality, r.versus) if m is not None]
    return list(dict.fromkeys(names))


def _walk(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value, TEXT_LIMIT)
    if isinstance(value, dict):
        return {clean(str(k), TEXT_LIMIT): _walk(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_walk(v) for v in value)
    return value
