"""What stands in for an absent modality: features with some of the recordings of some examples replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.adapters.inserts import capture_latents, posts_of, stand_in
from collapsekit.errors import NumericsError
from collapsekit.features.batching import chunk_of
from collapsekit.features.features import Features
from collapsekit.interventions.edits import unread_inputs
from collapsekit.io.transfer import named_to_cpu, to_device
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
    "substitution": (
        "replaced, in models with the heads of basis reallocation, by h⁻¹ of the latent encoding of the closest modality "
        "present; further tensors of its encoder set to 0"
    ),
    "class_mean": (
        f"set to their mean over training examples of the example's own class ({FLOATING}): an oracle, which reads the "
        "label that the model is asked for"
    ),
    "late": "left out, and so is the model: linear readouts of the modalities present, their evidence added up",
}
CONSTANTS = ("zeros", "mean")
CLASS_MEAN = "class_mean"
SUBSTITUTION = "substitution"
LENT = ("neighbour", "sample")


@dataclass(frozen=True)
class BackgroundSet:
    """The examples fills are taken from; ``own``: those of the diagnosed split, none of which lends to itself."""

    features: Features
    own: bool
    note: str | None = None


def has_split(adapter: Adapter, split: str) -> bool:
    """Tell whether the data has examples in ``split``, as far as it is known beforehand."""
    return split in adapter.source.splits() and adapter.source.count(split) != 0


def make_background_set(adapter: Adapter, features: Features, most: int) -> BackgroundSet:
    """Make the set of examples that fills are taken from.

    Args:
        adapter: the model, for its data.
        features: the examples to diagnose.
        most: training examples at most; they are the first in an order that follows their content.

    Returns:
        Training examples; where there are none, or they are of another shape, the examples of the diagnosed split,
        which the note says.
    """
    own = f"taken from the other examples of split {features.split!r}"
    if features.split == "train" or not has_split(adapter, "train"):
        reason = "it is the train split" if features.split == "train" else "the data has no train split"
        return BackgroundSet(features, True, f"{own}: {reason}")
    train = features.of("train")
    if not same_shapes(train, features):
        return BackgroundSet(features, True, f"{own}: features of the train split have another shape")
    if len(train) > most:
        return BackgroundSet(
            train.taken(torch.arange(most)), False, f"taken from {most} of {len(train)} training examples"
        )
    return BackgroundSet(train, False)


def same_shapes(one: Features, other: Features) -> bool:
    """Tell whether examples of one may stand among those of the other: every tensor has the same shape."""
    first, second = (
        [tuple(t.shape[1:]) for t in [*(t for r in f.recorded.values() for t in r), *f.inputs.values()]]
        for f in (one, other)
    )
    return first == second


def find_neighbours(
    features: Features, bank: BackgroundSet, fill: str, absent: Tensor, draws: int, seed: int
) -> Tensor:
    """Find the rows of the bank that lend to each example.

    Args:
        features: n examples.
        bank: t examples that lend.
        fill: ``neighbour`` for the nearest in the modalities present, else random ones, the same whatever is absent.
        absent: k patterns of which modalities each example lacks, bool (k, n, modalities).
        draws: how many random rows; ``neighbour`` has one.
        seed: of random rows.

    Returns:
        int64 (k, draws, n), 0 to t - 1.

    Raises:
        NumericsError: where the bank has nobody to lend.
    """
    n, t = len(features), len(bank.features)
    if t < 1 + bank.own:
        raise NumericsError(f"a stand-in for an absent modality needs another example, found {t}: use more")
    if fill == "neighbour":
        ours, theirs = ([f.pooled[m] for m in features.modalities] for f in (features, bank.features))
        return nearest(ours, theirs, ~absent, within=bank.own)[:, None]
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, t - bank.own, (draws, n), generator=generator)
    if bank.own:
        rows += rows >= torch.arange(n)
    return rows.expand(len(absent), -1, -1)


def impute(
    adapter: Adapter, features: Features, bank: BackgroundSet, fill: str, absent: Tensor, rows: Tensor | None = None
) -> Features:
    """Fill absent modalities, in features to be replayed.

    ``zeros``, ``mean`` and ``class_mean`` change floating tensors; with ``rows`` every tensor comes from a lender. The
    modality's raw inputs move with its recordings, for models that read them past the encoder; without ``rows`` its token
    mask stays.

    Args:
        adapter: the model.
        features: n examples.
        bank: the examples fills are taken from.
        fill: one of FILLS, ``late`` aside.
        absent: which modalities each example lacks, bool (n, modalities).
        rows: of the bank, one that lends to each example, int64 (n,), for ``neighbour`` and ``sample``.

    Returns:
        The same examples, filled.

    Raises:
        NumericsError: where ``fill`` is ``substitution`` and nothing was inserted that could substitute, or ``class_mean``
            and labels are no classes.
    """
    stands = substitute_latents(adapter, features, absent) if fill == SUBSTITUTION else None
    constant = _constants(adapter, features, bank, fill)
    recorded, inputs = dict(features.recorded), dict(features.inputs)

    def replaced(own: Tensor, lent: Tensor, gone: Tensor, mean: Callable[[], Tensor]) -> Tensor:
        if rows is not None:
            other = lent[rows]
        elif not own.is_floating_point():
            return own
        else:
            other = constant(own, lent, mean)
        return torch.where(gone.reshape(-1, *[1] * (own.ndim - 1)), other, own)

    for i, m in enumerate(features.modalities):
        gone = absent[:, i]
        if not bool(gone.any()):
            continue
        if rows is None and m in adapter.at_input and not any(t.is_floating_point() for t in features.recorded[m]):
            raise NumericsError(
                f"{m} is known by inputs that are no floating numbers, such as token ids or text, which have no {fill}: "
                "name its `encoder`, or use a fill that takes it from other examples"
            )
        pairs = enumerate(zip(features.recorded[m], bank.features.recorded[m], strict=True))
        recorded[m] = tuple(replaced(own, lent, gone, partial(bank.features.mean, m, j)) for j, (own, lent) in pairs)
        if stands is not None:
            place = adapter.feature_index(m)
            recorded[m] = tuple(stands[m] if j == place else other for j, other in enumerate(recorded[m]))
        for key in adapter.input_keys(m):
            if rows is not None or key != adapter.config.modalities[m].mask:
                inputs[key] = replaced(
                    inputs[key], bank.features.inputs[key], gone, partial(bank.features.input_mean, key)
                )
    unread_inputs(adapter, features)  # holds whatever is recorded
    return features.changed(recorded, inputs)


def _constants(
    adapter: Adapter, features: Features, bank: BackgroundSet, fill: str
) -> Callable[[Tensor, Tensor, Callable[[], Tensor]], Tensor]:
    """Answer how a fill without lenders stands in for a tensor (n, ...), given the bank's (t, ...) and its mean. Raises
    NumericsError where it needs classes, and labels are none."""
    if fill != CLASS_MEAN:
        zeros = fill in ("zeros", SUBSTITUTION)
        return lambda x, _, mean: torch.zeros_like(x[:1]) if zeros else mean().to(x.dtype)
    if adapter.task.classes_of(features.outputs) < 2:
        raise NumericsError(f"fill {fill!r} needs labels that are classes, and task {adapter.task.name!r} has none")
    classes = bank.features.targets, features.targets
    return lambda x, lent, _: mean_of_class(lent, *classes).to(x.dtype)


def mean_of_class(lent: Tensor, classes: Tensor, wanted: Tensor) -> Tensor:
    """Average what examples of each class lend.

    Args:
        lent: (t, ...), floating.
        classes: of those who lend, int64 (t,).
        wanted: of those who are lent to, int64 (n,).

    Returns:
        Means, float64 (n, ...); for a class of which nobody lends, over all.
    """
    means = lent.double().mean(0).expand(1 + int(max(classes.max(), wanted.max())), *lent.shape[1:]).clone()
    for c in classes.unique().tolist():
        means[c] = lent[classes == c].double().mean(0)
    return means[wanted]


def can_substitute(adapter: Adapter) -> bool:
    """Tell whether the model has heads by which one modality stands in for another (collapsekit.adapters.inserts)."""
    posts = posts_of(adapter.model, "basis")
    return all(m in posts and posts[m] is adapter.encoder_module(m) for m in adapter.modalities)


def substitute_latents(adapter: Adapter, features: Features, absent: Tensor) -> dict[str, Tensor]:
    """Substitute each modality's features in the examples where it is absent.

    Args:
        adapter: the model.
        features: n examples.
        absent: which modalities each example lacks, bool (n, modalities).

    Returns:
        Each modality's features (n, ...), laid out as recorded.

    Raises:
        NumericsError: where the model has no heads for that.
    """
    posts = posts_of(adapter.model, "basis")
    if not can_substitute(adapter):
        raise NumericsError(
            "the model has no heads by which a modality could be substituted: see `repair --method substitute`"
        )
    if features.facts.latents is None:
        features.facts.latents = _latents(adapter, features)
    latents = features.facts.latents
    masks = {m: absent[:, i] for i, m in enumerate(features.modalities)}
    out = {}
    for m in features.modalities:
        like, parts = adapter.features_of(m, features.recorded[m]), []
        for rows in torch.arange(len(features)).split(chunk_of(features)):
            here = {o: to_device(g[rows], adapter.device) for o, g in latents.items()}
            latent = stand_in(posts[m], here, {o: mask[rows] for o, mask in masks.items()})
            with torch.no_grad():
                parts.append(posts[m].laid_out(posts[m].insert.back(latent), like[rows]).cpu())  # type: ignore[operator]
        gone = masks[m].reshape(-1, *[1] * (like.ndim - 1))
        out[m] = torch.where(gone, torch.cat(parts), like)
    return out


def _latents(adapter: Adapter, features: Features) -> dict[str, Tensor]:
    parts: dict[str, list[Tensor]] = {m: [] for m in features.modalities}
    for rows in torch.arange(len(features)).split(chunk_of(features)):
        with torch.no_grad(), capture_latents(adapter.model) as heard:
            adapter.run({k: v[rows] for k, v in features.inputs.items()})
        found = named_to_cpu({m: heard[m] for m in parts})
        for m, held in parts.items():
            held.append(found[m])
    return {m: torch.cat(held) for m, held in parts.items()}
