"""What stands in for an absent modality: features with some of the recordings of some examples replaced."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from collapsekit.adapter.base import Adapter
from collapsekit.errors import NumericsError
from collapsekit.features import Features
from collapsekit.readout import prefix
from collapsekit.reference import make_reference
from collapsekit.stats.missing import nearest

FLOATING = "floating tensors only: masks and whole numbers stay"
FILLS = {
    "zeros": f"set to 0 ({FLOATING})",
    "mean": f"set to their mean over training examples ({FLOATING})",
    "neighbour": (
        "taken from the training example nearest in the modalities present: mean squared difference of standardised "
        "features, summed over modalities; labels are not looked at"
    ),
    "sample": "taken from a random training example, the same for all absent modalities",
    "late": "left out, and so is the model: linear readouts of the modalities present, their evidence added up",
}
CONSTANTS = ("zeros", "mean")
LENT = ("neighbour", "sample")


@dataclass(frozen=True)
class Bank:
    """The examples fills are taken from; ``own``: those of the diagnosed split, none of which lends to itself."""

    features: Features
    own: bool
    note: str | None = None


def has_split(adapter: Adapter, split: str) -> bool:
    """Whether the data has examples in ``split``, as far as it is known beforehand."""
    return split in adapter.source.splits() and adapter.source.count(split) != 0


def bank_of(adapter: Adapter, features: Features, most: int) -> Bank:
    """The first ``most`` training examples, in an order that follows their content; where there are none, or they
    are of another shape, the other examples of the diagnosed split, which the note says."""
    own = f"taken from the other examples of split {features.split!r}"
    if features.split == "train" or not has_split(adapter, "train"):
        reason = "it is the train split" if features.split == "train" else "the data has no train split"
        return Bank(features, True, f"{own}: {reason}")
    train = features.of("train")
    if not same_shapes(train, features):
        return Bank(features, True, f"{own}: features of the train split have another shape")
    if len(train) > most:
        return Bank(train.taken(torch.arange(most)), False, f"taken from {most} of {len(train)} training examples")
    return Bank(train, False)


def same_shapes(one: Features, other: Features) -> bool:
    """Whether examples of one may stand among those of the other: every tensor has the same shape."""
    first, second = (
        [tuple(t.shape[1:]) for t in [*(t for r in f.recorded.values() for t in r), *f.inputs.values()]]
        for f in (one, other)
    )
    return first == second


def lenders(features: Features, bank: Bank, fill: str, absent: Tensor, draws: int, seed: int) -> Tensor:
    """Rows of the bank that lend to each example, int64 (k, draws, n), for ``absent`` (k, n, modalities).

    One draw for ``neighbour``; for ``sample`` the same draws whatever is absent. Raises NumericsError where the bank
    has nobody to lend.
    """
    n, t = len(features), len(bank.features)
    if t < 1 + bank.own:
        raise NumericsError(f"a stand-in for an absent modality needs another example, found {t}: use more")
    if fill == "neighbour":
        ours, theirs = ([f.pooled[m] for m in features.modalities] for f in (features, bank.features))
        return nearest(ours, theirs, ~absent, own=bank.own)[:, None]
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, t - bank.own, (draws, n), generator=generator)
    if bank.own:
        rows += rows >= torch.arange(n)
    return rows.expand(len(absent), -1, -1)


def filled(
    adapter: Adapter, features: Features, bank: Bank, fill: str, absent: Tensor, rows: Tensor | None = None
) -> Features:
    """Features to be replayed in which the modalities ``absent`` (bool, (n, modalities)) are filled.

    ``zeros`` and ``mean`` change floating tensors; with a lender for each example (``rows``, (n,)) every tensor
    comes from it. The modality's raw inputs move with its recordings, for models that read them past the encoder;
    under ``zeros`` and ``mean`` its token mask stays.
    """
    recorded, inputs = dict(features.recorded), dict(features.inputs)

    def replaced(own: Tensor, lent: Tensor, gone: Tensor, place: Hashable) -> Tensor:
        if rows is not None:
            other = lent[rows]
        elif not own.is_floating_point():
            return own
        elif fill == "zeros":
            other = torch.zeros_like(own[:1])
        else:
            other = bank.features.once(("mean", place), lambda: lent.double().mean(0, keepdim=True)).to(own.dtype)
        return torch.where(gone.reshape(-1, *[1] * (own.ndim - 1)), other, own)

    for i, m in enumerate(features.modalities):
        gone = absent[:, i]
        if not bool(gone.any()):
            continue
        pairs = enumerate(zip(features.recorded[m], bank.features.recorded[m], strict=True))
        recorded[m] = tuple(replaced(own, lent, gone, (m, j)) for j, (own, lent) in pairs)
        for key in adapter.input_keys(m):
            if rows is not None or key != adapter.config.modalities[m].mask:
                inputs[key] = replaced(inputs[key], bank.features.inputs[key], gone, key)
    return replace(features, recorded=recorded, inputs=inputs, memo={})


def late_fusion(adapter: Adapter, features: Features) -> Callable[[Tensor], Tensor]:
    """Expectations (n, ...) of late fusion for ``absent`` (n, modalities): the prior, plus the evidence of the linear
    readouts of the modalities present, times one weight for each set of them, fitted on held-out examples.

    Raises NumericsError where no readouts can be fitted.
    """
    readouts = {m: prefix(adapter, features, m) for m in features.modalities}
    whole = make_reference(adapter, features, readouts, [])
    weights: dict[tuple[str, ...], float] = {}

    def expected(absent: Tensor) -> Tensor:
        natural = whole.prior.expand(len(features), -1).clone()
        patterns, which = absent.unique(dim=0, return_inverse=True)
        for k, pattern in enumerate(patterns.tolist()):
            present = tuple(m for m, gone in zip(features.modalities, pattern, strict=True) if not gone)
            if present not in weights:
                weights[present] = whole.weight_of(present)
            rows = (which == k).nonzero()[:, 0]
            evidence = torch.stack([whole.evidence[m][0][rows] for m in present]).sum(0)
            natural[rows] += weights[present] * evidence
        return adapter.task.from_natural(natural)

    return expected
