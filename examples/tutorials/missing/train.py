"""Train and save ckpt.pt: seconds on a CPU. ``--millivolt`` takes ECGs in the unit they have."""

from __future__ import annotations

import sys

import torch
from data import Patients, collate, loaders
from model import build
from torch.nn import functional as F
from torch.utils.data import DataLoader


def main() -> None:
    """Write ckpt.pt."""
    torch.manual_seed(0)
    model = build(units=1.0 if "--millivolt" in sys.argv else 1000.0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    batches = DataLoader(Patients("train"), batch_size=60, shuffle=True, collate_fn=collate)
    for _ in range(12):
        for batch in batches:
            loss = F.cross_entropy(model(batch["notes"], batch["labs"], batch["ecg"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.save(model.state_dict(), "ckpt.pt")
    model.eval()
    with torch.no_grad():
        right = [model(b["notes"], b["labs"], b["ecg"]).argmax(1) == b["label"] for b in loaders()["test"]]
    print(f"accuracy {torch.cat(right).float().mean():.3f}; wrote ckpt.pt")


if __name__ == "__main__":
    main()
