"""What each modality is worth to a model, by ours, captum and shapiq: the demo's model on the demo's data, four modalities.

Both take an absent modality from another example (captum: `baselines`) and credit minus the loss. With one other example
an example the definitions coincide, mean over examples. With more, ours averages the model's prediction over them before it
is scored (SAGE), which captum cannot: averaging its attributions gives a mean of losses instead. There only times compare.
shapiq asks a function of ours for the worth of each coalition, so that it plays the very game.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.context import Progress
from collapsekit.data.arrays import ArraySource
from collapsekit.demo.make import demo_data
from collapsekit.demo.model import WIDTHS, FusionModel
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.games.coalitions import CoalitionGame, shapley_values
from collapsekit.interventions.marginal import marginal_samples
from collapsekit.tasks.base import FLOOR

CONFIG = {
    "modalities": {m: {"encoder": f"encoders.{m}"} for m in WIDTHS},
    "fusion": "fusion",
    "head": "head",
    "task": "classification",
    "data": {"path": "memory", "label": "label"},
}
HIDDEN, STEPS, ORDERS, DRAWS = 512, 40, 25, 32
SCALED = 2  # other examples that the peer is timed with, where it would take DRAWS


@dataclass
class Counter:
    """Examples that went through the first layer of each encoder, on average over encoders."""

    seen: float = 0.0

    def watch(self, model: FusionModel) -> None:
        for encoder in model.encoders.values():
            first: nn.Module = next(m for m in encoder.modules() if isinstance(m, nn.Linear))
            first.register_forward_pre_hook(self._add)

    def _add(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        self.seen += len(given[0]) / len(WIDTHS)


@dataclass
class Compared:
    """One comparison: two calls to time, and how their numbers compare. ``times``: factor for the peer's seconds."""

    what: str
    peer: str
    ours: Callable[[], Tensor]
    theirs: Callable[[], Tensor]
    difference: Callable[[], tuple[float, float, str]]
    times: float = 1.0

    def compared(self) -> tuple[float, float, str]:
        """Largest difference, what is allowed, and of what."""
        return self.difference()


@dataclass
class Game:
    """A model, its data, and the split's examples in the order ours keeps them in."""

    model: FusionModel
    data: dict[str, Tensor]
    counter: Counter = field(default_factory=Counter)

    @property
    def examples(self) -> int:
        return len(self.data["label"])

    def features(self) -> tuple[ModuleAdapter, Features]:
        """The encoders run once, and what that is checked by."""
        source = ArraySource({"test": self.data}, "memory")
        adapter = ModuleAdapter(check_config(CONFIG, base=Path.cwd()), model=self.model, source=source)
        return adapter, extract(adapter, "test")

    @cached_property
    def in_order(self) -> Features:
        """The examples as ours keeps them, so that both take the same others."""
        return self.features()[1]

    def coalitions(self, draws: int) -> CoalitionGame:
        return CoalitionGame(*self.features(), draws, 0, Progress())

    def leave_one_out(self, draws: int = 1) -> Tensor:
        """Ours: loss without a modality minus loss with all, a number each."""
        game = self.coalitions(draws)
        without = [game.value(game.full & ~(1 << i)).loss[0] for i in range(game.size)]
        return torch.stack(without) - game.value(game.full).loss[0]

    def shapley(self, draws: int = 1) -> Tensor:
        """Ours: Shapley credit in minus the loss, a number each."""
        game = self.coalitions(draws)
        return shapley_values(lambda mask: -game.value(mask).loss, game.size, 2, 0)[0][:, 0]

    def captum(self, method: str, draws: int = 1, **options: Any) -> Tensor:
        """The peer's: mean over examples, and over ``draws`` other examples each."""
        x, label, others = self._prepared(draws)
        mask = tuple(torch.full((1, v.shape[1]), i) for i, v in enumerate(x))
        explainer = getattr(import_module("captum.attr"), method)(self._minus_loss)
        total = torch.zeros(len(x), dtype=torch.float64)
        for other in others:
            base = tuple(v[other] for v in x)
            found = explainer.attribute(
                x, baselines=base, feature_mask=mask, additional_forward_args=(label,), **options
            )
            total += torch.stack([f[:, 0].double().mean() for f in found])
        return total / len(others)

    def shapiq(self, draws: int = 1) -> Tensor:
        """shapiq's exact credits of our game: it asks for every coalition, which the whole model answers once for each of
        ``draws`` other examples; what is scored is the mean of its predictions, as ours."""
        x, label, others = self._prepared(draws)

        def worth(coalition: Sequence[bool]) -> float:
            total = torch.zeros(len(label), dtype=torch.float64)
            for other in others:
                taken = [v if there else v[other] for v, there in zip(x, coalition, strict=True)]
                total += self._right(*taken, label)
            return float((total / len(others)).clamp_min(FLOOR).log().mean())

        exact = import_module("shapiq").ExactComputer(
            n_players=len(x), game=lambda asked: np.array([worth(row) for row in asked])
        )
        found = exact("SV", order=1)
        return torch.tensor([found[(i,)] for i in range(len(x))], dtype=torch.float64)

    def _prepared(self, draws: int) -> tuple[tuple[Tensor, ...], Tensor, Sequence[Tensor]]:
        kept = self.in_order
        x = tuple(kept.inputs[m] for m in WIDTHS)
        return x, kept.targets, marginal_samples(len(x[0]), draws, 0)

    def _minus_loss(self, *given: Tensor) -> Tensor:
        # The task's loss, which takes no probability for less than FLOOR: of a model that is very sure, it is another
        # number than the plain cross-entropy.
        return self._right(*given).clamp_min(FLOOR).log()

    def _right(self, *given: Tensor) -> Tensor:
        """The probability of each example's own class, float64 (n,)."""
        *x, label = given
        with torch.no_grad():
            logits = self.model(**dict(zip(WIDTHS, x, strict=True)))
        return logits.double().softmax(1).gather(1, label[:, None])[:, 0]

    def sampling_error(self, orders: int) -> float:
        """Standard error of a credit over so many random orders, the largest, relative to the largest credit."""
        game = self.coalitions(1)
        gains = torch.zeros(math.factorial(game.size), game.size, dtype=torch.float64)
        for row, order in enumerate(permutations(range(game.size))):
            mask = 0
            for i in order:
                gains[row, i] = game.value(mask).loss[0] - game.value(mask | 1 << i).loss[0]
                mask |= 1 << i
        return float((gains.std(0, correction=0) / math.sqrt(orders)).max() / gains.mean(0).abs().max())

    def watched(self, run: Callable[[], Tensor]) -> tuple[Tensor, float]:
        """What ``run`` gives, and how often an encoder saw each example meanwhile."""
        before = self.counter.seen
        found = run()
        return found, (self.counter.seen - before) / self.examples


def make_game(depth: int, examples: int = 500, steps: int = STEPS) -> Game:
    """The demo's model, its encoders ``depth`` layers deep (1: as they are), trained briefly on the demo's data."""
    data = demo_data()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FusionModel()
        for view, width in WIDTHS.items() if depth > 1 else ():
            sizes = [width, *[HIDDEN] * (depth - 1), 64]
            layers = [(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)]
            model.encoders[view] = nn.Sequential(*(layer for pair in layers for layer in pair))
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _ in range(steps):
            loss = F.cross_entropy(model(**{m: data[f"train/{m}"] for m in WIDTHS}), data["train/label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    game = Game(model.eval(), {k: data[f"test/{k}"][:examples] for k in (*WIDTHS, "label")})
    game.counter.watch(model)
    return game


def reliance(depth: int, examples: int = 500, orders: int = ORDERS) -> Iterator[Compared]:
    """Leave-one-out and Shapley credits with one other example an example, then as a diagnosis takes them."""
    game = make_game(depth, examples)
    _ = game.in_order  # one pass that is neither's
    kind = f"encoders of {depth} layer{'s' * (depth > 1)}"
    largest = "relative to the largest"

    def drawn() -> Tensor:
        torch.manual_seed(0)
        return game.captum("ShapleyValueSampling", n_samples=orders)

    asked: list[tuple[str, str, Callable[[], Tensor], Callable[[], Tensor], float, str]] = [
        ("leave-one-out", "FeatureAblation", game.leave_one_out, lambda: game.captum("FeatureAblation"), 1e-4, "drop"),
        ("Shapley", "ShapleyValues", game.shapley, lambda: game.captum("ShapleyValues"), 1e-4, "credit"),
        ("Shapley", "ShapleyValueSampling", game.shapley, drawn, 4 * game.sampling_error(orders), "credit"),
    ]
    for what, name, ours, theirs, allowed, each in asked:
        of = f"each {each}, {largest}"
        if theirs is drawn:
            of += f"; {orders} orders drawn, 4 standard errors allowed"

        def compared(
            ours: Callable[[], Tensor] = ours,
            theirs: Callable[[], Tensor] = theirs,
            allowed: float = allowed,
            of: str = of,
        ) -> tuple[float, float, str]:
            (a, once), (b, often) = game.watched(ours), game.watched(theirs)
            return float((a - b).abs().max() / b.abs().max()), allowed, f"{of}; {_seen(once, often)}"

        yield Compared(f"{what}, {kind}", name, ours, theirs, compared)
    yield _as_diagnosed(game, kind)


def _as_diagnosed(game: Game, kind: str) -> Compared:
    def ours() -> Tensor:
        return game.shapley(DRAWS)

    def theirs() -> Tensor:
        return game.captum("ShapleyValues", SCALED)

    def compared() -> tuple[float, float, str]:
        (_, once), (_, often) = game.watched(ours), game.watched(theirs)
        text = (
            f"ours scores the mean prediction over {DRAWS} others, the peer's is a mean of losses; its seconds are of "
        )
        text += f"{SCALED} others, times {DRAWS // SCALED}; {_seen(once, often * DRAWS / SCALED)}"
        return float("nan"), 0.0, text

    return Compared(f"{DRAWS} others, {kind}", "ShapleyValues", ours, theirs, compared, DRAWS / SCALED)


def by_shapiq(depth: int, examples: int = 500, draws: int = DRAWS) -> Compared:
    """Shapley credits over ``draws`` other examples each, as a diagnosis takes them, beside shapiq's of the same game.

    Args:
        depth: layers of each encoder.
        examples: that are asked about.
        draws: other examples each.

    Returns:
        The comparison.
    """
    game = make_game(depth, examples)
    _ = game.in_order  # one pass that is neither's

    def compared() -> tuple[float, float, str]:
        (a, once), (b, often) = game.watched(lambda: game.shapley(draws)), game.watched(lambda: game.shapiq(draws))
        apart = float((a - b).abs().max() / b.abs().max())
        return apart, 1e-4, f"each credit, relative to the largest; {_seen(once, often)}"

    kind = f"encoders of {depth} layer{'s' * (depth > 1)}"
    return Compared(
        f"{draws} others, {kind}", "ExactComputer", lambda: game.shapley(draws), lambda: game.shapiq(draws), compared
    )


def _seen(once: float, often: float) -> str:
    return f"an encoder sees each example {once:.0f} and {often:,.0f} times"
