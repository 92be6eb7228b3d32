"""A made-up cost of a diagnosis, under hostile names, too."""

from __future__ import annotations

from collapsekit.report.cost import CostReport, CostRow

STOPS, BEST = "training stops early", "another fill may do"


def SAMPLE(names: tuple[str, ...]) -> CostReport:
    """A probe a name, one that says nothing and one that would measure nothing."""
    rows = [
        CostRow(
            name=f"{name}{i}",
            replays=12_345,
            encodings=7,
            heads=2,
            steps=90,
            at_most=("steps",),
            why=(STOPS,),
            seconds=2.0,
        )
        for i, name in enumerate(names)
    ]
    rows += [CostRow(name="silent", estimated=False), CostRow(name="idle", skipped=f"{names[0]} says nothing")]
    parts = [CostRow(name="opening", passes=1_000, seconds=5.0), *rows]
    counts = {k: sum(getattr(r, k) for r in parts) for k in ("passes", "encodings", "replays", "heads", "steps")}
    return CostReport(
        collapsekit="0.1.0",
        checkpoint=names[-1],
        profile="standard",
        split=names[0],
        seed=0,
        examples={names[0]: 1_000},
        opening=parts[0],
        probes=tuple(rows),
        total=CostRow(name="total", **counts, at_most=("steps",), why=(STOPS,), seconds=7_200.0),
        unit_seconds={"passes": 0.005, "replays": 1e-5, "steps": 1e-3},
        kept_bytes=3_000_000_000,
        peak_bytes=5_000_000,
    )
