"""Names that a shell completes: of what comes with collapsekit, by its files, so that nothing is imported."""

from __future__ import annotations

from pathlib import Path

_FILES = {"probes": "probes/*/*.py", "repairs": "repairs/methods/*.py"}


def probe_names(incomplete: str) -> list[str]:
    """Return probes whose names begin so."""
    return _names("probes", incomplete)


def repair_names(incomplete: str) -> list[str]:
    """Return repairs whose names begin so."""
    return _names("repairs", incomplete)


NAMES = {"probes": probe_names, "repairs": repair_names}


def _names(kind: str, incomplete: str) -> list[str]:
    names = sorted(f.stem for f in Path(__file__).parents[1].glob(_FILES[kind]))
    return [name for name in names if name.startswith(incomplete) and not name.startswith("_")]
