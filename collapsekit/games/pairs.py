"""The balanced reference of paired embeddings: what could be found if every modality were used on its side of the pair.

A side alone finds nothing, so no modality has a readout by itself. All of them are read out together: linear maps of
recorded features and raw inputs into one space, in which the modalities of a side add up, fitted to the task's own loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

from collapsekit.adapters.base import Adapter
from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.games.balanced_reference import BalancedReference
from collapsekit.games.coalitions import lender_of
from collapsekit.games.draws import CoalitionValue, MeanOverDraws, score_draws
from collapsekit.interventions.replay import predict
from collapsekit.readouts.choosing import FeatureSet
from collapsekit.readouts.linear import FitSplit, UnimodalReadout
from collapsekit.readouts.poolings import recorded_sets
from collapsekit.readouts.raw import RawModality, read_fourier, read_numbers, read_tokens
from collapsekit.readouts.strength import ReferenceStrength, TriedReadout
from collapsekit.stats.random_features import standardised
from collapsekit.tasks.retrieval import Retrieval

SPACE = 16  # numbers of an embedding
PARTS = 48  # principal parts that are kept of each set of features
PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # of squared weights
STEPS = 100  # of L-BFGS
MOVED = 1e-5  # part of an embedding's size by which it has to move for a modality to be on its side
LOOKED_AT = 64  # examples that are asked
FAMILY = "linear maps of both sides"
ALONE = "a side of a pair says nothing alone, and no encoders were trained with one another"


@dataclass
class PairedSum(BalancedReference):
    """Sums of a side's embeddings, which play the same game as the model's: pairs are matched under each draw of other
    examples, and their probabilities averaged. ``prior`` is what embeddings have in common, (1, C), ``evidence`` the
    embeddings of each modality, (n, C)."""

    matching: Retrieval = field(kw_only=True)

    def constant(self) -> CoalitionValue:
        return self._score(self.matching.from_natural(self.matching.nothing_known(len(self.features))))

    def alone(self, modality: str) -> CoalitionValue:
        """Score one modality by itself: a side alone finds nothing."""
        del modality
        return self.constant()

    def _valued(self, mask: int) -> CoalitionValue:
        names, own = self.features.modalities, torch.arange(len(self.features))

        def matched(others: Sequence[Tensor]) -> Tensor:
            parts = [self.evidence[m][0][own if mask >> i & 1 else others[i]] for i, m in enumerate(names)]
            return self.matching.match(self.prior + torch.stack(parts).sum(0))

        if mask == (1 << len(names)) - 1:
            return self._score(matched([own] * len(names)))
        mean = MeanOverDraws(self.features, self.donors)
        for k in range(len(self.donors)):
            mean.add(k, matched([lender_of(self.task, self.donors, k, i, len(names)) for i in range(len(names))]))
        return score_draws(self.task, self.features, mean)


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
    own = predict(adapter, features, rows=rows).outputs.chunk(2, 1)
    sides = {}
    for m in features.modalities:
        moved = predict(adapter, features, swap={m: rows.roll(1)}, rows=rows).outputs.chunk(2, 1)
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
    assert isinstance(task, Retrieval)
    sets = {m: _sets_of(adapter, at, m, seed) for m in features.modalities}
    x = {m: [_PrincipalParts.of(one, at) for one in own] for m, own in sets.items()}
    fit = {m: _side_by_side(parts, at.train)[at.fit] for m, parts in x.items()}
    apart = {m: _side_by_side(parts, at.held)[at.choose] for m, parts in x.items()}
    maps, loss = _chosen(task, sides, fit, apart)
    evidence = {
        m: (_placed(_side_by_side(x[m], features) @ w, sides[m]), _placed(apart[m] @ w, sides[m]))
        for m, w in maps.each.items()
    }
    summed = PairedSum(task, features, at, maps.prior, evidence, donors, matching=task)
    none = torch.zeros(0)
    constant = float(task.loss(task.from_natural(task.nothing_known(len(at.choose))), none).mean())
    strengths = {}
    for m, (here, chosen) in evidence.items():
        read = f"{FAMILY}: {', '.join(one.described for one in sets[m])}"
        tried = TriedReadout(FAMILY, UnimodalReadout(here, chosen, none, loss, 0.0), read)
        strengths[m] = ReferenceStrength(tried, {FAMILY: 1 - loss / constant}, {FAMILY: read}, False, True, ALONE)
    return PairedReference(summed, strengths)


def _sets_of(adapter: Adapter, at: FitSplit, modality: str, seed: int) -> list[FeatureSet]:
    """Features of one modality that are all read: recorded ones, raw numbers and random features of them, tokens."""
    raw = RawModality.of(adapter, at, modality, seed)
    recorded = [] if modality in adapter.at_input else recorded_sets(adapter, at, modality, seed)[:1]
    numbers = [] if raw.tokens else [*read_numbers(raw, at), *read_fourier(raw, at)][:4:3]  # bandwidth 1
    return [*recorded, *numbers, *read_tokens(raw, at)]


@dataclass(frozen=True)
class _PrincipalParts:
    """The directions in which features of training examples vary most, of a mean square of 1 in all."""

    features: FeatureSet
    sample: Tensor
    directions: Tensor  # (d, k)

    @classmethod
    def of(cls, one: FeatureSet, at: FitSplit) -> _PrincipalParts:
        sample = one.of(at.train)[at.fit]
        x = standardised(sample, sample).double()
        directions = torch.linalg.svd(x, full_matrices=False)[2][:PARTS].T
        size = (x @ directions).square().sum(1).mean().sqrt()
        return cls(one, sample, directions / size.clamp_min(1e-12))

    def read(self, split: Features) -> Tensor:
        return standardised(self.features.of(split), self.sample).double() @ self.directions


def _side_by_side(parts: Sequence[_PrincipalParts], split: Features) -> Tensor:
    return torch.cat([one.read(split) for one in parts], 1)


def _placed(embedded: Tensor, side: int) -> Tensor:
    """One side's embeddings (n, SPACE) beside nothing of the other, each with a place for what all have in common."""
    embedded = pad(embedded, (0, 1))
    none = torch.zeros_like(embedded)
    return torch.cat([embedded, none] if side == 0 else [none, embedded], 1)


@dataclass(frozen=True)
class _Maps:
    """A map of each modality's features, (d, SPACE), and the last number of each embedding, which all share, (2,)."""

    each: dict[str, Tensor]
    common: Tensor

    @property
    def prior(self) -> Tensor:
        return torch.cat([pad(x[None, None], (SPACE, 0)) for x in self.common], 1)

    def match(self, task: Retrieval, sides: dict[str, int], x: dict[str, Tensor]) -> Tensor:
        """What is expected of examples with features (n, d) by modality."""
        return task.match(self.prior + torch.stack([_placed(x[m] @ w, sides[m]) for m, w in self.each.items()]).sum(0))


def _chosen(
    task: Retrieval, sides: dict[str, int], fit: dict[str, Tensor], apart: dict[str, Tensor]
) -> tuple[_Maps, float]:
    """Maps under the penalty of the least held-out loss, and that loss."""
    best: tuple[_Maps, float] | None = None
    maps = _first_maps(task, sides, fit)
    for l2 in PENALTIES:
        maps = _fitted(task, sides, fit, maps, l2)
        loss = float(task.loss(maps.match(task, sides, apart), torch.zeros(0)).mean())
        if best is None or loss < best[1]:
            best = maps, loss
    assert best is not None
    if not all(bool(w.isfinite().all()) for w in best[0].each.values()):
        raise NumericsError("maps of both sides of the pair could not be fitted")
    return best


def _first_maps(task: Retrieval, sides: dict[str, int], x: dict[str, Tensor]) -> _Maps:
    """Begin with the directions in which both sides vary together most."""
    names = [[m for m, side in sides.items() if side == one] for one in (0, 1)]
    left, right = (torch.cat([x[m] for m in some], 1) for some in names)
    u, s, vt = torch.linalg.svd(left.T @ right / len(left), full_matrices=False)
    count = min(SPACE, len(s))
    maps = {}
    for some, directions in zip(names, (u[:, :count], vt[:count].T), strict=True):
        wide = pad(directions, (0, SPACE - count))
        maps.update(dict(zip(some, wide.split([x[m].shape[1] for m in some]), strict=True)))
    return _Maps({m: maps[m] for m in sides}, torch.full((2,), max(0.0, task.likeness) ** 0.5, dtype=torch.float64))


def _fitted(task: Retrieval, sides: dict[str, int], x: dict[str, Tensor], start: _Maps, l2: float) -> _Maps:
    """Maps that minimise the task's loss and a penalty on their squares."""

    def free(w: Tensor) -> Tensor:
        return w.clone(memory_format=torch.contiguous_format).requires_grad_()

    maps = _Maps({m: free(w) for m, w in start.each.items()}, free(start.common))
    search = torch.optim.LBFGS([*maps.each.values(), maps.common], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        loss = task.loss(maps.match(task, sides, x), torch.zeros(0)).mean()
        loss = loss + l2 * torch.stack([w.square().sum() for w in maps.each.values()]).sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        search.step(closure)
    return _Maps({m: w.detach() for m, w in maps.each.items()}, maps.common.detach())
