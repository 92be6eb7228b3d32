"""A small subject without any file: two modalities that each say part of the class."""

from __future__ import annotations

import torch

from collapsekit.data.base import SPLITS
from collapsekit.reproduce.studies.subjects import StudySubject

CLASSES = 3


def make_synthetic(seed: int = 0, epochs: int = 2) -> StudySubject:
    """60 examples a split of vectors of 5 and 4 numbers around a centre for each class."""
    g = torch.Generator().manual_seed(seed)
    centres = {m: torch.randn(CLASSES, d, generator=g) for m, d in (("a", 5), ("b", 4))}
    arrays = {}
    for split in SPLITS:
        labels = torch.arange(60) % CLASSES
        for m, centre in centres.items():
            arrays[f"{split}/{m}"] = centre[labels] + torch.randn(60, centre.shape[1], generator=g)
        arrays[f"{split}/label"] = labels
    return StudySubject(arrays, "b", seed, epochs)
