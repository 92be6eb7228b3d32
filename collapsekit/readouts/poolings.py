"""What a modality's features are read as: every way of pooling them, unless the config says which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from collapsekit.adapters.base import Activations, Adapter
from collapsekit.adapters.hooks import attribute_set
from collapsekit.adapters.pooling import Channels, PoolWay, pool_features, pool_ways
from collapsekit.data.base import Batch
from collapsekit.features.features import Features
from collapsekit.readouts.choosing import FeatureSet
from collapsekit.readouts.fit import Recipe, fit
from collapsekit.readouts.linear import FitSplit
from collapsekit.stats.random_features import SAMPLE, evenly
from collapsekit.tasks.base import Task
from collapsekit.tasks.grid import Grid

ROWS = 512  # pooled at once
TOKENS = 2**24  # numbers of all training examples up to which a query over their positions is learned
EPOCHS = 40  # at most, of learning it


def ways_of(adapter: Adapter, modality: str, x: Tensor, inputs: Batch) -> dict[str, PoolWay | None]:
    """List the ways in which features are tried.

    Args:
        adapter: the model, with its config.
        modality: whose features.
        x: features of a few examples, (n, ...).
        inputs: of them.

    Returns:
        By what it is in words, how ``pool_features`` pools; None, and first: as the adapter does.
    """
    section = adapter.config.modalities[modality]
    if x.ndim < 3:
        return {"as they are": None}
    if section.pool != "auto":
        return {f"pool {section.pool}": None}
    mask = None if section.mask is None else inputs[section.mask]
    ways = pool_ways(x.shape, section.channels, None if mask is None else mask[0].numel())
    layout: Channels = "last" if adapter.channel_axis(modality, x) == x.ndim - 1 else "first"
    plain = type(adapter).pool is Adapter.pool
    same = [name for name, way in ways.items() if plain and way == ("mean", layout)]
    name = same[0] if same else "as the adapter pools them"
    return {name: None, **{other: way for other, way in ways.items() if other != name}}


def pooled_by(adapter: Adapter, modality: str, way: PoolWay | None, x: Tensor, inputs: Batch) -> Tensor:
    """Pool features in one of these ways.

    Args:
        adapter: the model, with its config.
        modality: whose features.
        way: one of those that ``ways_of`` lists.
        x: features, (n, ...).
        inputs: of the same examples.

    Returns:
        One vector an example, (n, d), float32.
    """
    if way is None:
        return adapter.pool(modality, x, inputs).float()
    mask = adapter.config.modalities[modality].mask
    return _pooled(way, x, None if mask is None else inputs[mask]).float()


def _pooled(way: PoolWay, features: Tensor, mask: Tensor | None) -> Tensor:
    return pool_features(features, way[0], way[1], mask)


def live_unpooled(
    adapter: Adapter, modality: str, recorded: Mapping[str, Activations], inputs: Batch
) -> tuple[Tensor, Batch]:
    """Run one modality's encoder with gradient, and take its features before they are pooled.

    Args:
        adapter: the model.
        modality: whose encoder runs.
        recorded: of the others, which need not run.
        inputs: a batch.

    Returns:
        Features (n, ...), and the inputs as the adapter gives them to ``pool``; pooled features (n, d) of an adapter that
        does not pool by that.
    """
    batches: list[Batch] = []

    def keep(name: str, features: Tensor, batch: Batch) -> Tensor:
        if name == modality:
            batches.append(batch)
        return features

    with attribute_set(adapter, "pool", keep):
        features = adapter.live(modality, recorded, inputs)
    return features, batches[-1] if batches else inputs


def recorded_sets(adapter: Adapter, at: FitSplit, modality: str, seed: int) -> list[FeatureSet]:
    """List what the checkpoint's own encoder gave, pooled in every way that is tried.

    Args:
        adapter: the model.
        at: the examples to fit on.
        modality: whose features.
        seed: of a query that is learned.

    Returns:
        The sets, first the one that all other probes read.
    """
    features, rows = at.train, torch.arange(2)
    recorded = tuple(t.index_select(0, rows) for t in features.recorded[modality])
    x = adapter.features_of(modality, recorded)
    ways = ways_of(adapter, modality, x, {k: v.index_select(0, rows) for k, v in features.inputs.items()})
    shape = " x ".join(map(str, x.shape[1:])) or "1"
    sets = [FeatureSet(f"features of {shape}, {name}", reader(adapter, modality, way)) for name, way in ways.items()]
    if adapter.task.grid is not None:
        sets += _sets_at_places(adapter, adapter.task.grid, modality, x)
    if len(ways) > 1 and adapter.config.modalities[modality].mask is None:

        def tokens(features: Features) -> Tensor:
            return adapter.tokens_of(modality, adapter.features_of(modality, features.recorded[modality]))

        learned = attention_set(adapter.task, at, tokens, f"features of {shape}", seed)
        sets += [] if learned is None else [learned]
    return sets


def _sets_at_places(adapter: Adapter, grid: Grid, modality: str, x: Tensor) -> list[FeatureSet]:
    """Maps (n, ...) read at each place of a dense output, alone and with what is around it."""
    last = adapter.channel_axis(modality, x) == x.ndim - 1

    def maps(features: Features) -> Tensor:
        found = adapter.features_of(modality, features.recorded[modality])
        return (found.movedim(-1, 1) if last else found).float()

    if not grid.fits((x.movedim(-1, 1) if last else x).shape):
        return []
    shape = " x ".join(map(str, x.shape[1:]))
    return [
        FeatureSet(
            f"features of {shape}, {where}",
            lambda f, reach=reach: grid.neighbours(maps(f), reach).flatten(1),  # type: ignore[misc]
            len(grid.places),
        )
        for reach, where in ((0, "at the place"), (1, "around the place"))
    ]


class AttentionPool(nn.Module):
    """One learned query over positions: softmax of its products with standardised tokens weights their mean."""

    def __init__(self, sample: Tensor, outputs: int) -> None:
        """``sample``: tokens of training examples, (n, t, d), by which all are standardised."""
        super().__init__()
        flat = sample.reshape(-1, sample.shape[-1]).double()
        deviation = flat.std(0, correction=0)
        self.register_buffer("mean", flat.mean(0).float())
        self.register_buffer("deviation", torch.where(deviation > 0, deviation, 1.0).float())
        self.query = nn.Linear(sample.shape[-1], 1, bias=False)
        self.head = nn.Linear(sample.shape[-1], outputs)

    def pooled(self, tokens: Tensor) -> Tensor:
        """Pool tokens (n, t, d) to (n, d)."""
        z = (tokens.float() - cast(Tensor, self.mean)) / cast(Tensor, self.deviation)
        weight: Tensor = self.query(z).softmax(1)
        return (weight * z).sum(1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Read tokens (n, t, d) out: outputs (n, C)."""
        out: Tensor = self.head(self.pooled(tokens))
        return out


def learns_query(adapter: Adapter, features: Features, modality: str, count: int) -> bool:
    """Tell whether a query over the positions of a modality's features would be learned.

    Args:
        adapter: the model.
        features: some examples.
        modality: whose features.
        count: how many training examples there are.

    Returns:
        Whether there are several positions, no mask says which count, and learning costs little.
    """
    rows = torch.arange(1)
    x = adapter.features_of(modality, tuple(t.index_select(0, rows) for t in features.recorded[modality]))
    inputs = {k: v.index_select(0, rows) for k, v in features.inputs.items()}
    if adapter.config.modalities[modality].mask is not None or len(ways_of(adapter, modality, x, inputs)) < 2:
        return False
    return _is_cheap(adapter.tokens_of(modality, x), count)


def _is_cheap(tokens: Tensor, count: int) -> bool:
    """Whether a query over the positions of ``tokens`` (n, t, d) may be learned on so many examples."""
    return tokens.shape[1] > 1 and tokens[0].numel() * count <= TOKENS


def attention_set(
    task: Task, at: FitSplit, tokens: Callable[[Features], Tensor], described: str, seed: int
) -> FeatureSet | None:
    """Learn one query on training examples, early-stopped on held-out ones, and pool by it.

    Args:
        task: what is read out.
        at: which examples are fitted on, and which choose.
        tokens: gives those of a split's examples, (n, t, d).
        described: what they are, in words.
        seed: of the first weights and of the order of examples.

    Returns:
        Features (n, d); None where learning would cost more than little.
    """
    known = {f.split: tokens(f) for f in (at.train, at.held)}
    x = known[at.train.split]
    if not _is_cheap(x, len(x)):
        return None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = AttentionPool(x[evenly(at.fit, SAMPLE)], at.width)
    recipe = Recipe(rate=1e-2, epochs=EPOCHS, seed=seed, patience=6)
    fit(net, list(net.parameters()), lambda f, rows: net(known[f.split][rows]), at, task, recipe)
    known.clear()

    def read(features: Features) -> Tensor:
        with torch.no_grad():
            return torch.cat([net.pooled(part) for part in tokens(features).split(ROWS)])

    return FeatureSet(f"{described}, attention by a learned query over {x.shape[1]} positions", read)


def reader(adapter: Adapter, modality: str, way: PoolWay | None) -> Callable[[Features], Tensor]:
    """Make what gives a split's features pooled in one way.

    Args:
        adapter: the model.
        modality: whose features.
        way: one of those that ``ways_of`` lists.

    Returns:
        A function of recorded examples: features (n, d).
    """

    def read(features: Features) -> Tensor:
        if way is None:
            return features.pooled[modality]
        x = adapter.features_of(modality, features.recorded[modality])
        mask = adapter.config.modalities[modality].mask
        keep = None if mask is None else features.inputs[mask]
        parts = torch.arange(len(features)).split(ROWS)
        return torch.cat([_pooled(way, x[rows], None if keep is None else keep[rows]).float() for rows in parts])

    return read
