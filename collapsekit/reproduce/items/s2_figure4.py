"""S2, Figure 4: R3D, the architecture, and what it anticipates."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.anticipation.study import ORDER_ONLY, figure5
from collapsekit.reproduce.anticipation.training import RATES
from collapsekit.reproduce.item import Point, Trial, item, rows_in_order

OBSERVED = tuple(f"{rate:.0%}" for rate in RATES)
LARGEST = 0.3
CLIP, NEXT, LOOKED_UP, ORDER = (
    "action in progress",
    "next action",
    "next action, looked up from the recognised one",
    "next action by order alone",
)
WITHOUT = "action in progress, without the fuser"


@item(
    "s2.figure4",
    title="R3D: the action in progress and the next one",
    claim="Fused tokens, a temporal fuser and queries say which action is in progress and which follows.",
    here="A small network after the figure, with 30 % of channels exchanged. The action in progress: UTD-MHAD, depth "
    "and skeleton, of which the first 20, 30 or 50 % of a clip are seen. The next one: UTKinect, whose takes are "
    "all in the same order, so that it is recognition plus one; beside it what follows the recognised action, and "
    "the order alone, which is told the action in progress. The paper's data (DARai, NTU RGB+D) are not here.",
    state="other data",
    data=("utd_mhad", "utkinect_parts"),
    rows=(CLIP, WITHOUT, NEXT, LOOKED_UP, ORDER),
    columns=OBSERVED,
    column_label="observed",
    measured="share that is right, mean over classes",
    orders=(
        rows_in_order("the fuser helps", (WITHOUT, CLIP), OBSERVED, rises=True),
        rows_in_order(
            "queries know more than the recognised action (our control)", (LOOKED_UP, NEXT), OBSERVED, rises=True
        ),
        rows_in_order(
            "order alone is ahead where it is told the action (our control)", (NEXT, ORDER), OBSERVED, rises=True
        ),
    ),
    drawn="lines",
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield shares at each rate of observation."""
    for outcome in figure5((0.0, LARGEST), (trial.seed,), quick=trial.quick):
        at = {column: f"@{rate}" for column, rate in zip(OBSERVED, RATES, strict=True)}
        for column, end in at.items():
            if outcome.channels == ORDER_ONLY and f"next{end}" in outcome.scores:
                yield Point(ORDER, column, outcome.scores[f"next{end}"])
            elif outcome.dataset == "utd_mhad" and outcome.channels in ("none", "weakest"):
                yield Point(CLIP if outcome.channels == "weakest" else WITHOUT, column, outcome.scores[f"current{end}"])
            elif outcome.dataset == "utkinect" and outcome.channels == "weakest":
                yield Point(NEXT, column, outcome.scores[f"next{end}"])
                yield Point(LOOKED_UP, column, outcome.scores[f"recognised_next{end}"])
