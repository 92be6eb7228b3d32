"""Altered recordings: the rows of one question or of many, put together for one forward of fusion and head."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from collapsekit.adapter.base import Adapter, Given, Recorded
from collapsekit.features import Features
from collapsekit.sources import Batch


@dataclass(frozen=True)
class Altered:
    """One question: some modalities multiplied (``scale``) or taken from other examples (``swap``: modality -> row indices
    (n,); their raw inputs move with them) or held at their mean (``hold``)."""

    scale: Mapping[str, float] = field(default_factory=dict)
    swap: Mapping[str, Tensor] = field(default_factory=dict)
    hold: Collection[str] = ()


@dataclass(frozen=True)
class Piece:
    """Rows ``start`` to ``stop`` of the answer to one question."""

    asked: Altered
    start: int
    stop: int


def cut(asked: Iterable[Altered], n: int, size: int, mixed: bool) -> Iterator[list[Piece]]:
    """Forwards of at most ``size`` rows that hold the n rows of every question in turn, ``mixed`` or each by itself."""
    forward: list[Piece] = []
    room = size
    for question in asked:
        start = 0
        while start < n:
            stop = min(n, start + room)
            forward.append(Piece(question, start, stop))
            start, room = stop, room - (stop - start)
            if not room or (start == n and not mixed):
                yield forward
                forward, room = [], size
    if forward:
        yield forward


def gathered(
    adapter: Adapter, features: Features, index: Tensor, pieces: Sequence[Piece]
) -> tuple[dict[str, Recorded], Batch]:
    """Recordings and raw inputs of ``pieces``, one after another; copies, into which the model may write."""
    own = [index[p.start : p.stop] for p in pieces]

    def rows(moving: Sequence[str]) -> Tensor:
        """Where rows are taken from that move with each of ``moving`` that is swapped."""
        swaps = [[p.asked.swap[m][p.start : p.stop] for m in moving if m in p.asked.swap] for p in pieces]
        return torch.cat([s[-1] if s else part for s, part in zip(swaps, own, strict=True)])

    recorded: dict[str, Recorded] = {}
    for m in features.modalities:
        taken = rows([m])
        # Several times faster than t[taken].
        recorded[m] = Given(t.index_select(0, taken) for t in features.recorded[m])
        start = 0
        for piece, part in zip(pieces, own, strict=True):
            _alter(features, m, piece.asked, [t[start : start + len(part)] for t in recorded[m]])
            start += len(part)
    keys = {m: adapter.input_keys(m) for m in features.modalities}
    moving = {key: tuple(m for m in features.modalities if key in keys[m]) for key in features.inputs}
    sources = {one: rows(one) for one in set(moving.values())}
    return recorded, {key: value.index_select(0, sources[moving[key]]) for key, value in features.inputs.items()}


def _alter(features: Features, modality: str, asked: Altered, parts: Sequence[Tensor]) -> None:
    """Hold and scale recordings in place; masks and indices stay."""
    for i, part in enumerate(parts):
        if part.is_floating_point():
            if modality in asked.hold:
                whole = features.recorded[modality][i]
                part.copy_(features.once(("mean", modality, i), partial(_mean, whole)).expand_as(part))
            if modality in asked.scale:
                part.mul_(asked.scale[modality])


def _mean(values: Tensor) -> Tensor:
    """Mean over examples, (1, ...)."""
    return values.double().mean(0, keepdim=True).to(values.dtype)
