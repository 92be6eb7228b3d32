"""Altered recordings: the rows of one question or of many, put together for one forward of fusion and head."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from collapsekit.adapters.base import Activations, Adapter, OwnedActivations
from collapsekit.adapters.build import seed_everything
from collapsekit.data.base import Batch
from collapsekit.features.features import Features

TRIED = 64  # examples on which it is told whether an input is read


@dataclass(frozen=True)
class Edit:
    """One question: some modalities multiplied (``scale``) or taken from other examples (``swap``: modality -> row indices
    (n,); their raw inputs move with them) or held at their mean (``hold``) or absent (``absent``: as ``swap``, unless the
    config says what stands in their place)."""

    scale: Mapping[str, float] = field(default_factory=dict)
    swap: Mapping[str, Tensor] = field(default_factory=dict)
    hold: Collection[str] = ()
    absent: Mapping[str, Tensor] = field(default_factory=dict)

    def find_lenders(self, modality: str) -> Tensor | None:
        """Find the rows (n,) from which a modality is taken; None: the examples' own."""
        found = self.absent.get(modality)
        return self.swap.get(modality) if found is None else found


@dataclass(frozen=True)
class Piece:
    """Rows ``start`` to ``stop`` of the answer to one question."""

    asked: Edit
    start: int
    stop: int


def cut_pieces(asked: Iterable[Edit], n: int, size: int, mixed: bool) -> Iterator[list[Piece]]:
    """Cut the answers to questions into forwards.

    Args:
        asked: the questions.
        n: rows of each answer.
        size: rows of a forward, at most.
        mixed: rows of several questions share a forward; else each question has its own.

    Yields:
        The pieces of one forward, in the order of the questions and of their rows.
    """
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


def gather_edits(
    adapter: Adapter, features: Features, index: Tensor, pieces: Sequence[Piece]
) -> tuple[dict[str, Activations], Batch]:
    """Gather recordings and raw inputs of pieces, one after another.

    Args:
        adapter: the model.
        features: n recorded examples.
        index: rows of ``features`` that each question is about, int64 (r,); pieces are parts of it.
        pieces: what is altered in which of these rows; b rows in all.

    Returns:
        Recordings by modality and raw inputs by key, each (b, ...). Recordings are copies, into which the model may
        write; of an input that it does not read past its encoders, the first example's stands for all.
    """
    own = [index[p.start : p.stop] for p in pieces]

    def rows(moving: Sequence[str]) -> Tensor:
        """Where rows are taken from that move with each of ``moving`` that is swapped."""
        parts = []
        for piece, part in zip(pieces, own, strict=True):
            last, lenders = None, part
            for m in moving:
                if (wanted := piece.asked.find_lenders(m)) is not None:
                    last, lenders = m, wanted[piece.start : piece.stop]
            parts.append(part if last is None else features.lenders(last, part, lenders))
        return torch.cat(parts)

    recorded: dict[str, Activations] = {}
    for m in features.modalities:
        taken = rows([m])
        # Several times faster than t[taken].
        recorded[m] = OwnedActivations(t.index_select(0, taken) for t in features.recorded[m])
        if m in features.substitutes:
            _stand_in(features, m, recorded[m], features.substitutes[m].recorded, pieces, own)
        start = 0
        for piece, part in zip(pieces, own, strict=True):
            _alter(features, m, piece.asked, [t[start : start + len(part)] for t in recorded[m]])
            start += len(part)
    keys = {m: adapter.input_keys(m) for m in features.modalities}
    moving = {key: tuple(m for m in features.modalities if key in keys[m]) for key in features.inputs}
    sources = {one: rows(one) for one in set(moving.values())}
    idle, count = unread_inputs(adapter, features), sum(len(part) for part in own)
    inputs = {
        key: value[:1].expand(count, *value.shape[1:]) if key in idle else value.index_select(0, sources[moving[key]])
        for key, value in features.inputs.items()
    }
    for m, stand in features.substitutes.items():
        read = [key for key in stand.inputs if key not in idle]
        _stand_in(features, m, [inputs[k] for k in read], [stand.inputs[k] for k in read], pieces, own)
    return recorded, inputs


def _stand_in(
    features: Features,
    modality: str,
    tensors: Sequence[Tensor],
    stands: Sequence[Tensor],
    pieces: Sequence[Piece],
    rows: Sequence[Tensor],
) -> None:
    """Put what stands for an absent modality, (k, ...) each, into gathered tensors (b, ...), in place; an example that lacks
    it stays as it is."""
    start, there = 0, features.present.get(modality)
    for piece, part in zip(pieces, rows, strict=True):
        if modality in piece.asked.absent:
            lenders = piece.asked.absent[modality][piece.start : piece.stop]
            places = torch.arange(len(part)) if there is None else there[part].nonzero()[:, 0]
            for tensor, stand in zip(tensors, stands, strict=True):
                tensor[start + places] = stand.index_select(0, lenders[places] % len(stand)).to(tensor.dtype)
        start += len(part)


def unread_inputs(adapter: Adapter, features: Features) -> frozenset[str]:
    """Find the raw inputs that the model does not read past its encoders, so that one example's may stand for all.

    With anything in their places, NaN and extremes included, it answers a few examples with the same bits, from
    recordings.
    """
    if features.facts.unread is None:
        features.facts.unread = _unread(adapter, features)
    return features.facts.unread


def _unread(adapter: Adapter, features: Features) -> frozenset[str]:
    few = {key: value[:TRIED] for key, value in features.inputs.items()}
    given = [key for key in few if key not in adapter.carried]

    def answer(changed: Batch) -> tuple[bytes, bytes] | None:
        recorded = {m: OwnedActivations(t[:TRIED].clone() for t in features.recorded[m]) for m in features.modalities}
        seed_everything(0)
        features.facts.tried += 1
        try:
            with torch.no_grad():
                said = adapter.rerun(recorded, {k: changed.get(k, v.clone()) for k, v in few.items()}).on_cpu().single()
        except Exception:  # noqa: BLE001 - a model that cannot take it reads it
            return None
        return said.fused.numpy().tobytes(), said.outputs.numpy().tobytes()

    def idle(keys: Collection[str]) -> bool:
        others = [dict(zip(keys, each, strict=True)) for each in zip(*(_others(few[k]) for k in keys), strict=True)]
        return all(answer(changed) == plain for changed in others)

    plain = answer({})
    found = [key for key in given if plain is not None and idle([key])]
    return frozenset(found if found and idle(found) else ())


def _others(value: Tensor) -> list[Tensor]:
    """What is tried in the place of an input: constants, and the first example for all."""
    if value.dtype == torch.bool:
        kinds: list[float] = [False, True, False, True]
    elif value.is_floating_point() or value.is_complex():
        kinds = [float("nan"), 0.0, 1.0, torch.finfo(value.dtype).max / 2]
    else:
        kinds = [torch.iinfo(value.dtype).min, 0, 1, torch.iinfo(value.dtype).max]
    return [*(torch.full_like(value, kind) for kind in kinds), value[:1].expand_as(value)]


def _alter(features: Features, modality: str, asked: Edit, parts: Sequence[Tensor]) -> None:
    """Hold and scale recordings in place; masks and indices stay."""
    for i, part in enumerate(parts):
        if part.is_floating_point():
            if modality in asked.hold:
                part.copy_(features.mean(modality, i).to(part.dtype).expand_as(part))
            if modality in asked.scale:
                part.mul_(asked.scale[modality])
