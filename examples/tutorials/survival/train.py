"""Train by Cox's partial likelihood and save ckpt.pt: seconds on a CPU. ``--all`` trains all of the model."""

from __future__ import annotations

import sys

import torch
from data import Patients, collate, loaders
from model import build
from torch import Tensor
from torch.utils.data import DataLoader


def cox(risk: Tensor, label: Tensor) -> Tensor:
    """Minus the log partial likelihood an event, among the patients (n,) of a batch."""
    time, event = label.T
    order = time.argsort(descending=True)
    loss: Tensor = -((risk[order] - risk[order].logcumsumexp(0)) * event[order]).sum() / event.sum()
    return loss


def concordance(risk: Tensor, label: Tensor) -> float:
    """The share of pairs whose order in time is that of their risks."""
    time, event = label.T
    earlier = (time[:, None] < time[None]) & (event[:, None] == 1)
    return float((risk[:, None] > risk[None])[earlier].float().mean())


def main() -> None:
    """Write ckpt.pt."""
    torch.manual_seed(0)
    model = build().train()
    groups = [
        {"params": model.omics.parameters(), "lr": 3e-3},
        {"params": [*model.fusion.parameters(), *model.head.parameters()], "lr": 3e-3},
    ]
    if "--all" in sys.argv:
        groups.append({"params": model.slide.parameters(), "lr": 3e-3})
    optimizer = torch.optim.Adam(groups, weight_decay=1e-3)
    for _ in range(12):
        for batch in DataLoader(Patients("train"), batch_size=80, shuffle=True, collate_fn=collate):
            loss = cox(model(batch["omics"], batch["slide"])[:, 0], batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.save(model.state_dict(), "ckpt.pt")
    model.eval()
    with torch.no_grad():
        parts = [(model(b["omics"], b["slide"])[:, 0], b["label"]) for b in loaders()["test"]]
    risk, label = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    print(f"C-index {concordance(risk, label):.3f}; wrote ckpt.pt")


if __name__ == "__main__":
    main()
