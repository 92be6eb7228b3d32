"""A policy that denoises: two cameras through one backbone, the arm's state, and chunks of four actions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STEPS = 4  # of denoising
TOP, WRIST, STATE = "observation.images.top", "observation.images.wrist", "observation.state"


class Policy(nn.Module):
    """A batch by LeRobot's keys to actions (n, 4, 2), in two steps: what is seen, then from noise to actions."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32, 16),
        )
        self.state_encoder = nn.Linear(2, 16)
        self.fusion = nn.Sequential(nn.Linear(48, 32), nn.ReLU())
        self.flow = nn.Sequential(nn.Linear(32 + 8 + 1, 64), nn.ReLU(), nn.Linear(64, 8))

    def see(self, batch: dict[str, Tensor]) -> Tensor:
        cameras = [self.backbone(batch[TOP]), self.backbone(batch[WRIST])]
        seen: Tensor = self.fusion(torch.cat([*cameras, self.state_encoder(batch[STATE])], 1))
        return seen

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        seen = self.see(batch)
        action = torch.randn(len(seen), 8, device=seen.device)
        for step in range(STEPS):
            time = torch.full_like(action[:, :1], step / STEPS)
            action = action + self.flow(torch.cat([seen, action, time], 1)) / STEPS
        return action.view(-1, 4, 2)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Flow matching: the way from noise to the action, at a random point of it."""
        action, seen = batch["action"].flatten(1), self.see(batch)
        noise, time = torch.randn_like(action), torch.rand(len(action), 1)
        way = self.flow(torch.cat([seen, (1 - time) * noise + time * action, time], 1))
        return nn.functional.mse_loss(way, action - noise)


def build() -> Policy:
    """The untrained policy."""
    return Policy()
