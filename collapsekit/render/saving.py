"""A report written to a file, by the ending of its name, or to a folder, as ``collapsekit diagnose -o`` writes one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from collapsekit.errors import ConfigError
from collapsekit.io.files import write_atomic
from collapsekit.io.locks import locked
from collapsekit.io.safe_text import quote
from collapsekit.render import write
from collapsekit.report.base import Contract
from collapsekit.report.diagnosis import Report
from collapsekit.report.per_example import NAME

# Ending of a file's name -> the format that is written.
ENDINGS = {".json": "json", ".html": "html", ".htm": "html", ".md": "md", ".txt": "terminal"}
INTERACTIVE = "html-interactive"
FOLDER_FORMATS = ("json", "md", "html")


def save_report(report: Contract, path: str | os.PathLike[str]) -> list[Path]:
    """Write a report of any kind to a file or a folder, and return what was written.

    A path with a known ending is a file. A folder that is there, and a path without an ending, is a folder. Raises
    ConfigError where it is neither, or cannot be written.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise ConfigError(f"a report is saved to a path, not to {type(path).__name__}: name a file or a folder.")
    place, ending = Path(path), Path(path).suffix.lower()
    if ending in ENDINGS:
        return [write_atomic(place, write(report, ENDINGS[ending], width=80))]
    if ending and not os.path.isdir(place) and not os.fspath(path).endswith(("/", os.sep)):  # noqa: PTH112 - Path's own raises for a name too long
        raise ConfigError(
            f"{quote(str(place))} ends in {quote(ending)}, which says no format: use {', '.join(ENDINGS)}, or name a folder."
        )
    return write_folder(report, place, FOLDER_FORMATS)


def write_folder(report: Contract, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write a report in several formats, and what a diagnosis says of each example beside its JSON.

    Args:
        report: Of any kind.
        folder: Where; made where it is not there.
        formats: Of json, md, html and html-interactive.

    Returns:
        The paths, records first.

    Raises:
        ConfigError: Where a file cannot be written: those before it are then whole.
    """
    written, stem = [], stem_of(report)
    # So that files of two diagnoses are not mixed.
    with locked(folder / NAME) if formats and isinstance(report, Report) else nullcontext():
        if (
            "json" in formats and isinstance(report, Report) and report.records is not None
        ):  # before the report that names it
            written.append(write_atomic(folder / NAME, report.records))
        written += [write_atomic(folder / file_of(stem, name), write(report, name)) for name in formats]
    return written


def file_of(stem: str, format_: str) -> str:
    """Name the file that a format of a report is written to, so that a browser opens what is HTML."""
    return f"{stem}-interactive.html" if format_ == INTERACTIVE else f"{stem}.{format_}"


def stem_of(report: Contract) -> str:
    """Name the files of a kind of report, without their ending: ``report``, ``repair``, ``gate``, …"""
    kind = type(report).__module__.rpartition(".")[2]
    return "report" if kind == "diagnosis" else kind
