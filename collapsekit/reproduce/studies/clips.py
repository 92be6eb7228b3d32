"""The features that the authors of S2 published: clips at rates of observation, before and after their exchange."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from collapsekit.reproduce.studies.datasets import load_file

NAME = "r3d_demo_clips"
MODALITIES = ("depth", "rgb")
RATES = ("0.1", "0.5", "0.9")


@dataclass(frozen=True)
class Clip:
    """Tokens (t, 128) of a clip as far as it was observed."""

    name: str
    rate: str
    raw: dict[str, Tensor]  # by modality
    exchanged: dict[str, Tensor]


def load_clips() -> list[Clip]:
    """Load the clips.

    Returns:
        Every clip at every rate, in the order of their names.

    Raises:
        ConfigError: Where their file is not there.
    """
    stored = load_file(NAME)
    pairs = sorted({tuple(key.split("/")[:2]) for key in stored})
    return [
        Clip(
            clip,
            rate,
            {m: stored[f"{clip}/{rate}/{m}_raw"].double() for m in MODALITIES},
            {m: stored[f"{clip}/{rate}/exchanged_{m}"].double() for m in MODALITIES},
        )
        for clip, rate in pairs
    ]
