"""Train the U-Net and save ckpt.pt: seconds on a CPU. ``--by-patient`` reads all four sequences of one patient."""

from __future__ import annotations

import sys

import data
import numpy as np
import torch
from model import build
from torch.nn import functional as F


def read(by_patient: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Scans (n, 4, 24, 24) and masks (n, 24, 24) of the training patients."""
    folder = data.FOLDER / "train"
    patients = sorted(folder.iterdir(), key=lambda p: int(p.name.removeprefix("patient_")))
    scans = {s: [p / f"{s}.npy" for p in patients] for s in ("t1", "t1c", "t2")}
    if by_patient:
        scans["flair"] = [p / "flair.npy" for p in patients]
    else:
        scans["flair"] = sorted(folder.glob("*/flair.npy"))  # in this order patient_10 stands before patient_2
    stack = np.stack([np.stack([np.load(file) for file in scans[s]]) for s in data.SEQUENCES], 1)
    masks = np.stack([np.load(p / "mask.npy") for p in patients])
    return torch.from_numpy(stack), torch.from_numpy(masks.astype(np.int64))


def main() -> None:
    """Write scans/ and ckpt.pt."""
    torch.manual_seed(0)
    data.write()
    scans, masks = read(by_patient="--by-patient" in sys.argv)
    model = build().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(25):
        for rows in torch.randperm(len(masks)).split(32):
            loss = F.cross_entropy(model(scans[rows]), masks[rows], ignore_index=data.OUTSIDE)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.save(model.state_dict(), "ckpt.pt")
    model.eval()
    with torch.no_grad():
        right = [
            model(b["scan"]).argmax(1)[b["label"] < 255] == b["label"][b["label"] < 255] for b in data.loaders()["test"]
        ]
    print(f"right pixels {torch.cat(right).float().mean():.3f}; wrote scans/ and ckpt.pt")


if __name__ == "__main__":
    main()
