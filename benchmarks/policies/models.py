"""Small policies of three kinds: chunks by regression with a latent (as ACT), by denoising, by flow matching."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.policies.worlds import ACTION, CHUNK, STATE, TASK, WORLDS, World

KINDS = ("act", "act, two backbones", "diffusion", "flow")
HIDDEN, LATENT, LEVELS, FLOW_STEPS = 24, 4, 5, 4
SAMPLES = 8  # as `init` writes
APART = 1_000_003  # random numbers between one noise and the next
WORDS = ("pick", "up", "the", "red", "cup", "move", "to", "blue", "block")


class Words(nn.Module):
    """Texts as the mean of their words' vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(len(WORDS), HIDDEN)

    def forward(self, texts: list[str]) -> Tensor:
        ids = [torch.tensor([WORDS.index(w) for w in text.split() if w in WORDS]) for text in texts]
        return torch.stack([self.table(one).mean(0) for one in ids])


class Policy(nn.Module):
    """A batch by LeRobot's keys to a chunk of actions (n, CHUNK, width)."""

    def __init__(self, world: str, kind: str, skip: int = 0) -> None:
        super().__init__()
        self.world, self.kind, self.skip = WORLDS[world], kind, skip
        self.cameras = [key for key in self.world.inputs if "images" in key]
        self.backbones = nn.ModuleList(self._eye() for _ in (self.cameras if "two" in kind else self.cameras[:1]))
        self.state_encoder = nn.Linear(2, HIDDEN)
        self.words = Words() if TASK in self.world.inputs else None
        self.fusion = nn.Sequential(
            nn.Linear(HIDDEN * len(self.world.inputs), 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU()
        )
        out = CHUNK * self.world.width
        if kind.startswith("act"):
            self.latent = nn.Linear(out, 2 * LATENT)  # of actions, in training only
            self.head = nn.Sequential(nn.Linear(48 + LATENT, 64), nn.ReLU(), nn.Linear(64, out))
        else:
            self.level = nn.Linear(1, 16)
            self.head = nn.Sequential(
                nn.Linear(48 + 16 + out, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, out)
            )
        self.register_buffer("mean", torch.zeros(self.world.width))
        self.register_buffer("std", torch.ones(self.world.width))

    def _eye(self) -> nn.Module:
        layers = [nn.Conv2d(self.world.channels, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, HIDDEN))

    def see(self, batch: Mapping[str, Any]) -> Tensor:
        """What all inputs say, (n, 48)."""
        parts = [self.backbones[i % len(self.backbones)](batch[key]) for i, key in enumerate(self.cameras)]
        parts.append(self.state_encoder(batch[STATE]))
        if self.words is not None:
            parts.append(self.words(batch[TASK]))
        seen: Tensor = self.fusion(torch.cat(parts, 1))
        return seen

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        seen = self.see(batch)
        flat = self._answered(seen)
        return flat.view(len(seen), CHUNK, -1) * self.std + self.mean

    def _answered(self, seen: Tensor) -> Tensor:
        if self.kind.startswith("act"):
            answered: Tensor = self.head(torch.cat([seen, seen.new_zeros(len(seen), LATENT)], 1))
            return answered
        torch.rand(self.skip)  # so that the noise is other noise under the same seed
        x = torch.randn(len(seen), CHUNK * self.world.width)
        if self.kind == "flow":
            for step in range(FLOW_STEPS):
                x = x + self._at(seen, x, torch.full((len(x), 1), step / FLOW_STEPS)) / FLOW_STEPS
            return x
        kept = _kept()
        for i in reversed(range(LEVELS)):  # DDIM
            clean = self._at(seen, x, torch.full((len(x), 1), i / LEVELS))
            noise = (x - kept[i].sqrt() * clean) / (1 - kept[i]).sqrt()
            x = clean if i == 0 else kept[i - 1].sqrt() * clean + (1 - kept[i - 1]).sqrt() * noise
        return x

    def _at(self, seen: Tensor, x: Tensor, when: Tensor) -> Tensor:
        found: Tensor = self.head(torch.cat([seen, self.level(when), x], 1))
        return found

    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        """What is trained: the chunk (ACT), the action under noise (diffusion), the way to it (flow)."""
        seen = self.see(batch)
        action = ((batch[ACTION] - self.mean) / self.std).flatten(1)
        if self.kind.startswith("act"):
            mean, spread = self.latent(action).chunk(2, 1)
            latent = mean + spread.exp() * torch.randn_like(mean)
            apart = 0.5 * (mean**2 + (2 * spread).exp() - 1 - 2 * spread).sum(1).mean()
            return F.l1_loss(self.head(torch.cat([seen, latent], 1)), action) + 10 * apart
        noise = torch.randn_like(action)
        if self.kind == "flow":
            when = torch.rand(len(action), 1)
            return F.mse_loss(self._at(seen, (1 - when) * noise + when * action, when), action - noise)
        level = torch.randint(0, LEVELS, (len(action),))
        kept = _kept()[level][:, None]
        return F.mse_loss(
            self._at(seen, kept.sqrt() * action + (1 - kept).sqrt() * noise, level[:, None] / LEVELS), action
        )


def _kept() -> Tensor:
    """How much of an action is left at each level of noise."""
    return torch.linspace(0.98, 0.02, LEVELS)


def build(world: str, kind: str, skip: int = 0) -> Policy:
    """The factory that the config names; ``skip``: how many random numbers are left unused before noise is drawn."""
    return Policy(world, kind, skip)


def save_policy(policy: Policy, folder: Path) -> None:
    """Write config.json and model.safetensors, as LeRobot does."""
    kinds = {key: "VISUAL" if "images" in key else "STATE" for key in policy.world.inputs if key != TASK}
    about = {
        "type": policy.kind.partition(",")[0],
        "n_action_steps": CHUNK,
        "input_features": {k: {"type": t} for k, t in kinds.items()},
        "output_features": {ACTION: {"type": "ACTION", "shape": [policy.world.width]}},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(about))
    save_file({k: v.contiguous() for k, v in policy.state_dict().items()}, folder / "model.safetensors")


def config_of(world: World, kind: str, noise: int = 0) -> dict[str, Any]:
    """What a user writes of such a policy and its recording; ``noise``: which noise it draws, of those under one seed."""
    cameras = [key for key in world.inputs if "images" in key]
    modalities: dict[str, Any] = {}
    for i, key in enumerate(cameras):
        encoder = f"backbones.{i if 'two' in kind else 0}"
        modalities[key.rpartition(".")[2]] = {"encoder": encoder, "input": key}
    modalities["state"] = {"encoder": "state_encoder", "input": STATE}
    if TASK in world.inputs:
        modalities["task"] = {"input": TASK}
    model: dict[str, Any] = {
        "factory": "benchmarks.policies.models:build",
        "kwargs": {"world": world.name, "kind": kind},
    }
    if not kind.startswith("act"):
        model["kwargs"]["skip"] = APART * noise
        model["samples"] = SAMPLES
    return {
        "model": model,
        "modalities": modalities,
        "fusion": "fusion",
        "call": "dict",
        "task": "regression",
        "data": {"label": ACTION, "group": "episode_index", "episodes": {"horizon": CHUNK}},
    }
