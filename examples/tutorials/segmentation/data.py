"""Scans of made-up patients on disk, a folder a patient, and the loaders that read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

FOLDER = Path(__file__).parent / "scans"
SIZES = {"train": 160, "val": 40, "test": 80}
SEQUENCES = ("t1", "t1c", "t2", "flair")
OUTSIDE = 255  # the class of what is no brain


def make_patient(draw: np.random.Generator) -> dict[str, NDArray[np.generic]]:
    """One slice: FLAIR sees oedema (class 1), T2 does worse; T1 sees necrosis (2), and T1c what takes up contrast (3)."""
    y, x = np.mgrid[:24, :24] - 11.5

    def disc(around: NDArray[np.float64], spread: float, size: float) -> NDArray[np.bool_]:
        centre = around + draw.uniform(-spread, spread, 2)
        inside: NDArray[np.bool_] = brain & (np.hypot(x - centre[0], y - centre[1]) < draw.uniform(size, 1.5 * size))
        return inside

    brain = (x / 10) ** 2 + (y / 12) ** 2 < 1
    middle = draw.uniform(-5, 5, 2)
    oedema, necrosis, uptake = disc(middle, 0, 5), disc(middle, 3, 2), disc(middle, 3, 2)
    signal = {"t1": -2.0 * necrosis, "t1c": 2.0 * uptake, "t2": 1.5 * oedema, "flair": 1.8 * oedema}
    patient = {s: ((1 + signal[s] + draw.normal(size=(24, 24))) * brain).astype(np.float32) for s in SEQUENCES}
    mask = np.select([uptake, necrosis, oedema, brain], [3, 2, 1, 0], OUTSIDE)
    return {**patient, "mask": mask.astype(np.uint8)}


def write(seed: int = 0) -> None:
    """Write every patient, such as ``scans/train/patient_12/flair.npy``."""
    draw = np.random.default_rng(seed)
    for split, size in SIZES.items():
        for number in range(size):
            folder = FOLDER / split / f"patient_{number}"
            folder.mkdir(parents=True, exist_ok=True)
            for name, values in make_patient(draw).items():
                np.save(folder / f"{name}.npy", values)


class Scans(Dataset[dict[str, Tensor]]):
    """One patient: ``scan`` (4, 24, 24) and ``label`` (24, 24)."""

    def __init__(self, split: str) -> None:
        self.patients = sorted((FOLDER / split).iterdir())

    def __len__(self) -> int:
        return len(self.patients)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        scan = np.stack([np.load(self.patients[i] / f"{s}.npy") for s in SEQUENCES])
        mask = np.load(self.patients[i] / "mask.npy").astype(np.int64)
        return {"scan": torch.from_numpy(scan), "label": torch.from_numpy(mask)}


def loaders() -> dict[str, DataLoader[dict[str, Tensor]]]:
    """What collapsekit.yaml names."""
    return {split: DataLoader(Scans(split), batch_size=32) for split in SIZES}
