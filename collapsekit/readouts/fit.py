"""The one loop that fits what a diagnosis has to fit: early-stopped on held-out loss, seeded, put back at its best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from collapsekit.adapters.base import Activations, Adapter
from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.data.base import Batch
from collapsekit.errors import NumericsError
from collapsekit.features.features import Features, scaled
from collapsekit.io.transfer import to_device
from collapsekit.readouts.linear import FitSplit
from collapsekit.stats.solvers.adamw import LightAdamW
from collapsekit.stats.threads import threads_for
from collapsekit.tasks.base import Task

BATCH = 64
PATIENCE = 8  # epochs without a better held-out loss after which a fit ends
MIN_IMPROVEMENT = 1e-4  # by which a held-out loss has to fall to count as better
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Recipe:
    """AdamW with early stopping."""

    rate: float
    epochs: int
    seed: int
    patience: int = PATIENCE
    weight_decay: float = 1e-4


@dataclass(frozen=True)
class Fitted:
    """The epoch that was kept (0: none improved on nothing) and its held-out loss."""

    epochs: int
    loss: float


def rows_of(features: Features, rows: Tensor, *, full: bool = False) -> tuple[dict[str, Activations], Batch]:
    """Pick recordings and inputs of some examples.

    Args:
        features: n recorded examples.
        rows: which of them, int64 (r,).
        full: give recordings in half precision as float32.

    Returns:
        Recordings by modality and raw inputs by key, each (r, ...).
    """
    recorded = {m: tuple(t.index_select(0, rows) for t in r) for m, r in features.recorded.items()}
    if full:
        recorded = {m: tuple(t.float() if t.dtype in HALF else t for t in r) for m, r in recorded.items()}
    return recorded, {k: v.index_select(0, rows) for k, v in features.inputs.items()}


def in_full(adapter: Adapter) -> Adapter:
    """Turn the adapter's model to float32 where it is in half precision, in which training diverges; return the
    adapter.
    """
    if is_half(adapter):
        adapter.model.float()
    return adapter


def is_half(adapter: Adapter) -> bool:
    """Tell whether the model has weights in half precision."""
    return any(p.dtype in HALF for p in adapter.model.parameters())


def reached(adapter: Adapter, features: Features, modality: str) -> dict[str, nn.Parameter]:
    """Find the parameters that a modality's features depend on: those a gradient reaches.

    Args:
        adapter: the model.
        features: recorded examples, of which a few are run.
        modality: whose features.

    Returns:
        The parameters by name, of those that are trained.
    """
    named = {k: p for k, p in adapter.model.named_parameters() if p.requires_grad}
    out = adapter.live(modality, *rows_of(features, torch.arange(min(4, len(features))), full=True))
    if not named or not out.requires_grad:
        return {}
    grads = torch.autograd.grad(out.sum(), list(named.values()), allow_unused=True)
    return {k: p for (k, p), g in zip(named.items(), grads, strict=True) if g is not None}


def fit(
    model: nn.Module,
    parameters: list[nn.Parameter],
    outputs: Callable[[Features, Tensor], Tensor],
    at: FitSplit,
    task: Task,
    recipe: Recipe,
) -> Fitted:
    """Minimise the task's loss over some parameters, early-stopped on the held-out loss.

    Args:
        model: that holds everything that changes; it is left at its best epoch, in eval mode.
        parameters: to train.
        outputs: runs the model with gradient on rows, int64 (r,), of features: outputs (r, ...).
        at: the examples to train on, and those that say when to stop.
        task: whose loss.
        recipe: of the training; random state is kept.

    Returns:
        The epoch that was kept and its held-out loss.
    """
    best, state = Fitted(0, math.inf), {k: v.detach().clone() for k, v in model.state_dict().items()}
    operations = 6.0 * BATCH * sum(p.numel() for p in parameters)
    with preserve_rng_state(), threads_for(operations):
        seed_everything(recipe.seed)
        optimizer = LightAdamW(parameters, rate=recipe.rate, weight_decay=recipe.weight_decay)
        for epoch in range(1, recipe.epochs + 1):
            model.train()
            for rows in at.fit[torch.randperm(len(at.fit))].split(BATCH):
                if len(rows) < 2:  # a batch norm cannot take one example
                    continue
                out = outputs(at.train, rows)
                loss = task.training_loss(out, to_device(at.train.targets[rows], out.device))
                optimizer.zero_grad()
                torch.autograd.backward([loss], inputs=list(parameters))
                optimizer.step()
            model.eval()
            held = held_loss(outputs, at, task)
            if held < best.loss - MIN_IMPROVEMENT:
                best = Fitted(epoch, held)
                state = {k: v.detach().clone() for k, v in model.state_dict().items()}
            elif epoch - best.epochs >= recipe.patience:
                break
    model.load_state_dict(state)
    model.eval()
    return best


def steps_of(rows: int) -> int:
    """Count the steps of an epoch of ``fit`` over so many examples: a batch of one is left out."""
    return rows // BATCH + (rows % BATCH > 1)


def held_loss(outputs: Callable[[Features, Tensor], Tensor], at: FitSplit, task: Task) -> float:
    """Compute the mean loss on the held-out examples.

    Args:
        outputs: runs the model on rows, int64 (r,), of features: outputs (r, ...).
        at: with the held-out examples.
        task: whose loss.

    Returns:
        The loss, in the task's unit.
    """
    with torch.no_grad():
        predicted = torch.cat([outputs(at.held, rows).cpu() for rows in at.choose.split(512)])
    return loss_of(task, predicted, at)


def loss_of(task: Task, predicted: Tensor, at: FitSplit) -> float:
    """Compute the mean loss of outputs for the held-out examples.

    Args:
        task: whose loss.
        predicted: outputs (v, ...), one for each held-out example.
        at: with the held-out examples.

    Returns:
        The loss, in the task's unit.
    """
    return float(task.loss(task.expect(predicted), at.held_targets).mean())


def fresh_fusion(adapter: Adapter, recipe: Recipe) -> Adapter | None:
    """Build the same model newly initialised and in float32, its fusion and head to be trained; None where it cannot be
    built.
    """
    made = adapter.fresh(recipe.seed)
    if made is None:
        return None
    twin = in_full(made)
    if not any(p.requires_grad for p in twin.fusion_parameters()):
        raise NumericsError("the model has no weights outside its encoders, so there is no fusion to train")
    return twin


def retrained_fusion(adapter: Adapter, at: FitSplit, factors: Mapping[str, float], recipe: Recipe) -> Adapter | None:
    """Train a freshly initialised fusion and head on this checkpoint's encoders.

    Args:
        adapter: the model.
        at: the examples to train on, and those that say when to stop.
        factors: by modality, what its features are multiplied by; 1 where it has none.
        recipe: of the training.

    Returns:
        The new model; None where it cannot be built afresh.

    Raises:
        NumericsError: where the model has no weights outside its encoders.
    """
    twin = fresh_fusion(adapter, recipe)
    if twin is None:
        return None

    def outputs(features: Features, rows: Tensor) -> Tensor:
        recorded, inputs = rows_of(features, rows, full=True)
        changed = {m: scaled(r, factors.get(m, 1.0)) for m, r in recorded.items()}
        return twin.rerun(changed, inputs).outputs

    fit(twin.model, [p for p in twin.fusion_parameters() if p.requires_grad], outputs, at, adapter.task, recipe)
    return twin
