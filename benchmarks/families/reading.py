"""What families that read pictures and text are given: sizes of their layers, tokens, patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.families.family import World
from benchmarks.families.zoo import HIDDEN

ANSWERS, IMAGE, VOCABULARY = 50, 63, 64  # token ids: words are 1 to 40, answers from 50 on
TEXT: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
VISION: dict[str, Any] = {**TEXT, "image_size": 8, "patch_size": 4}


def words(world: World, bit: Tensor, count: int = 6, sure: float = 0.85) -> Tensor:
    """Tokens (n, count), 1 to 40, of which a part ``sure`` say the bit."""
    right = torch.rand(len(bit), count, generator=world.draw) < sure
    which = torch.where(right, bit[:, None], 1 - bit[:, None])
    return 1 + 20 * which + torch.randint(0, 20, (len(bit), count), generator=world.draw)


def image(world: World, bit: Tensor) -> Tensor:
    """Images (n, 3, 8, 8) of four patches, brighter or darker."""
    return world.noisy(bit, 3, 8, 8, size=0.3)


def answers(world: World) -> Tensor:
    """Two tokens that are the right answer, (n, 2): a word for each bit."""
    return ANSWERS + torch.stack([world.a, 2 + world.b], 1)


def swap_where(key: str, field: str, value: int) -> Any:
    """Make a function that takes the tokens of ``key`` where ``field`` says so from other examples."""

    def swap(split: Any, order: Tensor) -> Any:
        inside = split[field] == value
        return {**split, key: torch.where(inside, split[key][order], split[key])}

    return swap
