"""S2, Figure 3: the harmonic mean of what both modalities gain in rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from collapsekit.reproduce.item import Point, Trial, columns_in_order, item, rows_in_order
from collapsekit.reproduce.items.s2_figure2 import exchange_at_random
from collapsekit.reproduce.studies.clips import MODALITIES, NAME, RATES, Clip, load_clips
from collapsekit.stats.linalg.exchange import clip_ranks, harmonic_mean

THEIRS, RANDOM = "their channels", "random channels"


@item(
    "s2.figure3",
    title="Harmonic mean of the gains in effective rank, depth and colour",
    claim="Depth gains most beside colour at each rate of observation, and all gain more as more is observed.",
    here="The features that the authors published, which are of depth and colour alone: four clips, ranks of a clip's "
    "tokens, the gain of each modality averaged over clips, then their harmonic mean, 0 where one loses. Beside "
    "their channels as many drawn at random, at the same shares. Other modalities were not published.",
    data=(NAME,),
    rows=(THEIRS, RANDOM),
    columns=RATES,
    column_label="observed",
    measured="harmonic mean of gains, dimensions",
    orders=(
        columns_in_order("it rises with what is observed", RATES, (THEIRS,), rises=True),
        rows_in_order("their channels gain more than random ones (our control)", (RANDOM, THEIRS), RATES, rises=True),
    ),
    tested=False,
    notes=("What is exchanged is theirs, so that a seed changes the random channels only.",),
    drawn="lines",
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield the harmonic mean at each rate."""
    g = torch.Generator().manual_seed(trial.seed)
    clips = load_clips()
    for rate in RATES:
        here = [c for c in clips if c.rate == rate]
        yield Point(THEIRS, rate, _balance(here, lambda c, m: c.exchanged[m]))
        yield Point(RANDOM, rate, _balance(here, lambda c, m: exchange_at_random(c, m, g)))


def _balance(clips: list[Clip], after: Callable[[Clip, str], Tensor]) -> float:
    gains = [torch.stack([_rank(after(c, m)) - _rank(c.raw[m]) for c in clips]).mean() for m in MODALITIES]
    return float(harmonic_mean(*gains))


def _rank(tokens: Tensor) -> Tensor:
    return clip_ranks(tokens[None])[0]
