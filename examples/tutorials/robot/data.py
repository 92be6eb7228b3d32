"""Made-up recordings of a robot, and the loaders that read them by LeRobot's keys."""

from __future__ import annotations

import torch
from model import STATE, TOP, WRIST
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

SIZES = {"train": 1200, "val": 300, "test": 400}
BLACK = torch.zeros(1, 12, 12)


def spot(at: Tensor, draw: torch.Generator) -> Tensor:
    """A picture (1, 12, 12) of a bright spot, left to right by ``at`` in -1 to 1."""
    columns = torch.arange(12) - 5.5 - 4.5 * at
    return (-(columns**2) / 3).exp().expand(1, 12, 12) + 0.2 * torch.randn(1, 12, 12, generator=draw)


def record(split: str) -> list[dict[str, Tensor]]:
    """Frames as the robot wrote them: a cup is seen from above (left to right) and from the hand (near to far)."""
    draw = torch.Generator().manual_seed(list(SIZES).index(split))
    frames = []
    for _ in range(SIZES[split]):
        cup, arm = 2 * torch.rand(2, 2, generator=draw) - 1
        way = torch.arange(1, 5)[:, None] / 4 * (cup - arm) + 0.1 * torch.randn(4, 2, generator=draw)
        frames.append({"top": spot(cup[0], draw), "hand": spot(cup[1], draw), "state": arm, "action": way})
    return frames


class Frames(Dataset[dict[str, Tensor]]):
    """Recorded frames by LeRobot's keys; ``wrist`` is the name that the camera at the hand has in the recording."""

    def __init__(self, split: str, wrist: str = "hand") -> None:
        self.frames, self.wrist = record(split), wrist

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        frame = self.frames[i]
        pictures = {TOP: frame["top"], WRIST: frame.get(self.wrist, BLACK)}
        return {**pictures, STATE: frame["state"], "action": frame["action"]}


def loaders() -> dict[str, DataLoader[dict[str, Tensor]]]:
    """What collapsekit.yaml names."""
    return {split: DataLoader(Frames(split), batch_size=100) for split in SIZES}
