"""The quantities of a verdict: what a report says of a modality beside its results."""

from __future__ import annotations

from collapsekit.measures.catalogue import declare
from collapsekit.measures.measure import METRIC, Measure

SOURCE = "docs/verdicts.md"

VERDICT = declare(
    Measure(
        "verdict",
        definition="what the evidence says of the modality, or of the whole model",
        source=SOURCE,
        headline="each",
    )
)
SCORE = declare(
    Measure(
        "score",
        definition="how far the model ignores the modality: 0 is fully used, 1 is fully ignored",
        source=SOURCE,
        better="lower",
        why="0 is fully used, 1 is fully ignored",
        headline="each",
    )
)
COSTS_NOW = declare(
    Measure(
        "costs_now",
        definition="task metric lost today by not using the modality",
        source=SOURCE,
        unit=METRIC,
        better="lower",
        why="it is what the model loses of the task metric today",
        headline="each",
    )
)
COSTS_IF_MISSING = declare(
    Measure(
        "costs_if_missing",
        definition="{what} lost by not using the modality when {other} is absent",
        source=SOURCE,
        unit=METRIC,
        better="lower",
        why="it is what the model loses of the task metric when another modality is missing",
        headline="each",
    )
)
OF_VERDICT = (VERDICT, SCORE, COSTS_NOW, COSTS_IF_MISSING)
