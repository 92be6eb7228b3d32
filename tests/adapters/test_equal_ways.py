"""A what-if question has one answer, however it is asked: replayed, rerun, edited before collation, in parts of one field,
or example by example without collapsekit; in whatever batches and order the data come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader

from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.context import Progress
from collapsekit.data.loaders import BatchForm
from collapsekit.data.memory import MemorySource
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.games.coalitions import CoalitionGame
from collapsekit.interventions.edits import Edit
from collapsekit.interventions.replay import predict_many

NAMES = "abc"


class Apart(nn.Module):
    """Each modality a tensor (n, width), an encoder of its own."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        torch.manual_seed(count + 10 * width)
        self.encoders = nn.ModuleDict({m: nn.Sequential(nn.Linear(width, 4), nn.Tanh()) for m in NAMES[:count]})
        self.fusion, self.head = nn.Linear(4 * count, 5), nn.Linear(5, 3)

    def forward(self, **inputs: Tensor) -> Tensor:
        parts = [encoder(inputs[m]) for m, encoder in self.encoders.items()]
        return self.head(torch.tanh(self.fusion(torch.cat(parts, 1))))


class Stacked(Apart):
    """The same numbers as channels of one tensor (n, count, width)."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(**{m: x[:, i] for i, m in enumerate(self.encoders)})


class Tokens(Apart):
    """The same numbers as tokens of one sequence, each modality two of them; they are averaged."""

    def forward(self, tokens: Tensor, segment: Tensor) -> Tensor:  # type: ignore[override]
        parts = {}
        for i, m in enumerate(self.encoders):
            there = (segment == i)[..., None].to(tokens.dtype)
            parts[m] = (tokens * there).sum(1) / there.sum(1)
        return super().forward(**parts)


class Rows(torch.utils.data.Dataset[Any]):
    def __init__(self, split: Mapping[str, Tensor]) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split["label"])

    def __getitem__(self, i: int) -> Any:
        return {k: v[i] for k, v in self.split.items()}


def collate(examples: Sequence[Mapping[str, Tensor]]) -> Any:
    return {k: torch.stack([e[k] for e in examples]) for k in examples[0]}


def numbers(n: int, count: int, width: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(n)
    return {m: torch.randn(n, width, generator=g) for m in NAMES[:count]} | {"label": torch.arange(n) % 3}


def ways(n: int, count: int, width: int, size: int, order: Tensor) -> dict[str, tuple[nn.Module, Any, Any]]:
    """By name a model, a config and data, in batches of ``size``, rows in ``order``."""
    split = {k: v[order] for k, v in numbers(n, count, width).items()}
    names = NAMES[:count]
    batches = [{k: v[i : i + size] for k, v in split.items()} for i in range(0, n, size)]
    replayed = {m: f"encoders.{m}" for m in names}
    mixed = {m: f"encoders.{m}" if i else None for i, m in enumerate(names)}
    stacked = {"x": torch.stack([split[m] for m in names], 1), "label": split["label"]}
    pairs = torch.stack([split[m] + sign * 0.25 for m in names for sign in (1.0, -1.0)], 1)
    kind = torch.arange(2 * count) // 2
    shuffled = torch.randperm(2 * count, generator=torch.Generator().manual_seed(width))
    stream = {
        "tokens": pairs[:, shuffled],
        "segment": kind[shuffled].expand(n, -1).clone(),
        "label": split["label"],
    }
    data = {"batch_size": size}
    loader = DataLoader(Rows(split), batch_size=size, collate_fn=collate)
    return {
        "replayed": (Apart(count, width), {"modalities": replayed, "fusion": "fusion", "data": data}, batches),
        "rerun": (Apart(count, width), {"modalities": dict.fromkeys(names), "data": data}, split),
        "mixed": (Apart(count, width), {"modalities": mixed, "data": data}, batches),
        "examples": (
            Apart(count, width),
            {"modalities": dict.fromkeys(names), "data": {**data, "edit": "examples"}},
            loader,
        ),
        "channels": (
            Stacked(count, width),
            {"modalities": {m: {"input": "x", "slice": f"[{i}]"} for i, m in enumerate(names)}, "data": data},
            stacked,
        ),
        "tokens": (
            Tokens(count, width),
            {
                "modalities": {m: {"input": "tokens", "where": f"segment == {i}"} for i, m in enumerate(names)},
                "data": {**data, "also": ["segment"]},
            },
            stream,
        ),
    }


def opened(model: nn.Module, config: Any, data: Any) -> tuple[ModuleAdapter, Features]:
    checked = check_config(config, base=Path())
    form = BatchForm(checked.batch, checked.data.edit == "examples")
    adapter = ModuleAdapter(checked, model=model, source=MemorySource({"test": data}, form))
    return adapter, extract(adapter, "test")


def answers(
    adapter: ModuleAdapter, features: Features, plain: Tensor, swaps: Sequence[Mapping[str, Tensor]]
) -> list[Tensor]:
    """What is answered where modalities are swapped, in the order of the numbers, whose own answers are ``plain``."""
    place = (
        (features.outputs[:, None] - plain[None]).abs().sum(2).argmin(1)
    )  # the number of each row: no two answer alike
    rows = place.argsort()
    edits = [Edit(swap={m: rows[lender[place]] for m, lender in swap.items()}) for swap in swaps]
    return [answer.outputs[rows] for answer in predict_many(adapter, features, edits)]


def by_hand(n: int, count: int, width: int, swaps: Sequence[Mapping[str, Tensor]]) -> tuple[Tensor, list[Tensor]]:
    """One example at a time, without collapsekit."""
    split, model = numbers(n, count, width), Apart(count, width).eval()

    def one(i: int, swap: Mapping[str, Tensor]) -> Tensor:
        rows = {m: int(swap[m][i]) if m in swap else i for m in NAMES[:count]}
        return model(**{m: split[m][r : r + 1] for m, r in rows.items()})[0]

    with torch.no_grad():
        plain = torch.stack([one(i, {}) for i in range(n)])
        return plain, [torch.stack([one(i, swap) for i in range(n)]) for swap in swaps]


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 40), st.integers(2, 3), st.integers(1, 4), st.integers(1, 40), st.integers(0, 99))
def test_every_way_gives_the_answers_of_single_examples(n: int, count: int, width: int, size: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    names = NAMES[:count]
    swaps = [{m: torch.randperm(n, generator=g)} for m in names]
    swaps.append(dict.fromkeys(names, torch.randperm(n, generator=g)))
    plain, wanted = by_hand(n, count, width, swaps)
    for name, (model, config, data) in ways(n, count, width, size, torch.randperm(n, generator=g)).items():
        for answer, want in zip(answers(*opened(model, config, data), plain, swaps), wanted, strict=True):
            assert torch.allclose(answer, want, atol=1e-5), name


@settings(max_examples=10, deadline=None)
@given(st.integers(12, 40), st.integers(2, 3), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_batches_and_order_change_nothing(n: int, count: int, one: int, other: int, seed: int) -> None:
    """Coalitions' losses are the same, whatever the batches and the order of rows."""
    g = torch.Generator().manual_seed(seed)
    first = ways(n, count, 3, one, torch.arange(n))
    second = ways(n, count, 3, other, torch.randperm(n, generator=g))
    for name in first:
        losses = []
        for model, config, data in (first[name], second[name]):
            game = CoalitionGame(*opened(model, config, data), 5, 0, Progress(), lambda: None)
            losses.append(torch.stack([game.value(mask).loss for mask in range(1 << count)]))
        assert torch.allclose(losses[0], losses[1], atol=1e-6), name
