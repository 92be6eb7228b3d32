"""Examples lend among their like: by fields that must be equal, by counts of tokens, by what a collate_fn takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader

from collapsekit import diagnose
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.context import Progress
from collapsekit.data.loaders import BatchForm
from collapsekit.data.memory import MemorySource
from collapsekit.errors import DataError
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.features.matching import ENOUGH
from collapsekit.games.coalitions import CoalitionGame
from collapsekit.interventions.marginal import marginal_samples

N = 96


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.a(a) + self.b(b)


class Stream(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(30, 4), nn.Linear(4, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.table(tokens)).mean(1))


def rows() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(N, 3, generator=g),
        "b": torch.randn(N, 3, generator=g),
        "label": torch.arange(N) % 2,
    }


def donors_of(
    model: nn.Module, config: dict[str, Any], data: Any, draws: int = 7
) -> tuple[Features, list[Tensor], Any]:
    checked = check_config(config, base=Path())
    form = BatchForm(checked.batch, checked.data.edit == "examples")
    adapter = ModuleAdapter(checked, model=model, source=MemorySource({"test": data}, form))
    features = extract(adapter, "test")
    return features, CoalitionGame(adapter, features, draws, 0, Progress(), lambda: None).donors, adapter


@given(st.integers(2, 60), st.integers(1, 40), st.integers(1, 9), st.integers(0, 5))
def test_each_group_lends_every_example_once(n: int, draws: int, count: int, seed: int) -> None:
    alike = torch.randint(0, count, (n,), generator=torch.Generator().manual_seed(seed))
    sizes = alike.bincount()[alike]
    found = marginal_samples(n, draws, seed, alike)
    assert len(found) == min(draws, n - 1)
    for other in found:
        assert torch.equal(other.sort().values, torch.arange(n))
        assert torch.equal(alike[other], alike)
        assert torch.equal(other == torch.arange(n), sizes == 1)
    for i in range(n):
        lenders = {int(other[i]) for other in found}
        assert len(lenders) == min(len(found), max(1, int(sizes[i]) - 1))


def test_one_group_is_no_group() -> None:
    one, none = marginal_samples(20, 6, 3, torch.zeros(20, dtype=torch.long)), marginal_samples(20, 6, 3)
    assert all(torch.equal(a, b) for a, b in zip(one, none, strict=True))


@pytest.mark.parametrize("form", ["numbers", "words"])
def test_a_field_must_be_equal(form: str) -> None:
    r = rows()
    kinds = torch.arange(N) % 5
    words = [f"answer in {k} words" for k in kinds.tolist()]
    data = [
        [{k: v[i] for k, v in r.items()} | {"template": words[i] if form == "words" else kinds[i]} for i in range(N)]
    ]
    config = {"modalities": {"a": "a", "b": "b"}, "data": {"match": ["template"]}}
    features, donors, _ = donors_of(Pair(), config, data)
    place = [int((r["a"] == row).all(1).nonzero()) for row in features.inputs["a"]]
    here = kinds[place]
    assert all(torch.equal(here[other], here) for other in donors)
    sentence = {w.name: w.sentence for w in features.warnings}["lenders_matched"]
    assert "alike in 'template'" in sentence
    assert "keep their own" not in sentence


def test_those_without_their_like_are_counted() -> None:
    kinds = torch.cat([torch.arange(N - 3) % 5, torch.tensor([7, 8, 9])])
    config = {"modalities": {"a": "a", "b": "b"}, "data": {"match": ["kind"]}}
    features, donors, _ = donors_of(Pair(), config, {**rows(), "kind": kinds})
    assert "3 of its 96 examples have no such other and keep their own" in features.warnings[-1].sentence
    kept = [(other == torch.arange(N)).sum() for other in donors]
    assert kept == [3] * len(donors)


def test_none_alike_is_refused() -> None:
    config = {"modalities": {"a": "a", "b": "b"}, "data": {"match": ["kind"]}}
    with pytest.raises(DataError, match="no two examples are alike in 'kind'"):
        donors_of(Pair(), config, {**rows(), "kind": torch.arange(N)})


def test_a_field_that_is_not_there_is_named() -> None:
    data = {s: rows() for s in ("train", "val", "test")}
    config = {"modalities": {"a": "a", "b": "b"}, "data": {"match": ["kind"]}}
    with pytest.raises(DataError, match="kind"):
        diagnose(model=Pair(), data=data, config=config, profile="quick")


def streams(counts: Tensor) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    width = int(counts.max()) + 4
    segment = torch.where(torch.arange(width) < counts[:, None], 1, 2)
    return {
        "tokens": torch.randint(1, 30, (len(counts), width), generator=g),
        "segment": segment,
        "label": torch.arange(len(counts)) % 2,
    }


STREAM = {
    "modalities": {
        "image": {"input": "tokens", "where": "segment == 1"},
        "text": {"input": "tokens", "where": "segment == 2"},
    }
}


def test_lenders_have_as_many_tokens() -> None:
    data = streams(torch.arange(N) % 3 + 2)
    features, donors, _ = donors_of(Stream(), STREAM, data)
    counts = (features.inputs["segment"] == 1).sum(1)
    assert features.alike is not None
    assert all(torch.equal(counts[other], counts) for other in donors)
    assert sorted(features.alike.bincount().tolist()) == [N // 3] * 3
    assert "as many tokens" in features.warnings[-1].sentence


def test_few_of_a_count_lend_to_the_next_ones() -> None:
    """Of 96 examples with all different counts no two are equal: neighbours make groups that are large enough."""
    features, _, _ = donors_of(Stream(), STREAM, streams(torch.arange(N) + 1))
    assert features.alike is not None
    sizes = features.alike.bincount()
    assert int(sizes.min()) >= ENOUGH
    assert len(sizes) == N // ENOUGH


def test_all_of_one_count_may_lend_to_all() -> None:
    features, donors, _ = donors_of(Stream(), STREAM, streams(torch.full((N,), 3)))
    assert features.alike is None
    assert all(torch.equal(a, b) for a, b in zip(donors, marginal_samples(N, 7, 0), strict=True))


class Examples(torch.utils.data.Dataset[Any]):
    """A prompt with as many marks as the image has patches, as processors of vision-language models want it."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        self.patches = [torch.randn(2 + i % 3, 3, generator=g) for i in range(N)]
        self.words = torch.randn(N, 3, generator=g)

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        return {"image": self.patches[i], "prompt": "<image>" * (2 + i % 3), "words": self.words[i], "label": i % 2}


def collate(examples: list[Any]) -> Any:
    for e in examples:
        if e["prompt"].count("<image>") != len(e["image"]):
            raise ValueError("as many marks as patches are needed")
    return {
        "image": torch.stack([e["image"].mean(0) for e in examples]),
        "words": torch.stack([e["words"] for e in examples]),
        "label": torch.tensor([e["label"] for e in examples]),
    }


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, image: Tensor, words: Tensor) -> Tensor:
        return self.a(image) + self.b(words)


def test_what_a_collate_fn_refuses_is_not_exchanged() -> None:
    config = {
        "modalities": {"image": {"input": "image"}, "words": {"input": "words"}},
        "data": {"edit": "examples"},
    }
    loader = DataLoader(Examples(), batch_size=32, collate_fn=collate)
    features, donors, adapter = donors_of(Reader(), config, loader)
    images = adapter.source.objects["image"].take(features.inputs["image"])
    counts = torch.tensor([len(image) for image in images])
    assert all(torch.equal(counts[other], counts) for other in donors)
    assert "inputs of the same shape" in features.warnings[-1].sentence
    game = CoalitionGame(adapter, features, 7, 0, Progress(), lambda: None)
    assert game.value(0).expected.isfinite().all()
