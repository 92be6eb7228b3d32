"""The balanced reference of paired embeddings: what could be found if every modality were used on its side of the pair.

A side alone finds nothing, so no modality has a readout by itself. All of them are read out together: linear maps of
recorded features and raw inputs into one space, in which the modalities of a side add up, fitted to the task's own loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.games.balanced_reference import BalancedReference
from collapsekit.interventions.replay import predict
from collapsekit.readouts.choosing import FeatureSet
from collapsekit.readouts.linear import FitSplit, UnimodalReadout
from collapsekit.readouts.poolings import recorded_sets
from collapsekit.readouts.raw import RawModality, read_fourier, read_numbers, read_tokens
from collapsekit.readouts.strength import ReferenceStrength, TriedReadout
from collapsekit.stats.random_features import standardised
from collapsekit.tasks.base import Task

SPACE = 16  # numbers of an embedding
PARTS = 48  # principal parts that are kept of each set of features
PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)  # of squared weights
STEPS = 100  # of L-BFGS
MOVED = 1e-5  # part of an embedding's size by which it has to move for a modality to be on its side
LOOKED_AT = 64  # examples that are asked
FAMILY = "linear maps of both sides"
ALONE = "a side of a pair says nothing alone, and no encoders were trained with one another"


@dataclass(frozen=True)
class PairedReference:
    """The reference, and for each modality what it was read from."""

    summed: BalancedReference
    strengths: dict[str, ReferenceStrength]


def find_sides(adapter: Adapter, features: Features) -> dict[str, int]:
    """Find which of the two embeddings each modality moves, by taking it from other examples.

    Args:
        adapter: the model.
        features: n recorded examples.

    Returns:
        0 or 1 by modality.

    Raises:
        NumericsError: for a modality that moves both or neither, and where no modality moves one of them.
    """
    rows = torch.arange(min(LOOKED_AT, len(features)))
    own = adapter.task.expect(predict(adapter, features, rows=rows).outputs).chunk(2, 1)
    sides = {}
    for m in features.modalities:
        moved = adapter.task.expect(predict(adapter, features, swap={m: rows.roll(1)}, rows=rows).outputs).chunk(2, 1)
        which = [i for i in (0, 1) if float((moved[i] - own[i]).abs().max()) > MOVED * float(own[i].abs().max())]
        if len(which) != 1:
            how = "both embeddings" if which else "neither embedding"
            raise NumericsError(f"modality {m!r} moves {how}, so it is on no side of the pair")
        sides[m] = which[0]
    if len(set(sides.values())) < 2:
        raise NumericsError(
            "all modalities are on one side of the pair: make one of what the other embedding is made of"
        )
    return sides


def make_paired_reference(
    adapter: Adapter, features: Features, at: FitSplit, donors: list[Tensor], seed: int
) -> PairedReference:
    """Make the balanced reference of a task that compares two embeddings.

    Args:
        adapter: the model, for its task and for which inputs are whose.
        features: n examples to diagnose.
        at: the examples to fit on and to choose by.
        donors: the other examples that absent modalities are taken from, each int64 (n,).
        seed: of whatever is drawn.

    Returns:
        The reference, and how strong it is.

    Raises:
        NumericsError: where modalities are on no side, or the fit fails.
    """
    task, sides = adapter.task, find_sides(adapter, features)
    sets = {m: _sets_of(adapter, at, m, seed) for m in features.modalities}
    x = {m: [_PrincipalParts.of(one, at) for one in found] for m, found in sets.items()}
    fit = {m: _joined(parts, at.train)[at.fit] for m, parts in x.items()}
    held = {m: _joined(parts, at.held)[at.choose] for m, parts in x.items()}
    prior = task.prior(at.targets, 2 * SPACE)
    maps, loss = _chosen(task, prior, sides, fit, held)
    here = {m: _joined(parts, features) for m, parts in x.items()}
    evidence = {m: (_placed(here[m] @ w, sides[m]), _placed(held[m] @ w, sides[m])) for m, w in maps.items()}
    summed = BalancedReference(task, features, at, prior, evidence, donors)
    constant = float(task.loss(prior.expand(len(at.choose), -1), at.held_targets).mean())
    strengths = {}
    for m, (own, chosen) in evidence.items():
        read = f"{FAMILY}: {', '.join(one.described for one in sets[m])}"
        tried = TriedReadout(FAMILY, UnimodalReadout(prior + own, prior + chosen, prior, loss, 0.0), read)
        gains = {FAMILY: 1 - loss / constant}
        strengths[m] = ReferenceStrength(tried, gains, {FAMILY: read}, False, True, ALONE)
    return PairedReference(summed, strengths)


def _sets_of(adapter: Adapter, at: FitSplit, modality: str, seed: int) -> list[FeatureSet]:
    """Features of one modality that are all read: recorded ones, raw numbers and random features of them, tokens."""
    raw = RawModality.of(adapter, at, modality, seed)
    recorded = [] if modality in adapter.at_input else recorded_sets(adapter, at, modality, seed)[:1]
    numbers = [] if raw.tokens else [*read_numbers(raw, at), *read_fourier(raw, at)][::2]
    return [*recorded, *numbers, *read_tokens(raw, at)]


@dataclass(frozen=True)
class _PrincipalParts:
    """The directions in which features of training examples vary most, of a mean square of 1 in all."""

    of_split: FeatureSet
    sample: Tensor
    directions: Tensor  # (d, k)

    @classmethod
    def of(cls, one: FeatureSet, at: FitSplit) -> _PrincipalParts:
        sample = one.of(at.train)[at.fit]
        x = standardised(sample, sample).double()
        _, _, v = torch.linalg.svd(x, full_matrices=False)
        directions = v[:PARTS].T
        size = (x @ directions).square().sum(1).mean().sqrt()
        return cls(one, sample, directions / size.clamp_min(1e-12))

    def read(self, features: Features) -> Tensor:
        return standardised(self.of_split.of(features), self.sample).double() @ self.directions


def _joined(parts: Sequence[_PrincipalParts], features: Features) -> Tensor:
    return torch.cat([one.read(features) for one in parts], 1)


def _placed(embedded: Tensor, side: int) -> Tensor:
    """One side's embeddings (n, SPACE) beside nothing of the other, (n, 2 SPACE)."""
    none = torch.zeros_like(embedded)
    return torch.cat([embedded, none] if side == 0 else [none, embedded], 1)


def _natural(prior: Tensor, sides: dict[str, int], x: dict[str, Tensor], maps: dict[str, Tensor]) -> Tensor:
    return prior + torch.stack([_placed(x[m] @ w, sides[m]) for m, w in maps.items()]).sum(0)


def _chosen(
    task: Task, prior: Tensor, sides: dict[str, int], fit: dict[str, Tensor], held: dict[str, Tensor]
) -> tuple[dict[str, Tensor], float]:
    """Maps under the penalty of the least held-out loss, and that loss."""
    best: tuple[dict[str, Tensor], float] | None = None
    none = torch.zeros(0)
    maps = _first_maps(sides, fit)
    for l2 in PENALTIES:
        maps = _fitted(task, prior, sides, fit, maps, l2)
        loss = float(task.loss(_natural(prior, sides, held, maps), none).mean())
        if best is None or loss < best[1]:
            best = maps, loss
    assert best is not None
    if not all(bool(w.isfinite().all()) for w in best[0].values()):
        raise NumericsError("maps of both sides of the pair could not be fitted")
    return best


def _first_maps(sides: dict[str, int], x: dict[str, Tensor]) -> dict[str, Tensor]:
    """Begin with the directions in which both sides vary together most."""
    names = [[m for m, side in sides.items() if side == one] for one in (0, 1)]
    left, right = (torch.cat([x[m] for m in some], 1) for some in names)
    u, s, vt = torch.linalg.svd(left.T @ right / len(left), full_matrices=False)
    count = min(SPACE, len(s))
    maps = {}
    for some, directions in zip(names, (u[:, :count], vt[:count].T), strict=True):
        wide = torch.nn.functional.pad(directions, (0, SPACE - count))
        parts = wide.split([x[m].shape[1] for m in some])
        maps.update(dict(zip(some, parts, strict=True)))
    return {m: maps[m] for m in sides}


def _fitted(
    task: Task, prior: Tensor, sides: dict[str, int], x: dict[str, Tensor], start: dict[str, Tensor], l2: float
) -> dict[str, Tensor]:
    """Maps that minimise the task's loss and a penalty on their squares."""
    maps = {m: w.clone(memory_format=torch.contiguous_format).requires_grad_() for m, w in start.items()}
    search = torch.optim.LBFGS(list(maps.values()), max_iter=STEPS, line_search_fn="strong_wolfe")
    none = torch.zeros(0)

    def closure() -> Tensor:
        search.zero_grad()
        loss = task.loss(_natural(prior, sides, x, maps), none).mean()
        loss = loss + l2 * torch.stack([w.square().sum() for w in maps.values()]).sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        search.step(closure)
    return {m: w.detach() for m, w in maps.items()}
