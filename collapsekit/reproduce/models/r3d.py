"""R3D after Figure 4 of Kim et al. 2025: a token fuser, a temporal fuser, and queries that say which actions follow.

Written from the figure's caption and from what the authors' released code does between tokens: at each time step the
modalities attend to one another with the diagonal masked, so that each reads the other only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from collapsekit.adapters.inserts import ChannelExchange
from collapsekit.stats.linalg.exchange import exchanged_count

Choice = Literal["weakest", "strongest", "random"]


@dataclass(frozen=True)
class R3DSize:
    """How large a network is, and what it answers."""

    classes: int
    queries: int = 1
    width: int = 64
    heads: int = 4
    layers: int = 1
    dropout: float = 0.1
    steps: int = 64  # tokens of a whole sequence, of which it is given the first ones


@dataclass(frozen=True)
class ExchangedShare:
    """Which channels a token fuser blends: ``proportion`` of them, the weakest or strongest of each clip, or a fixed random
    draw."""

    proportion: float = 0.0
    channels: Choice = "weakest"
    blend: float = 0.3  # α to begin with
    seed: int = 0  # of the random draw


class Anticipated(NamedTuple):
    """What the network says of n sequences of t tokens."""

    segments: Tensor  # (n, t, classes): logits of the action at each observed token
    actions: Tensor  # (n, queries, classes + 1): of the action in progress and those that follow; the last: none
    durations: Tensor  # (n, queries): logarithm of the time that each of them still takes


class StrongestExchange(ChannelExchange):
    """A control: as the exchange of the weakest channels of each clip, but of those that move most."""

    def chosen(self, mine: Tensor) -> Tensor:
        """Mark in each example all channels (n, ..., c) but the ``each`` of the lowest energy: (n, 1, ..., c)."""
        return 1 - super().chosen(mine)


class TokenFuser(nn.Module):
    """RTF: of each modality's channels those that say least become (1 - α)·own + α·other, α learned, one a channel.

    The operation is that of the repair ``rtf``. Channels are chosen in every clip by the energy of their tokens; controls
    are the strongest of every clip, and random ones, drawn once.
    """

    def __init__(self, names: Sequence[str], width: int, share: ExchangedShare) -> None:
        super().__init__()
        first, second = names
        self.exchange = nn.ModuleDict()
        if not share.proportion:
            return
        count = exchanged_count(share.proportion, width)
        each = {"weakest": count, "strongest": width - count, "random": None}
        generator = torch.Generator().manual_seed(share.seed)
        for name, giver in ((first, second), (second, first)):
            drawn = sorted(torch.randperm(width, generator=generator)[:count].tolist())
            to = drawn if share.channels == "random" else list(range(width))
            record = {"modality": name, "giver": giver, "features": width, "given": width, "to": to, "source": to}
            record |= {"each": each[share.channels], "blend": share.blend}
            make = StrongestExchange if share.channels == "strongest" else ChannelExchange
            self.exchange[name] = make(record, [giver])

    def forward(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Blend tokens (n, t, d) of two modalities into one another; both read the other as it was."""
        out = dict(tokens)
        for name, blended in self.exchange.items():
            assert isinstance(blended, ChannelExchange)
            out[name] = blended(tokens[name], tokens[blended.giver])
        return out


class CrossModalBlock(nn.Module):
    """Attention between the modalities' tokens of one time step, its diagonal masked, and a perceptron behind it.

    It has no path around it: what it says at the place of one of two modalities is made of the other's token alone. Of
    more, a modality's own token says which of the others it reads.
    """

    mask: Tensor

    def __init__(self, modalities: int, size: R3DSize) -> None:
        super().__init__()
        width = size.width
        self.attention = nn.MultiheadAttention(width, size.heads, dropout=size.dropout, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.register_buffer("mask", torch.eye(modalities, dtype=torch.bool), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Read, at the place of each of the m modalities of ``tokens`` (n, t, m, d), the others: (n, t, m, d)."""
        x = tokens.flatten(0, 1)
        read, _ = self.attention(x, x, x, attn_mask=self.mask, need_weights=False)
        out: Tensor = read + self.perceptron(self.norm(read))
        return out.view_as(tokens)


class TemporalFuser(nn.Module):
    """The cross-modal block beside the tokens themselves, mean over modalities, then a transformer over time."""

    def __init__(self, modalities: int, size: R3DSize) -> None:
        super().__init__()
        self.cross = CrossModalBlock(modalities, size)
        self.norm = nn.LayerNorm(size.width)
        self.position = nn.Parameter(0.02 * torch.randn(size.steps, size.width))
        layer = nn.TransformerEncoderLayer(
            size.width, size.heads, 2 * size.width, size.dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, size.layers, nn.LayerNorm(size.width), enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Fuse tokens (n, t, m, d) of m modalities into one sequence (n, t, d). All t of them are observed: none is
        padding."""
        fused = self.norm(tokens + self.cross(tokens)).mean(2)
        out: Tensor = self.encoder(fused + self.position[: fused.shape[1]])
        return out


class ActionQueries(nn.Module):
    """Learned queries that read the fused sequence: the first says what is in progress, the next ones what follows."""

    def __init__(self, size: R3DSize) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(size.queries, size.width))
        layer = nn.TransformerDecoderLayer(
            size.width, size.heads, 2 * size.width, size.dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, size.layers, nn.LayerNorm(size.width))
        self.action, self.duration = nn.Linear(size.width, size.classes + 1), nn.Linear(size.width, 1)
        self.steps = size.steps

    def forward(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """Ask the sequence ``fused`` (n, t, d): logits of actions (n, queries, classes + 1), logarithms of durations
        (n, queries), which begin from the share of the time that is left."""
        read = self.decoder(self.queries.expand(len(fused), -1, -1), fused)
        left = max(self.steps - fused.shape[1], 0.5) / self.steps
        return self.action(read), self.duration(read)[..., 0] + math.log(left)


class R3D(nn.Module):
    """The whole of Figure 4 behind encoders of two modalities, each of which gives tokens (n, t, width)."""

    def __init__(self, encoders: Mapping[str, nn.Module], size: R3DSize, share: ExchangedShare) -> None:
        super().__init__()
        self.names, self.size = tuple(encoders), size
        self.encoders = nn.ModuleDict(encoders)
        self.token_fuser = TokenFuser(self.names, size.width, share)
        self.temporal_fuser = TemporalFuser(len(self.names), size)
        self.segmentation = nn.Linear(size.width, size.classes)
        self.anticipation = ActionQueries(size)

    def blend(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the tokens (n, t, d) of each modality as they enter the temporal fuser."""
        return dict(self.token_fuser({name: self.encoders[name](inputs[name]) for name in self.names}))

    def anticipate(self, inputs: Mapping[str, Tensor]) -> Anticipated:
        """Say which action is in progress and which follow, from the observed tokens (n, t, ...) of each modality."""
        blended = self.blend(inputs)
        fused = self.temporal_fuser(torch.stack([blended[name] for name in self.names], 2))
        return Anticipated(self.segmentation(fused), *self.anticipation(fused))

    def forward(self, **inputs: Tensor) -> Tensor:
        """Answer with logits (n, classes) of the action in progress, as the first query has it."""
        return self.anticipate(inputs).actions[:, 0, : self.size.classes]


class SkeletonEncoder(nn.Module):
    """Joints (n, t, 3, joints) to tokens: where they are, and how far they came since the token before.

    Tokens of both encoders are normalised, so that neither modality is louder where channels are exchanged.
    """

    def __init__(self, joints: int, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6 * joints, 2 * width),
            nn.LayerNorm(2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.LayerNorm(width),
        )

    def forward(self, joints: Tensor) -> Tensor:
        """Encode joints (n, t, 3, joints), in metres, into (n, t, width)."""
        moved = torch.cat([torch.zeros_like(joints[:, :1]), joints[:, 1:] - joints[:, :-1]], 1)
        out: Tensor = self.layers(torch.cat([joints, 4 * moved], 2).flatten(2))
        return out


class DepthEncoder(nn.Module):
    """Depth images (n, t, side, side) to tokens, each image by itself."""

    def __init__(self, side: int, width: int, dropout: float) -> None:
        super().__init__()
        cells = (side // 8) ** 2
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1),
            nn.GELU(),
            nn.Conv2d(8, 16, 3, 2, 1),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.GELU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(32 * cells, width),
            nn.LayerNorm(width),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (n, t, side, side), in [0, 1], into (n, t, width)."""
        out: Tensor = self.layers(images.flatten(0, 1)[:, None])
        return out.view(*images.shape[:2], -1)
