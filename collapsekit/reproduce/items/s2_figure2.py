"""S2, Figure 2: spectra before and after the exchange of channels."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch
from torch import Tensor

from collapsekit.reproduce.item import Point, Trial, item, rows_in_order
from collapsekit.reproduce.studies.clips import MODALITIES, NAME, Clip, load_clips
from collapsekit.stats.linalg.exchange import exchange

COUNTS = ("1", "2", "4", "8")
ROWS = tuple(f"{m}, {how}" for m in MODALITIES for how in ("before", "exchanged", "random channels"))


@item(
    "s2.figure2",
    title="Singular values before and after channels were exchanged",
    claim="The spectrum after fusion is flatter from the middle on.",
    here="The features that the authors published, four clips at three rates of observation: what part of all singular "
    "values of a clip's tokens lies beyond the first 1, 2, 4 and 8. Beside their exchange one of as many channels,"
    " drawn at random, at the same shares.",
    data=(NAME,),
    rows=ROWS,
    columns=COUNTS,
    column_label="beyond the first",
    measured="part of the sum of singular values, mean over clips",
    orders=tuple(
        order
        for m in MODALITIES
        for order in (
            rows_in_order(f"{m}: flatter once exchanged", (f"{m}, before", f"{m}, exchanged"), COUNTS, rises=True),
            rows_in_order(
                f"{m}: flatter than with random channels (our control)",
                (f"{m}, random channels", f"{m}, exchanged"),
                COUNTS,
                rises=True,
            ),
        )
    ),
    tested=False,
    notes=("What is exchanged is theirs, so that a seed changes the random channels only.",),
    drawn="lines",
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield how much of the spectrum lies beyond its first values."""
    g = torch.Generator().manual_seed(trial.seed)
    clips = load_clips()[:: trial.pick(1, 6)]
    for modality in MODALITIES:
        for how, tokens in (
            ("before", [c.raw[modality] for c in clips]),
            ("exchanged", [c.exchanged[modality] for c in clips]),
            ("random channels", [exchange_at_random(c, modality, g) for c in clips]),
        ):
            for count in COUNTS:
                parts = [_beyond(x, int(count)) for x in tokens]
                yield Point(f"{modality}, {how}", count, statistics.fmean(parts))


def exchange_at_random(clip: Clip, modality: str, g: torch.Generator) -> Tensor:
    """Exchange as many channels as the authors, drawn at random.

    Args:
        clip: Whose.
        modality: The receiver; the other one gives.
        g: Draws the channels.

    Returns:
        Tokens (t, 128), each channel blended at the mean share of those that the authors exchanged.
    """
    own, other = clip.raw[modality], clip.raw[next(m for m in MODALITIES if m != modality)]
    changed = (clip.exchanged[modality] != own).any(0).nonzero()[:, 0]
    apart = (other - own)[:, changed]
    moved = (clip.exchanged[modality] - own)[:, changed]
    blend = float(((moved * apart).sum(0) / apart.square().sum(0)).mean())
    channels = torch.randperm(own.shape[1], generator=g)[: len(changed)]
    return exchange(own, other, channels, channels, blend)


def _beyond(tokens: Tensor, count: int) -> float:
    sigma = torch.linalg.svdvals(tokens)
    return float(sigma[count:].sum() / sigma.sum())
