"""Made-up pictures, questions of seven words, and answers of one word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

IMAGE, START, END, VOCABULARY = 63, 61, 62, 64  # token ids
ANSWERS, CLASSES = 50, 4  # the ids of answers are 50 to 53
WORDS, SURE = 4, 0.85  # words that say a bit, and the share of them that say it right
STRENGTH = 0.5  # of what a picture shows, in standard deviations of a pixel's noise


@dataclass(frozen=True)
class World:
    """What is asked: the right answer of colour, place, a bit of the text and which of the two is asked for, and how often
    two words at the end give the answer away (else they say any)."""

    answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    hinted: float


WORLDS = {
    # The picture says one bit of the answer, the text another.
    "both": World(lambda colour, place, said, asked: 2 * said + colour, 0.0),
    # The picture says all of the answer, the text gives it away now and then.
    "hint": World(lambda colour, place, said, asked: 2 * colour + place, 0.4),
    # The text asks for colour or place, which only the picture says.
    "asks": World(lambda colour, place, said, asked: torch.where(asked == 1, 2 + place, colour), 0.0),
}


@dataclass(frozen=True)
class Examples:
    """Pictures (3, h, w), of one size or of several; words (n, 7); answers (n,), 0 to 3."""

    images: list[Tensor]
    words: Tensor
    answers: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor) -> Examples:
        """Take some of them."""
        return Examples([self.images[i] for i in rows.tolist()], self.words[rows], self.answers[rows])

    def exchanged(self, order: Tensor, *, images: bool = False, words: bool = False) -> Examples:
        """Take pictures, words or both of other examples."""
        other = self.take(order)
        return Examples(other.images if images else self.images, other.words if words else self.words, self.answers)

    def with_images(self, images: list[Tensor]) -> Examples:
        """Put other pictures in their place."""
        return Examples(images, self.words, self.answers)


def sample(
    world: World, n: int, seed: int, size: tuple[int, ...], hinted: float | None = None, strength: float = STRENGTH
) -> Examples:
    """Draw examples.

    Args:
        world: what is asked.
        n: how many.
        seed: of the draw.
        size: height of pictures in pixels, and their widths, of which each has one at random.
        hinted: how often the text gives the answer away; None: as in the world.
        strength: of what a picture shows, in standard deviations of a pixel's noise.

    Returns:
        The examples.
    """
    g = torch.Generator().manual_seed(seed)
    colour, place, said, asked = (torch.randint(0, 2, (n,), generator=g) for _ in range(4))
    answers = world.answer(colour, place, said, asked)
    right = torch.rand(n, WORDS, generator=g) < SURE
    which = torch.where(right, said[:, None], 1 - said[:, None])
    told = 1 + 20 * which + torch.randint(0, 20, (n, WORDS), generator=g)
    given = torch.rand(n, generator=g) < (world.hinted if hinted is None else hinted)
    hint = torch.where(given, answers, torch.randint(0, CLASSES, (n,), generator=g))
    words = torch.cat([told, 41 + asked[:, None], 44 + hint[:, None].expand(n, 2)], 1)
    height, widths = size[0], size[1:]
    wide = torch.randint(0, len(widths), (n,), generator=g).tolist()
    images = [
        _draw(g, height, widths[w], int(c), int(p), strength) for w, c, p in zip(wide, colour, place, strict=True)
    ]
    return Examples(images, words, answers)


def _draw(g: torch.Generator, height: int, width: int, colour: int, place: int, strength: float) -> Tensor:
    """A picture that is redder or bluer, and greener on its left or on its right."""
    image = torch.randn(3, height, width, generator=g)
    shown = strength * (2 * colour - 1)
    image[0] += shown
    image[2] -= shown
    half = width // 2
    side = strength * (2 * place - 1)
    image[1, :, :half] -= side
    image[1, :, half:] += side
    return image
