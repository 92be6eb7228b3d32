"""What modalities say only together: a network that adds to the sum of what each says alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import cast

import torch
from torch import Tensor, nn

from collapsekit.adapters.base import Adapter
from collapsekit.context import Progress
from collapsekit.distributed.process_group import current
from collapsekit.features.content_seeds import modality_seeds
from collapsekit.features.features import Features
from collapsekit.io.transfer import named_to_cpu, to_device
from collapsekit.readouts.fit import BATCH, Recipe, fit, in_full, reached, rows_of
from collapsekit.readouts.linear import FitSplit, make_split
from collapsekit.readouts.raw import RawModality
from collapsekit.readouts.unimodal import Plan, reckoned, starting_point
from collapsekit.stats.random_features import SAMPLE, evenly, standardised

RATES = (3e-3, 1e-3)
EPOCHS, STEPS = 60, 1500  # at most so many epochs; more on small data, where an epoch is few steps
PATIENCE = 300  # steps without improvement before a fit ends


class SynergyNet(nn.Module):
    """Projections of every modality's features and their pairwise products, mixed by a small network.

    The products are what a sum of unimodal evidence cannot say; with them, exclusive-or is one layer away.
    """

    def __init__(self, widths: list[int], outputs: int, size: int = 16, hidden: int = 64) -> None:
        super().__init__()
        pairs = len(widths) * (len(widths) - 1) // 2
        self.norm = nn.ModuleList(nn.BatchNorm1d(d, affine=False) for d in widths)
        self.project = nn.ModuleList(nn.Linear(d, size) for d in widths)
        self.mix = nn.Sequential(nn.Linear(size * (len(widths) + pairs), hidden), nn.ReLU(), nn.Linear(hidden, outputs))

    def forward(self, *x: Tensor) -> Tensor:
        """Map features (n, d) of every modality to what they add to natural parameters, (n, outputs)."""
        parts = [p(n(v)) for v, n, p in zip(x, self.norm, self.project, strict=True)]
        products = [a * b for a, b in combinations(parts, 2)]
        return cast(Tensor, self.mix(torch.cat([*parts, *products], 1)))


@dataclass(frozen=True)
class Synergy:
    """A fitted network with the features it reads, of the diagnosed and the held-out examples."""

    net: SynergyNet
    order: tuple[str, ...]
    here: dict[str, Tensor]  # (n, d)
    held: dict[str, Tensor]  # (v, d)
    loss: float  # on held-out examples, added to the evidence it was fitted beside
    described: str

    def says(self, x: Mapping[str, Tensor]) -> Tensor:
        """Compute what it adds to natural parameters for these features, float64 (n, C)."""
        with torch.no_grad():
            return cast(Tensor, self.net(*(x[m] for m in self.order))).double()


@dataclass(frozen=True)
class FittedSynergy:
    """A network fitted on the checkpoint's own encoders: nothing of the diagnosed examples is in it, so that diagnoses of
    other examples share it."""

    net: SynergyNet
    loss: float  # on held-out examples


Offset = Mapping[str, Tensor]  # by split, natural parameters (rows, C) of every row, to which a network adds


def recipe_for(rows: int, rate: float, seed: int) -> Recipe:
    """Make the recipe by which the network is fitted.

    Args:
        rows: examples it is fitted on.
        rate: the learning rate.
        seed: of the order of examples.

    Returns:
        The recipe; epochs are more on small data, where an epoch is few steps.
    """
    steps = max(1, rows // BATCH)
    epochs = max(EPOCHS, -(-STEPS // steps))
    return Recipe(rate, epochs, seed, patience=max(8, PATIENCE // steps), weight_decay=1e-2)


NETWORKS = "networks over modalities"  # what is told of them


class JointReadouts:
    """Networks for what the modalities of a model's examples say only together: on its own encoders, on encoders trained
    along and on raw inputs."""

    def __init__(self, adapter: Adapter, features: Features, seed: int, progress: Progress | None = None) -> None:
        """``features``: the examples to diagnose; ``seed``: of first weights and of the order of examples."""
        self.adapter, self.features, self.seed = adapter, features, seed
        self.progress = progress or Progress()
        # Of what is fitted on these examples, as training examples of others.
        self._fitted: dict[tuple[str | float, ...], FittedSynergy] = {}

    @property
    def at(self) -> FitSplit:
        """The examples to fit on. Raises NumericsError where there are none."""
        return make_split(self.adapter, self.features)

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Modalities by content, so that neither their names nor their order in the config matter."""
        own = modality_seeds(self.adapter, self.at.train, self.seed)
        return tuple(sorted(own, key=own.__getitem__))

    def on_recorded(self, offset: Offset, train: JointReadouts) -> Synergy:
        """Find the network that adds most on held-out examples; it reads what the checkpoint's own encoders gave.

        Args:
            offset: what it adds to, of train and of the held-out examples.
            train: of the training examples, which keep what is fitted on them.

        Returns:
            The network of the better learning rate.

        Raises:
            NumericsError: where there are no training examples.
        """
        key: tuple[str | float, ...] = (self.at.held.split, *(float(o.sum()) for o in offset.values()))
        if key not in train._fitted:
            train._fitted[key] = self.fit_on_recorded(offset)
        fitted = train._fitted[key]
        return self._give(fitted.net, self._recorded(), fitted.loss, "on the checkpoint's own encoders")

    def fit_on_recorded(self, offset: Offset) -> FittedSynergy:
        """Fit that network."""
        return FittedSynergy(*self._best_on(self._recorded(), offset))

    def on_encoders(self, offset: Offset, plan: Plan) -> Synergy | None:
        """Fit a network for what modalities say together, on encoders that are trained along with it.

        Args:
            offset: what it adds to.
            plan: which weights encoders start from, and how long training may take.

        Returns:
            The network with the features it reads; None where encoders cannot be trained, or not within the plan's budget.
        """
        at, start = self.at, starting_point(self.adapter, plan)
        recipe = self._recipe(RATES[0])
        costs = current().on_main(lambda: [reckoned(self.adapter, at, m, start, self.seed) for m in self.order])
        if any(why is not None for why, _ in costs) or sum(c for _, c in costs) * recipe.epochs > plan.budget:
            return None
        twin = in_full(cast(Adapter, self.adapter.fresh(self.seed, trained=start)))

        def live(f: Features, rows: Tensor) -> dict[str, Tensor]:
            given = rows_of(f, rows, full=True)
            return {m: twin.live(m, *given).float() for m in self.order}

        with torch.no_grad():
            net = self._net(live(at.train, torch.arange(2))).to(twin.device)
        trained = {k: p for m in self.order for k, p in reached(twin, at.train, m).items()}
        before = {split: values.float() for split, values in offset.items()}

        def outputs(f: Features, rows: Tensor) -> Tensor:
            x = live(f, rows)
            added: Tensor = net(*(x[m] for m in self.order))
            return to_device(before[f.split][rows], added.device) + added

        whole = nn.ModuleList([twin.model, net])
        fitted = fit(whole, [*trained.values(), *net.parameters()], outputs, at, self.adapter.task, recipe)
        x: dict[str, dict[str, Tensor]] = {}
        with torch.no_grad():
            for split, f in self._splits().items():
                parts = [named_to_cpu(live(f, rows)) for rows in torch.arange(len(f)).split(512)]
                x[split] = {m: torch.cat([p[m] for p in parts]) for m in self.order}
        return self._give(net.cpu(), x, fitted.loss, f"on encoders trained along (start {plan.start})")

    def on_raw(self, offset: Offset) -> Synergy | None:
        """Fit a network for what modalities say together, on their raw inputs: no encoder can hide that.

        Args:
            offset: what it adds to.

        Returns:
            The network with the features it reads; None where a modality has no inputs that are numbers.
        """
        at, x = self.at, {split: dict[str, Tensor]() for split in self._splits()}
        for m in self.order:
            raw = RawModality.of(self.adapter, at, m, self.seed)
            if not raw.numbers:
                return None
            sample = raw.flat(at.train)[evenly(at.fit, SAMPLE)]
            for split, f in self._splits().items():
                x[split][m] = standardised(raw.flat(f), sample)
        net, loss = self._best_on(x, offset)
        return self._give(net, x, loss, "on raw inputs")

    def _splits(self) -> dict[str, Features]:
        return {f.split: f for f in (self.at.train, self.at.held, self.features)}

    def _recipe(self, rate: float) -> Recipe:
        return recipe_for(len(self.at.fit), rate, self.seed)

    def _net(self, x: Mapping[str, Tensor]) -> SynergyNet:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return SynergyNet([x[m].shape[1] for m in self.order], self.at.width)

    def _recorded(self) -> dict[str, dict[str, Tensor]]:
        """By split and modality, the features of the checkpoint's own encoders."""
        return {s: {m: f.pooled[m].float() for m in self.order} for s, f in self._splits().items()}

    def _best_on(self, x: Mapping[str, Mapping[str, Tensor]], offset: Offset) -> tuple[SynergyNet, float]:
        """The network of the learning rate with the least held-out loss on features by split and modality, and that loss."""
        self.progress.step(NETWORKS, 0, None)
        return min((self._on_features(x, offset, rate) for rate in RATES), key=lambda fitted: fitted[1])

    def _on_features(
        self, x: Mapping[str, Mapping[str, Tensor]], offset: Offset, rate: float
    ) -> tuple[SynergyNet, float]:
        at, net = self.at, self._net(x[self.at.train.split])
        before = {split: values.float() for split, values in offset.items()}

        def outputs(f: Features, rows: Tensor) -> Tensor:
            return before[f.split][rows] + cast(Tensor, net(*(x[f.split][m][rows] for m in self.order)))

        fitted = fit(net, list(net.parameters()), outputs, at, self.adapter.task, self._recipe(rate))
        return net, fitted.loss

    def _give(self, net: SynergyNet, x: dict[str, dict[str, Tensor]], loss: float, described: str) -> Synergy:
        """The network with the features it reads."""
        held = {m: v[self.at.choose] for m, v in x[self.at.held.split].items()}
        return Synergy(net.eval(), self.order, x[self.features.split], held, loss, described)
