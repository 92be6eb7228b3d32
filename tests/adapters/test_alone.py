"""A modality alone, before the whole model: models whose training form asks for more, values that splits share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit import diagnose
from collapsekit.data.memory import MemorySource
from collapsekit.errors import ConfigError
from collapsekit.features.extraction import extract
from tests.problems import adapt


class TwoForms(nn.Module):
    """A loss in training form, which needs a label; an answer in eval form."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, a: Tensor, b: Tensor, label: Tensor | None = None) -> Tensor:
        if self.training:
            assert label is not None
        out: Tensor = self.head(self.norm(torch.cat([a, b], 1)))
        return out


def split(seed: int, n: int = 80) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(n, 4, generator=g), torch.randn(n, 4, generator=g)
    return {"a": a, "b": b, "label": (a[:, 0] + b[:, 0] > 0).long()}


def test_a_model_whose_training_form_asks_for_labels_is_trained_on_a_modality_in_eval_mode() -> None:
    adapter = adapt(TwoForms(), {"modalities": {"a": None, "b": None}}, {"test": split(0)})
    features = extract(adapter, "test")
    answered = adapter.live("a", features.recorded, features.inputs)
    adapter.model.train()
    assert torch.equal(adapter.live("a", features.recorded, features.inputs), answered)
    assert answered.requires_grad
    adapter.model.train()
    with pytest.raises(ConfigError, match="forward failed"):  # not what is asked of it elsewhere
        adapter.run(features.inputs)
    adapter.model.head = nn.Linear(7, 2)
    with pytest.raises(ConfigError, match="forward failed"):  # nor what fails in either
        adapter.live("a", features.recorded, features.inputs)


def bags(seed: int, *, ragged: bool) -> list[Any]:
    held = split(seed)
    sizes = [2 + i % 3 if ragged else 3 for i in range(len(held["a"]))]
    return [{**held, "a": [row.repeat(size, 1) for row, size in zip(held["a"], sizes, strict=True)]}]


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 2)

    def forward(self, a: list[Tensor], b: Tensor) -> Tensor:
        out: Tensor = self.head(torch.cat([torch.stack([bag.mean(0) for bag in a]), b], 1))
        return out


@pytest.mark.parametrize("ragged", ["test", "train", "val"])
def test_what_describes_values_is_the_same_in_all_splits(ragged: str) -> None:
    """Though bags of one split are all of one size, and those of another are not, whichever is read first."""
    splits = {s: bags(i, ragged=s == ragged) for i, s in enumerate(("train", "val", "test"))}
    config = {"modalities": {"a": None, "b": None}}
    report = diagnose(model=Bags(), data=splits, config=config, profile="quick", probes=["utilisation"])
    gain = report.find("utilisation.alone_gain", "a")
    assert gain is not None
    assert gain.skipped is None
    assert gain.value is not None
    assert gain.value > 0.1  # a's first number is in its bags, of whatever size


def test_a_list_of_pictures_of_one_size_is_read_out_as_they_lie() -> None:
    """Where in a picture something is no mean over it tells."""
    g = torch.Generator().manual_seed(0)
    places = torch.randint(0, 4, (80,), generator=g)
    images = nn.functional.one_hot(places, 4).float().reshape(80, 1, 2, 2) + 0.1 * torch.randn(80, 1, 2, 2, generator=g)
    source = MemorySource({"test": [{"images": list(images), "b": torch.zeros(80, 2), "label": places}]})
    adapter = adapt(Pictures(), {"modalities": {"images": None, "b": None}}, {})
    adapter.source = source
    features = extract(adapter, "test")
    assert features.numbers("images").shape == (80, 1, 2, 2)
    assert torch.equal(features.numbers("images").flatten(2).argmax(2)[:, 0], features.targets)


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 4)

    def forward(self, images: list[Tensor], b: Tensor) -> Tensor:
        out: Tensor = self.head(torch.cat([torch.stack(images).flatten(1), b], 1))
        return out
