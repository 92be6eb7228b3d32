"""Made-up patients: omics, a bag of 5 to 30 patches, and the time until an event or until they were last seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

SIZES = {"train": 1000, "val": 300, "test": 600}


class Patients(Dataset[dict[str, Tensor]]):
    """One patient: ``omics`` (20,), ``slide`` (patches, 16), ``label`` (2,): time, and 1 where the event was seen."""

    def __init__(self, split: str) -> None:
        size, draw = SIZES[split], torch.Generator().manual_seed(list(SIZES).index(split))
        gene, tumour = torch.randn(2, size, generator=draw)
        self.omics = gene[:, None] * torch.ones(20) + torch.randn(size, 20, generator=draw)
        self.slide = []
        for much in tumour.sigmoid().tolist():
            patches = torch.randn(int(torch.randint(5, 31, (1,), generator=draw)), 16, generator=draw)
            patches[torch.rand(len(patches), generator=draw) < much, :4] += 2.0  # patches of tumour
            self.slide.append(patches)
        time = torch.empty(size).exponential_(generator=draw) / (1.2 * gene + 1.2 * tumour).exp()
        seen = torch.empty(size).exponential_(0.4, generator=draw)  # until when a patient is followed
        self.label = torch.stack([torch.minimum(time, seen), (time <= seen).float()], 1)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"omics": self.omics[i], "slide": self.slide[i], "label": self.label[i]}


def collate(patients: list[dict[str, Tensor]]) -> dict[str, Any]:
    """A batch: tensors, and the bags as a list."""
    batch = default_collate([{k: v for k, v in p.items() if k != "slide"} for p in patients])
    return {**batch, "slide": [p["slide"] for p in patients]}


def loaders() -> dict[str, DataLoader[dict[str, Tensor]]]:
    """What collapsekit.yaml names."""
    return {split: DataLoader(Patients(split), batch_size=100, collate_fn=collate) for split in SIZES}
