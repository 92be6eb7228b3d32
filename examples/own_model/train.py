"""Write data.safetensors, train DigitNet for twelve epochs, save ckpt.pt: seconds on a CPU."""

from __future__ import annotations

import numpy as np
import torch
from model import DigitNet, build
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from collapsekit.ext import load_mfeat  # the data: UCI Multiple Features, which collapsekit carries


def prepare() -> dict[str, Tensor]:
    """Both modalities and the label under SPLIT/NAME keys, in the units the data set has them in."""
    raw = load_mfeat()
    data: dict[str, Tensor] = {}
    for number, split in enumerate(("train", "val", "test")):
        rows = raw["split"] == number
        data[f"{split}/shape"] = torch.from_numpy(raw["fou"][rows].astype(np.float32))
        data[f"{split}/pixels"] = torch.from_numpy(raw["pix"][rows].astype(np.float32)).reshape(-1, 1, 16, 15)
        data[f"{split}/label"] = torch.from_numpy(raw["label"][rows].astype(np.int64))
    return data


def train(data: dict[str, Tensor], normalise: bool = False) -> DigitNet:
    """Adam and cross-entropy, every example with both modalities."""
    torch.manual_seed(0)
    model = build(normalise)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    shape, pixels, label = (data[f"train/{name}"] for name in ("shape", "pixels", "label"))
    model.train()
    for _ in range(12):
        for rows in torch.randperm(len(label)).split(64):
            loss = F.cross_entropy(model(shape[rows], pixels[rows]), label[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: DigitNet, data: dict[str, Tensor]) -> float:
    """Share of the test split that is predicted right."""
    predicted = model(data["test/shape"], data["test/pixels"]).argmax(dim=1)
    return float((predicted == data["test/label"]).float().mean())


if __name__ == "__main__":
    data = prepare()
    save_file(data, "data.safetensors")
    model = train(data)
    torch.save(model.state_dict(), "ckpt.pt")
    print(f"test accuracy {accuracy(model, data):.3f}; wrote data.safetensors and ckpt.pt")
