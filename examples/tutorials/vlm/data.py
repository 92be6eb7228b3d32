"""Made-up pictures, questions about their colour or brightness, and answers of one word."""

from __future__ import annotations

import torch
from model import PATCHES, WORDS
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

SIZES = {"train": 1000, "val": 200, "test": 300}
THINGS = ("banana", "grass", "fire", "sea")
COLOURS = {"yellow": (1.0, 1.0, -1.0), "green": (-1.0, 1.0, -1.0), "red": (1.0, -1.0, -1.0), "blue": (-1.0, -1.0, 1.0)}
USUAL = (("yellow", "light"), ("green", "dark"), ("red", "light"), ("blue", "dark"))  # of each thing
IGNORED = -100  # the label of a place that is no answer


def ids(text: str) -> Tensor:
    """The numbers of words, (words,)."""
    return torch.tensor([WORDS.index(word) for word in text.split()])


class Questions(Dataset[dict[str, Tensor]]):
    """One question: ``input_ids`` (10,), ``attention_mask`` (10,), ``pixel_values`` (3, 16, 16), ``labels`` (10,)."""

    def __init__(self, split: str, usual: float) -> None:
        self.draw = torch.Generator().manual_seed(list(SIZES).index(split))
        self.items = [self.make(usual) for _ in range(SIZES[split])]

    def make(self, usual: float) -> dict[str, Tensor]:
        """A picture of a thing in any colour, or with the chance ``usual`` in its own, and a question."""
        thing, colour, light, kind = (int(torch.randint(n, (1,), generator=self.draw)) for n in (4, 4, 2, 2))
        look = (list(COLOURS)[colour], ("light", "dark")[light])
        if float(torch.rand(1, generator=self.draw)) < usual:
            look = USUAL[thing]
        strength = {"light": 1.0, "dark": 0.3}[look[1]]
        picture = 0.5 * torch.randn(3, 16, 16, generator=self.draw)
        row, column = (8 * int(torch.randint(2, (1,), generator=self.draw)) for _ in range(2))  # where the thing is
        picture[:, row : row + 8, column : column + 8] += strength * torch.tensor(COLOURS[look[0]])[:, None, None]
        question = "<image> " * PATCHES + f"{('what colour', 'how bright')[kind]} is the {THINGS[thing]}"
        input_ids = ids(question)
        labels = torch.full_like(input_ids, IGNORED)
        labels[-1] = ids(look[kind])[0]  # the answer is due at the last place, and not in the input
        return {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "pixel_values": picture,
            "labels": labels,
        }

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return self.items[i]


def loaders() -> dict[str, DataLoader[dict[str, Tensor]]]:
    """What collapsekit.yaml names: half of the things in their usual colour, half in any."""
    return {split: DataLoader(Questions(split, usual=0.5), batch_size=100) for split in SIZES}
