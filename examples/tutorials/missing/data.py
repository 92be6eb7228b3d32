"""Made-up patients: notes for all, labs for two thirds, an ECG for three quarters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

SIZES = {"train": 1200, "val": 300, "test": 500}


class Patients(Dataset[dict[str, Any]]):
    """One patient: ``notes`` (12,), ``labs`` (6,) or NaN, ``ecg`` (200,) in millivolt or None, ``label`` 0 or 1."""

    def __init__(self, split: str) -> None:
        size, draw = SIZES[split], torch.Generator().manual_seed(list(SIZES).index(split))
        says = torch.randn(3, size, generator=draw)  # how ill each modality shows a patient to be
        self.label = (3 * says.sum(0) + torch.randn(size, generator=draw) > 0).long()
        self.notes = says[0, :, None] * torch.ones(12) + torch.randn(size, 12, generator=draw)
        self.labs = says[1, :, None] * torch.ones(6) + torch.randn(size, 6, generator=draw)
        self.labs[torch.rand(size, generator=draw) < 1 / 3] = torch.nan
        beat = torch.zeros(50)
        beat[10:13], beat[20:30] = torch.tensor([0.5, 1.2, 0.5]), 0.3  # the spike, and what rises with illness
        height = torch.where(beat == 0.3, 1 + 0.7 * says[2, :, None], 1.0)
        self.ecg = (height * beat).repeat(1, 4) + 0.05 * torch.randn(size, 200, generator=draw)
        self.recorded = torch.rand(size, generator=draw) < 3 / 4

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, i: int) -> dict[str, Any]:
        ecg = self.ecg[i] if self.recorded[i] else None
        return {"notes": self.notes[i], "labs": self.labs[i], "ecg": ecg, "label": self.label[i]}


def collate(patients: list[dict[str, Any]]) -> dict[str, Tensor | list[Tensor | None]]:
    """A batch: tensors, and the recordings as a list that may hold None."""
    batch = default_collate([{k: v for k, v in p.items() if k != "ecg"} for p in patients])
    return {**batch, "ecg": [p["ecg"] for p in patients]}


def loaders() -> dict[str, DataLoader[dict[str, Any]]]:
    """What collapsekit.yaml names."""
    return {split: DataLoader(Patients(split), batch_size=100, collate_fn=collate) for split in SIZES}
