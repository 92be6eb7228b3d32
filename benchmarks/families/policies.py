"""Robot policies in LeRobot's layout: a folder of config.json and model.safetensors, two cameras on one backbone, a state,
chunks of actions, statistics of the data as buffers. Networks are a few lines, with the names that LeRobot gives its parts.

Each modality says one value of the action. What a user writes beside YAML is the factory, ``Chunk`` around the policy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.families.family import Family, World, swap_fields
from benchmarks.families.zoo import HIDDEN

TOP, WRIST, STATE, ACTION = "observation.images.top", "observation.images.wrist", "observation.state", "action"
CHUNK, LEVELS = 4, 8  # steps of an action; levels of noise
SHAPES = {TOP: (3, 8, 8), WRIST: (3, 8, 8), STATE: (4,), ACTION: (CHUNK, 3)}


class Statistics(nn.Module):
    """Mean and spread of each field, infinite until they are set, as LeRobot has them."""

    def __init__(self, *keys: str) -> None:
        super().__init__()
        for key in keys:
            buffers = nn.Module()
            for name in ("mean", "std"):
                buffers.register_buffer(name, torch.full(SHAPES[key][-1:], float("inf")))
            self.add_module(f"buffer_{key.replace('.', '_')}", buffers)

    def of(self, key: str) -> nn.Module:
        return self.get_submodule(f"buffer_{key.replace('.', '_')}")

    def take(self, batch: Any) -> None:
        for key in (STATE, ACTION):
            if f"buffer_{key.replace('.', '_')}" in dict(self.named_children()):
                flat = batch[key].flatten(0, -2)
                self.of(key).mean.copy_(flat.mean(0))
                self.of(key).std.copy_(flat.std(0))


class Policy(nn.Module):
    """What both policies share: normalisation, a backbone for both cameras, an encoder over all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize_inputs, self.unnormalize_outputs = Statistics(STATE), Statistics(ACTION)
        self.model = nn.Module()
        self.model.backbone = nn.Sequential(nn.Conv2d(3, HIDDEN, 3, 2), nn.ReLU())
        self.model.encoder_robot_state_input_proj = nn.Linear(4, HIDDEN)
        self.model.encoder = nn.TransformerEncoderLayer(HIDDEN, 2, 32, dropout=0.0, batch_first=True)
        self.model.places = nn.Parameter(0.1 * torch.randn(3, HIDDEN))

    def observed(self, batch: Any) -> Tensor:
        """Tokens (n, 3, d) of the state and both cameras."""
        scale = self.normalize_inputs.of(STATE)
        state = self.model.encoder_robot_state_input_proj((batch[STATE] - scale.mean) / scale.std)
        cameras = [self.model.backbone(batch[key]).mean((2, 3)) for key in (TOP, WRIST)]
        tokens: Tensor = self.model.encoder(torch.stack([state, *cameras], 1) + self.model.places)
        return tokens

    def normalised(self, action: Tensor) -> Tensor:
        scale = self.unnormalize_outputs.of(ACTION)
        return (action - scale.mean) / scale.std

    def in_units(self, action: Tensor) -> Tensor:
        scale = self.unnormalize_outputs.of(ACTION)
        return action * scale.std + scale.mean


class ActPolicy(Policy):
    """As ACT: queries of each step look at the encoder's tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.model.queries = nn.Parameter(torch.randn(CHUNK, HIDDEN))
        self.model.decoder = nn.MultiheadAttention(HIDDEN, 2, batch_first=True)
        self.model.action_head = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 3))

    def _chunk(self, batch: Any) -> Tensor:
        tokens = self.observed(batch)
        read, _ = self.model.decoder(self.model.queries.expand(len(tokens), -1, -1), tokens, tokens)
        chunk: Tensor = self.model.action_head(read)
        return chunk

    def predict_action_chunk(self, batch: Any) -> Tensor:
        return self.in_units(self._chunk(batch))

    def forward(self, batch: Any) -> Tensor:
        """The training loss, a scalar, as LeRobot's policies return it."""
        return F.l1_loss(self._chunk(batch), self.normalised(batch[ACTION]))


class DiffusionPolicy(Policy):
    """As a diffusion policy: says which noise was added to an action, at a level of noise that is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.model.level = nn.Embedding(LEVELS, HIDDEN)
        width = 3 * HIDDEN + HIDDEN + CHUNK * 3
        self.model.unet = nn.Sequential(
            nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CHUNK * 3)
        )
        self.register_buffer("kept", torch.linspace(0.98, 0.02, LEVELS), persistent=False)  # of the action at a level

    def _noise(self, condition: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        parts = [condition.flatten(1), self.model.level(level), noisy.flatten(1)]
        found: Tensor = self.model.unet(torch.cat(parts, 1)).view_as(noisy)
        return found

    def conditional_sample(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Make actions of noise (n, T, 3), level after level (DDIM)."""
        x = noise
        for i in reversed(range(LEVELS)):
            found = self._noise(condition, x, torch.full((len(x),), i))
            clean = (x - (1 - self.kept[i]).sqrt() * found) / self.kept[i].sqrt()
            x = clean if i == 0 else self.kept[i - 1].sqrt() * clean + (1 - self.kept[i - 1]).sqrt() * found
        return self.in_units(x)

    def predict_action_chunk(self, batch: Any) -> Tensor:
        """One sample, from noise that is drawn."""
        condition = self.observed(batch)
        return self.conditional_sample(condition, torch.randn(len(condition), *SHAPES[ACTION]))

    def forward(self, batch: Any) -> Tensor:
        """The training loss, a scalar: squared error of the noise at drawn levels."""
        action, level = self.normalised(batch[ACTION]), torch.randint(0, LEVELS, (len(batch[ACTION]),))
        noise, kept = torch.randn_like(action), self.kept[level][:, None, None]
        return F.mse_loss(
            self._noise(self.observed(batch), kept.sqrt() * action + (1 - kept).sqrt() * noise, level), noise
        )


class Chunk(nn.Module):
    """What a user writes: actions instead of the training loss."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: Any) -> Tensor:
        chunk: Tensor = self.policy.predict_action_chunk(batch)
        return chunk


class MeanChunk(Chunk):
    """What a user writes of a policy that draws: the mean over noises that are the same for every example."""

    def forward(self, batch: Any) -> Tensor:
        condition = self.policy.observed(batch)
        noises = torch.randn(16, 1, *SHAPES[ACTION], generator=torch.Generator().manual_seed(0))
        chunks = [self.policy.conditional_sample(condition, x.expand(len(condition), -1, -1)) for x in noises]
        return torch.stack(chunks).mean(0)


def act() -> nn.Module:
    """The factory of the ACT-like policy."""
    return Chunk(ActPolicy())


def diffusion() -> nn.Module:
    """The factory of the diffusion-like policy."""
    return Chunk(DiffusionPolicy())


def mean_diffusion() -> nn.Module:
    """The factory of the diffusion-like policy, whose mean action is asked for."""
    return MeanChunk(DiffusionPolicy())


def _episodes(world: World) -> Any:
    """Each camera and the state say one value of three of the action, in units that are not the network's."""
    third = torch.randint(0, 2, (len(world.a),), generator=world.draw)
    signs = torch.stack([2 * bit - 1.0 for bit in (world.a, world.b, third)], 1)
    noise = 0.3 * torch.randn(len(signs), CHUNK, 3, generator=world.draw)
    return {
        TOP: world.noisy(world.a, 3, 8, 8, size=0.5),
        WRIST: world.noisy(world.b, 3, 8, 8, size=0.5),
        STATE: 5 + 2 * world.noisy(third, 4, size=1.0),
        ACTION: 3 + 2 * (signs[:, None] + noise),
    }


def _policy_loss(model: nn.Module, batch: Any) -> Tensor:
    policy: Any = model.policy
    if not policy.unnormalize_outputs.of(ACTION).mean.isfinite().all():
        policy.normalize_inputs.take(batch)
        policy.unnormalize_outputs.take(batch)
    loss: Tensor = policy(batch)
    return loss


def save_policy(model: nn.Module, folder: Path) -> None:
    """Write what LeRobot's save_pretrained writes."""
    policy: Any = model.policy
    save_file({k: v.contiguous() for k, v in policy.state_dict().items()}, folder / "model.safetensors")
    kinds = {TOP: "VISUAL", WRIST: "VISUAL", STATE: "STATE"}
    about = {
        "type": "act" if isinstance(policy, ActPolicy) else "diffusion",
        "n_obs_steps": 1,
        "chunk_size": CHUNK,
        "input_features": {k: {"type": t, "shape": list(SHAPES[k])} for k, t in kinds.items()},
        "output_features": {ACTION: {"type": "ACTION", "shape": [3]}},
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"},
    }
    (folder / "config.json").write_text(json.dumps(about))


CONFIG: dict[str, Any] = {
    "modalities": {
        "a": {"encoder": "policy.model.backbone", "input": TOP},
        "b": {"encoder": "policy.model.backbone", "input": WRIST},
        "state": {"encoder": "policy.model.encoder_robot_state_input_proj", "input": STATE},
    },
    "fusion": "policy.model.encoder",
    "call": "dict",
    "task": "regression",
    "data": {"label": ACTION},
}
SWAPS = {"a": swap_fields(TOP), "state": swap_fields(STATE)}
POLICIES = (
    Family(
        "ACT, LeRobot's folder",
        CONFIG,
        _episodes,
        act,
        _policy_loss,
        swap_fields(WRIST),
        swaps=SWAPS,
        save=save_policy,
    ),
    Family(
        "diffusion policy, sampled",
        {**CONFIG, "model": {"samples": 16}},
        _episodes,
        diffusion,
        _policy_loss,
        swap_fields(WRIST),
        swaps=SWAPS,
        steps=600,
        save=save_policy,
    ),
    Family(
        "diffusion policy, mean of samples",
        CONFIG,
        _episodes,
        mean_diffusion,
        _policy_loss,
        swap_fields(WRIST),
        swaps=SWAPS,
        steps=600,
        save=save_policy,
    ),
)
