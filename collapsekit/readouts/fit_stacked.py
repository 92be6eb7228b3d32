"""One fusion trained in many settings at once: a stack of weights, one forward and one step for all of them.

What differs between the settings is only what the features are multiplied by. Weights, data order and whatever the model
draws at random are the same, so each setting learns what it would have learned by itself, up to rounding.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from collapsekit.adapters.base import Activations, Adapter, OwnedActivations
from collapsekit.adapters.build import preserve_rng_state, random_states, seed_everything
from collapsekit.adapters.live.preserve import preserve_model
from collapsekit.context import Progress
from collapsekit.data.base import Batch
from collapsekit.features.batching import shared_rows
from collapsekit.features.features import scaled
from collapsekit.io.transfer import to_device
from collapsekit.readouts.fit import (
    BATCH,
    MIN_IMPROVEMENT,
    Fitted,
    Recipe,
    fresh_fusion,
    held_loss,
    loss_of,
    retrained_fusion,
    rows_of,
)
from collapsekit.readouts.linear import FitSplit
from collapsekit.stats.threads import threads_for

Factors = Mapping[str, float]  # by modality; 1 where it has none
AT_ONCE = 16  # settings
WEIGHTS = 2**24  # of all stacked settings together; larger fusions are all arithmetic, which a stack does not spare


class _UnlikeError(Exception):
    """A model does not do stacked what it does by itself."""


def retrained_fusions(
    adapter: Adapter, at: FitSplit, settings: Sequence[Factors], recipe: Recipe, progress: Progress
) -> Iterator[Adapter] | None:
    """Train a fusion as ``retrained_fusion`` does in each of many settings, up to rounding, several at once where that
    works.

    Args:
        adapter: the model.
        at: the examples to train on, and those that say when to stop.
        settings: the factors of each.
        recipe: of the training.
        progress: told of what is trained.

    Returns:
        The new models, in order, each good until the next one is asked for; None where the model cannot be built
        afresh.

    Raises:
        NumericsError: where the model has no weights outside its encoders.
    """
    twin = fresh_fusion(adapter, recipe)
    if twin is None:
        return None
    weights = sum(p.numel() for p in twin.fusion_parameters() if p.requires_grad)
    size = max(1, min(AT_ONCE, WEIGHTS // max(1, weights)))
    groups = [settings[i : i + size] for i in range(0, len(settings), size)]
    return _in_groups(adapter, at, groups, recipe, progress, twin)


def _in_groups(
    adapter: Adapter,
    at: FitSplit,
    groups: Sequence[Sequence[Factors]],
    recipe: Recipe,
    progress: Progress,
    twin: Adapter | None,
) -> Iterator[Adapter]:
    stackable = True
    for group in groups:
        if stackable and len(group) > 1:
            try:
                made = fit_stacked(adapter, at, group, recipe, progress, twin)
            except Exception as e:  # noqa: BLE001  whatever a model does that cannot be stacked; by itself it may be fine
                stackable = False
                why = str(e).strip().split("\n")[0].rstrip(".") or type(e).__name__
                progress.note(f"fusions are trained one at a time, since this model cannot be stacked: {why[:200]}.")
            else:
                yield from (fusion for fusion, _ in made)
                twin = None  # it has learned
                continue
        for factors in group:
            alone = retrained_fusion(adapter, at, factors, recipe)
            assert alone is not None  # it was built before
            yield alone


def fit_stacked(
    adapter: Adapter,
    at: FitSplit,
    settings: Sequence[Factors],
    recipe: Recipe,
    progress: Progress,
    twin: Adapter | None = None,
) -> Iterator[tuple[Adapter, Fitted]]:
    """Train a new fusion in each of some settings, all at once.

    Raises whatever a model raises that cannot be stacked, and where it answers otherwise than by itself.

    Args:
        adapter: the model.
        at: the examples to train on, and those that say when to stop.
        settings: the factors of each.
        recipe: of the training.
        progress: told of what is trained.
        twin: of ``fresh_fusion``, one that has not been trained; None: it is built.

    Returns:
        The new model and the epoch it kept for each setting, in order; each model is good until the next.
    """
    twin = twin or fresh_fusion(adapter, recipe)
    assert twin is not None
    stack = _Stack(twin, at, settings, recipe)
    with preserve_rng_state(), threads_for(6.0 * BATCH * len(settings) * stack.size), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        with preserve_model(twin.model):
            stack.check()
        with preserve_model(twin.model):
            stack.train(progress)
        for s in range(len(settings)):
            stack.verify(s)
    return ((stack.put(s), stack.best[s]) for s in range(len(settings)))


class _Rerun(nn.Module):
    """Fusion and head as a module whose weights can be stood in for."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.model, self.adapter = adapter.model, adapter

    def forward(self, recorded: dict[str, Activations], inputs: Batch) -> Tensor:
        """Outputs (n, ...)."""
        return self.adapter.rerun(recorded, inputs).outputs


class _Stack:
    """Weights and buffers of fusion and head, first axis the settings that are still being trained."""

    def __init__(self, twin: Adapter, at: FitSplit, settings: Sequence[Factors], recipe: Recipe) -> None:
        self.twin, self.at, self.settings, self.recipe = twin, at, settings, recipe
        self.modalities = at.train.modalities
        trained = {id(p) for p in twin.fusion_parameters() if p.requires_grad}
        inside = {id(b) for m in self.modalities for b in twin.encoder_module(m).buffers()}
        self.own: dict[str, Tensor] = {k: p for k, p in twin.model.named_parameters() if id(p) in trained}
        self.size = sum(p.numel() for p in self.own.values())
        self.own |= {k: b for k, b in twin.model.named_buffers() if id(b) not in inside}
        # Linear maps are kept as (in, out), as their gradients come: else these are copied, a quarter of a step.
        linear = {id(m.weight) for m in twin.model.modules() if isinstance(m, nn.Linear)}
        self.turned = {k for k, t in self.own.items() if id(t) in linear}
        count = len(settings)
        start = {k: self._turned(k, t.detach()).repeat(count, *[1] * t.ndim) for k, t in self.own.items()}
        self.kept = {k: t.clone() for k, t in start.items()}  # at the best epoch of each setting
        self.best = [Fitted(0, math.inf) for _ in settings]
        self.active = list(range(count))
        table = [[f.get(m, 1.0) for m in self.modalities] for f in settings]
        wide = any(t.dtype == torch.float64 for r in at.train.recorded.values() for t in r)
        self.factors = torch.tensor(table, dtype=torch.float64 if wide else torch.float32, device=twin.device)
        self.module = _Rerun(twin)
        # Looking for weights that go by two names takes a walk over the whole model a forward.
        self.tied = _names(twin.model, every=True) != _names(twin.model, every=False)
        self._begin(start)

    def _begin(self, tensors: dict[str, Tensor]) -> None:
        """Go on with these; weights become leaves."""
        self.tensors = {k: t.requires_grad_(self.own[k].requires_grad) for k, t in tensors.items()}
        self.leaves = [t for t in self.tensors.values() if t.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.leaves,
            lr=self.recipe.rate,
            weight_decay=self.recipe.weight_decay,
            fused=all(t.device.type in ("cpu", "cuda") for t in self.leaves),
        )

    def _turned(self, name: str, tensor: Tensor) -> Tensor:
        """A weight as it is kept from what it is in the model, or the other way round."""
        return tensor.mT if name in self.turned else tensor

    def outputs(self, recorded: dict[str, Activations], inputs: Batch) -> Tensor:
        """What every setting's fusion makes of the same examples, (settings, n, ...)."""

        def one(tensors: dict[str, Tensor], factors: Tensor) -> Tensor:
            held = {f"model.{k}": t for k, t in tensors.items()}
            given = {m: OwnedActivations(scaled(recorded[m], f)) for m, f in zip(self.modalities, factors, strict=True)}
            out: Tensor = functional_call(self.module, held, (given, inputs), tie_weights=self.tied)
            if any(held[f"model.{k}"] is not t for k, t in tensors.items()):
                raise _UnlikeError("its forward puts new tensors in the place of its buffers")
            return out

        # Once for all settings; their factors lie on the device as well.
        recorded = {m: tuple(to_device(t, self.twin.device) for t in r) for m, r in recorded.items()}
        # "same": a dropout mask is drawn once for all settings, as each would draw it after the same seed.
        given = {k: self._turned(k, t) for k, t in self.tensors.items()}
        found: Tensor = vmap(one, randomness="same")(given, self.factors[self.active])
        return found

    def check(self) -> None:
        """Raises where a training batch gives something else stacked than by itself: outputs, buffers, random draws."""
        recorded, inputs = rows_of(self.at.train, self.at.fit[:BATCH], full=True)
        buffers = [k for k, t in self.tensors.items() if not t.requires_grad]
        self.twin.model.train()
        seed_everything(self.recipe.seed)
        with torch.no_grad():
            together = self.outputs(recorded, inputs)
        drawn = random_states()
        for s in {0, len(self.settings) - 1}:
            with preserve_model(self.twin.model), torch.no_grad():
                seed_everything(self.recipe.seed)
                out = self._alone(s, recorded, inputs)
                same = [_close(out, together[s]), *(_close(self.own[k], self.tensors[k][s]) for k in buffers)]
                if not all(same) or random_states() != drawn:
                    raise _UnlikeError("stacked it does not answer as by itself")
        self._begin({k: t.clone() for k, t in self.kept.items()})

    def _alone(self, s: int, recorded: dict[str, Activations], inputs: Batch) -> Tensor:
        factors = dict(zip(self.modalities, self.factors[s].tolist(), strict=True))
        return self.twin.rerun({m: scaled(r, factors[m]) for m, r in recorded.items()}, inputs).outputs

    def train(self, progress: Progress) -> None:
        """AdamW, every setting with its own best epoch and end, as in ``fit``."""
        recipe = self.recipe
        seed_everything(recipe.seed)
        for epoch in range(1, recipe.epochs + 1):
            self.twin.model.train()
            for rows in self.at.fit[torch.randperm(len(self.at.fit))].split(BATCH):
                if len(rows) < 2:  # a batch norm cannot take one example
                    continue
                out = self.outputs(*rows_of(self.at.train, rows, full=True))
                loss = self._training_loss(out, to_device(self.at.train.targets[rows], out.device))
                self.optimizer.zero_grad()
                torch.autograd.backward([loss], inputs=self.leaves)
                self.optimizer.step()
            self.twin.model.eval()
            self._judge(epoch, self._held())
            progress.step("epochs of fusions trained anew", epoch, recipe.epochs)
            if not self.active:
                break

    def _training_loss(self, out: Tensor, targets: Tensor) -> Tensor:
        """The sum over settings, of which each weight has a part in one."""
        task = self.twin.task
        if self._mean_of_rows(out):
            return task.training_loss(out.flatten(0, 1), torch.cat([targets] * len(out))) * len(out)
        return torch.stack([task.training_loss(one, targets) for one in out]).sum()

    def _mean_of_rows(self, out: Tensor) -> bool:
        """Whether the loss of (settings, n, ...) outputs is one mean over all rows of all settings."""
        return self.twin.task.mean_over_examples and out.ndim == 3

    def _held(self) -> list[float]:
        """Held-out loss of every setting."""
        with torch.no_grad():
            parts = [
                self.outputs(*rows_of(self.at.held, rows, full=True)).cpu()
                for rows in self.at.choose.split(max(1, shared_rows(self.at.held) // len(self.active)))
            ]
        task, out = self.twin.task, torch.cat(parts, 1)
        if self._mean_of_rows(out):
            each = task.loss(task.expect(out.flatten(0, 1)), torch.cat([self.at.held_targets] * len(out)))
            return [float(losses.mean()) for losses in each.chunk(len(out))]
        return [loss_of(task, predicted, self.at) for predicted in out]

    def _judge(self, epoch: int, held: Sequence[float]) -> None:
        """Keep the weights of settings that got better; leave those alone that have not for too long."""
        better, going = [], []
        for place, (s, loss) in enumerate(zip(self.active, held, strict=True)):
            if loss < self.best[s].loss - MIN_IMPROVEMENT:
                self.best[s] = Fitted(epoch, loss)
                better.append(place)
            elif epoch - self.best[s].epochs >= self.recipe.patience:
                continue
            going.append(place)
        to = [self.active[place] for place in better]
        for k, t in self.tensors.items():
            self.kept[k][to] = t.detach()[better]
        if len(going) < len(self.active):
            self._narrow(going)

    def _narrow(self, going: Sequence[int]) -> None:
        """Go on with the settings at these places of the stack."""
        before, old = self.leaves, self.optimizer
        self.active = [self.active[place] for place in going]
        self._begin({k: t.detach()[list(going)] for k, t in self.tensors.items()})
        for leaf, was in zip(self.leaves, before, strict=True):
            state: dict[str, Any] = old.state[was]
            if state:
                self.optimizer.state[leaf] = {
                    k: v[list(going)] if v.shape == was.shape else v for k, v in state.items()
                }

    def put(self, s: int) -> Adapter:
        """The twin with what setting ``s`` kept."""
        with torch.no_grad():
            for k, t in self.own.items():
                t.copy_(self._turned(k, self.kept[k][s]))
        self.twin.model.eval()
        return self.twin

    def verify(self, s: int) -> None:
        """Raises where what setting ``s`` kept has another held-out loss by itself than it had in the stack."""
        self.put(s)
        with preserve_model(self.twin.model):
            held = held_loss(lambda f, rows: self._alone(s, *rows_of(f, rows, full=True)), self.at, self.twin.task)
        if self.best[s].epochs and not math.isclose(held, self.best[s].loss, rel_tol=1e-3, abs_tol=1e-4):
            raise _UnlikeError("trained stacked it does not answer as by itself")


def _names(model: nn.Module, every: bool) -> list[str]:
    """Names of weights and buffers; ``every``: all names of those that have several."""
    named = (*model.named_parameters(remove_duplicate=not every), *model.named_buffers(remove_duplicate=not every))
    return [name for name, _ in named]


def _close(a: Tensor, b: Tensor) -> bool:
    size = float(a.abs().nan_to_num(0, 0, 0).max()) if a.numel() else 0.0
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5 * size, equal_nan=True)
