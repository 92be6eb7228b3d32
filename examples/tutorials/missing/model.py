"""Three branches, two of which have a learned vector for patients who lack their input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 16


class Labs(nn.Module):
    """``labs`` (n, 6) to (n, 16); NaN where a patient has none."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, WIDTH), nn.ReLU())
        self.lacking = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, labs: Tensor) -> Tensor:
        gone = labs.isnan().any(1, keepdim=True)
        return torch.where(gone, self.lacking, self.net(labs.nan_to_num(0.0)))


class Ecg(nn.Module):
    """A list of n recordings (200,), None where there is none, to (n, 16)."""

    units: Tensor

    def __init__(self, units: float) -> None:
        super().__init__()
        self.register_buffer("units", torch.tensor(units))
        self.net = nn.Sequential(
            nn.Conv1d(1, 8, 9, stride=4),
            nn.ReLU(),
            nn.AdaptiveMaxPool1d(1),
            nn.Flatten(),
            nn.Linear(8, WIDTH),
            nn.ReLU(),
        )
        self.lacking = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, ecg: list[Tensor | None]) -> Tensor:
        rows = [self.lacking if one is None else self.net(one[None, None] / self.units)[0] for one in ecg]
        return torch.stack(rows)


class Ward(nn.Module):
    """The odds that a patient gets worse, (n, 2)."""

    def __init__(self, units: float) -> None:
        super().__init__()
        self.notes = nn.Sequential(nn.Linear(12, WIDTH), nn.ReLU())
        self.labs = Labs()
        self.ecg = Ecg(units)
        self.fusion = nn.Sequential(nn.Linear(3 * WIDTH, WIDTH), nn.ReLU())
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, notes: Tensor, labs: Tensor, ecg: list[Tensor | None]) -> Tensor:
        logits: Tensor = self.head(self.fusion(torch.cat([self.notes(notes), self.labs(labs), self.ecg(ecg)], 1)))
        return logits


def build(units: float = 1000.0) -> Ward:
    """The untrained model; an ECG is divided by ``units``, counts a millivolt."""
    return Ward(units)
