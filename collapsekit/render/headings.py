"""How the results of each probe are headed, and in which order they are shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# What it costs, then why; probes not named here follow in report order.
_TITLES = {
    "reliance": "What each modality earns",
    "utilisation": "Credit beside a balanced reference",
    "prefix_gap": "Prefix gap",
    "rank_sweep": "Rank and task as a modality is upweighted (β)",
    "spectrum": "Spectra before and after fusion",
    "vif": "Redundancy of fused neurons (VIF)",
    "polysemanticity": "Neurons shared between modalities",
    "collision": "Collisions of modalities in fused neurons",
    "similarity": "Similarity of modalities and fusion",
    "missing": "When modalities are missing",
    "noise": "When a modality is noisy",
    "gradient_rank": "What training would change: gradients at the fusion",
    "fusion_gain": "Rank gained by exchanging channels",
    "growing": "As modalities are added",
}


class Heading(NamedTuple):
    """The title over the results of a probe: its own name where it has none."""

    probe: str
    title: str


def heading(probe: str) -> Heading:
    """How the results of a probe are headed."""
    return Heading(probe, _TITLES.get(probe, probe))


def headings(probes: Iterable[str]) -> list[Heading]:
    """How the results of these probes are headed, in the order in which they are shown."""
    every = list(dict.fromkeys(probes))
    return [heading(p) for p in (*(p for p in _TITLES if p in every), *(p for p in every if p not in _TITLES))]
