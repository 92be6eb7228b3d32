"""S2, Figure 5: the share of exchanged channels."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.anticipation.study import ORDER_ONLY, PROPORTIONS, figure5
from collapsekit.reproduce.item import Order, Point, Trial, item, rows_in_order

SHARES = tuple(f"{p:.0%}" for p in PROPORTIONS)
SCORES = {"utd_mhad": ("UTD-MHAD", "current@0.3"), "utkinect": ("UTKinect", "next@0.3")}
ROWS = tuple(f"{name}, {channels} channels" for name, _ in SCORES.values() for channels in ("weakest", "random"))


def _orders(name: str) -> tuple[Order, ...]:
    weakest, random = f"{name}, weakest channels", f"{name}, random channels"
    some = SHARES[1:]
    first = {"none": [(weakest, SHARES[0])], "exchanged": [(weakest, share) for share in some]}
    return (
        Order(f"{name}: exchanging helps", first, True),
        rows_in_order(
            f"{name}: weakest are ahead of random channels (our control)", (random, weakest), some, rises=True
        ),
    )


@item(
    "s2.figure5",
    title="Accuracy by the share of exchanged channels",
    claim="Exchanging 10, 20 and 30 % of the channels helps; the text we had names no numbers.",
    here="R3D as in s2.figure4, 30 % observed: the action in progress on UTD-MHAD, the next one on UTKinect. Beside the"
    " weakest channels as many that were drawn at random.",
    state="other data",
    data=("utd_mhad", "utkinect_parts"),
    rows=ROWS,
    columns=SHARES,
    column_label="exchanged",
    measured="share that is right, mean over classes",
    orders=tuple(order for name, _ in SCORES.values() for order in _orders(name)),
    drawn="lines",
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield a share at each proportion; without an exchange there is nothing to choose."""
    for outcome in figure5(seeds=(trial.seed,), quick=trial.quick):
        name, score = SCORES[outcome.dataset]
        share = f"{outcome.proportion:.0%}"
        if outcome.channels == "none":
            yield Point(f"{name}, weakest channels", share, outcome.scores[score])
        elif outcome.channels not in (ORDER_ONLY, "strongest"):
            yield Point(f"{name}, {outcome.channels} channels", share, outcome.scores[score])
