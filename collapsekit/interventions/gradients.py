"""The first layer of a fusion that modalities enter, found by listening, and losses with gradient to its weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.adapters.base import Adapter
from collapsekit.adapters.build import seed_everything
from collapsekit.adapters.weights.offloaded import find_offloaded, weights_of
from collapsekit.distributed.process_group import current
from collapsekit.errors import NumericsError
from collapsekit.features.batching import CHUNK
from collapsekit.features.features import Features
from collapsekit.interventions.marginal import marginal_samples
from collapsekit.io.transfer import to_cpu, to_device
from collapsekit.stats.checks import doubled
from collapsekit.stats.linalg.gradients import OuterProductSum

KEEP = 2**28  # bytes of per-group gradients that are kept rather than computed again
SCOUT = 16  # examples on which layers are found
LAYERS = (nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, nn.modules.conv._ConvNd)
Heard = dict[str, list[tuple[list[Tensor], Any]]]  # of each call what entered and what left, by the module's name


@dataclass(frozen=True)
class FusionLayer:
    """Where gradients are taken: weights the loss reaches, the layer that mixes first, or why it is none."""

    weights: dict[str, nn.Parameter]
    name: str
    layer: nn.Linear | None
    reason: str
    drive: Tensor  # (modalities, inputs of the layer)
    backwards: int = 0  # passes back through a few examples that it took to find it

    @cached_property
    def matrix(self) -> Tensor:
        """The layer's weights (o, d), float64, on the CPU; there has to be a layer."""
        assert self.layer is not None
        return weights_of(self.layer).detach().cpu().double()


@contextlib.contextmanager
def differentiable(adapter: Adapter) -> Iterator[None]:
    """Turn gradients on, for frozen weights of the fusion too; requires_grad is put back."""
    before = [(p, p.requires_grad) for p in adapter.fusion_parameters() if p.is_floating_point()]
    try:
        for p, _ in before:
            p.requires_grad_(True)
        # cuDNN's recurrent layers refuse a backward pass in eval mode.
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        for p, wanted in before:
            p.requires_grad_(wanted)


def outputs_of(adapter: Adapter, features: Features, rows: Tensor, swap: Mapping[str, Tensor] | None = None) -> Tensor:
    """Compute the model's outputs, with gradient, on recordings.

    Args:
        adapter: the model.
        features: recorded examples.
        rows: which of them, int64 (r,).
        swap: by modality, the rows that it is taken from instead, int64 (r,); its raw inputs move with it.

    Returns:
        Outputs (r, ...).
    """
    swap = {m: features.lenders(m, rows, source) for m, source in (swap or {}).items()}
    recorded = {m: tuple(t[swap.get(m, rows)] for t in features.recorded[m]) for m in features.modalities}
    inputs = {k: v[rows] for k, v in features.inputs.items()}
    for m, source in swap.items():
        inputs |= {k: features.inputs[k][source] for k in adapter.input_keys(m)}
    seed_everything(0)
    return adapter.rerun(recorded, inputs).outputs


def loss_of(adapter: Adapter, features: Features, rows: Tensor, swap: Mapping[str, Tensor] | None = None) -> Tensor:
    """Add up the examples' training loss, float64 from the outputs on.

    Args:
        adapter: the model.
        features: recorded examples.
        rows: which of them, int64 (r,).
        swap: by modality, the rows that it is taken from instead, int64 (r,).

    Returns:
        A scalar with gradient, in the unit of the task's loss.
    """
    outputs = doubled(outputs_of(adapter, features, rows, swap))
    return adapter.task.training_loss(outputs, to_device(features.targets[rows], outputs.device)) * len(rows)


def gradients(
    of: Tensor, by: Sequence[Tensor], way: Tensor | None = None, *, again: bool = False
) -> tuple[Tensor | None, ...]:
    """Compute gradients of a scalar, or of a tensor along a direction.

    Args:
        of: what is differentiated.
        by: by which tensors.
        way: of the shape of ``of``; None: that is a scalar.
        again: whether more gradients of it follow.

    Returns:
        One each of ``by``; None where it does not reach.

    Raises:
        NumericsError: where there is none at all.
    """
    if not of.requires_grad:
        raise NumericsError("no gradient reaches the weights outside the encoders: the model detaches or has none")
    # To the bit what torch's own grad_outputs gives, which import sympy: a third of a second.
    scalar = of if way is None else (of * way).sum()
    return torch.autograd.grad(scalar, by, allow_unused=True, retain_graph=again)


@contextlib.contextmanager
def _listening(modules: Mapping[str, nn.Module], heard: Heard) -> Iterator[None]:
    """Note what enters and leaves each call of these modules, by name in the order of the first calls."""

    def note(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        # Copies: what follows may write into them (+=).
        given = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor) and t.is_floating_point()]
        left = output[0] if isinstance(output, tuple) else output
        heard.setdefault(name, []).append(([t.detach().clone() for t in given], left))

    with contextlib.ExitStack() as stack:
        for name, module in modules.items():
            hook = partial(lambda name, _m, args, kwargs, output: note(name, args, kwargs, output), name)
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield


def entering(
    adapter: Adapter, features: Features, rows: Tensor, swap: Mapping[str, Tensor], modules: Mapping[str, nn.Module]
) -> dict[str, list[Tensor]]:
    """Note what enters each of these modules in one forward on recordings.

    Args:
        adapter: the model.
        features: recorded examples.
        rows: which of them, int64 (r,).
        swap: by modality, the rows that it is taken from instead, int64 (r,).
        modules: to listen to, by name.

    Returns:
        By name, for modules that are called, copies of the floating tensors that enter, of any shape, in order, on the CPU.
    """
    heard: Heard = {}
    with _listening(modules, heard), torch.no_grad():
        outputs_of(adapter, features, rows, swap)
    found = iter(to_cpu(t for calls in heard.values() for given, _ in calls for t in given))
    return {name: [next(found) for given, _ in calls for _ in given] for name, calls in heard.items()}


def find_site(adapter: Adapter, features: Features, seed: int) -> FusionLayer:
    """Find the first layer outside the encoders that the most modalities enter, and every weight the loss reaches.

    Args:
        adapter: the model.
        features: recorded examples, of which a few are run.
        seed: of which other examples modalities are taken from, to see what moves.

    Returns:
        The layer, or why there is none whose weights are a matrix times its input.

    Raises:
        NumericsError: where the loss reaches no weights outside the encoders, or these wait elsewhere until they are used.
    """
    if find_offloaded(adapter.model):
        raise NumericsError(
            "the model's weights are offloaded, so that they have no gradient: dispatch it over devices that hold all of it"
        )
    encoders = {id(s) for m in features.modalities for s in adapter.encoder_module(m).modules()}
    modules = {k: s for k, s in adapter.model.named_modules() if isinstance(s, LAYERS) and id(s) not in encoders}
    other, rows = marginal_samples(len(features), 1, seed, features.alike)[0], torch.arange(min(SCOUT, len(features)))
    own = {id(p) for p in adapter.fusion_parameters() if p.requires_grad}
    named = {k: p for k, p in adapter.model.named_parameters() if id(p) in own}
    heard: Heard = {}
    with _listening(modules, heard):
        loss = loss_of(adapter, features, rows)
    reached = gradients(loss, list(named.values()), again=True) if named else ()
    weights = {k: p for (k, p), g in zip(named.items(), reached, strict=True) if g is not None}
    if not weights:
        raise NumericsError("the loss reaches no weights outside the encoders, so there is no fusion to look at")
    live = {k: [y for _, y in calls if isinstance(y, Tensor) and y.requires_grad] for k, calls in heard.items()}
    backwards = 1 + sum(bool(ys) for ys in live.values())
    live = {k: ys for k, ys in live.items() if ys and any(g is not None for g in gradients(loss, ys, again=True))}
    before = entering(adapter, features, rows, {}, modules)
    counts = dict.fromkeys(live, 0)
    for m in features.modalities:
        after = entering(adapter, features, rows, {m: other[rows]}, modules)
        for k in counts:
            counts[k] += _moved(before.get(k, []), after.get(k, []))
    nowhere = torch.zeros(len(features.modalities), 0, dtype=torch.float64)
    if not counts or not max(counts.values()):
        return FusionLayer(
            weights, "", None, "no layer outside the encoders is called that a modality enters", nowhere, backwards
        )
    name = max(counts, key=lambda k: counts[k])  # the first of the largest
    layer = modules[name]
    if len(heard[name]) > 1:
        reason = f"{name}, which the modalities enter first, is called {len(heard[name])} times in a forward pass"
    elif not isinstance(layer, nn.Linear):
        reason = f"{name} ({type(layer).__name__}), which the modalities enter first, is no matrix times its input"
    elif f"{name}.weight" not in weights:
        reason = f"the weight of {name}, which the modalities enter first, is computed from others"
    else:
        return FusionLayer(weights, name, layer, "", _drive(adapter, features, name, layer, other), backwards)
    return FusionLayer(weights, name, None, reason, nowhere, backwards)


def _moved(before: list[Tensor], after: list[Tensor]) -> bool:
    return len(before) != len(after) or any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def _drive(adapter: Adapter, features: Features, name: str, layer: nn.Linear, other: Tensor) -> Tensor:
    """Mean squared change of each input of the layer when one modality by itself is of other examples, (m, d)."""
    rows = torch.arange(min(CHUNK, len(features)))
    enter = partial(entering, adapter, features, rows, modules={name: layer})
    before = doubled(enter(swap={})[name][0])
    out = []
    for m in features.modalities:
        change = doubled(enter(swap={m: other[rows]})[name][0]) - before
        out.append(change.square().reshape(-1, change.shape[-1]).mean(0))
    return torch.stack(out)


def parts(features: Features, group: int) -> Iterator[Tensor]:
    """Yield the rows of one jackknife group, int64 (r,), in chunks that depend on nothing else."""
    rows = (features.groups == group).nonzero()[:, 0]
    yield from rows.tensor_split(math.ceil(len(rows) / CHUNK))


def leave_out_sums(make: Callable[[int], Tensor], count: int) -> tuple[Tensor, Iterator[Tensor]]:
    """Add up ``make(group)``, of one shape for all groups, and the same without each; parts too large to keep are made
    again.
    """
    kept: list[Tensor] = []
    total = torch.zeros((), dtype=torch.float64)
    for part in current().map(make, range(count)):
        total = total + part
        if part.numel() * 8 * count <= KEEP:
            kept.append(part)
    return total, (total - (kept[g] if g < len(kept) else make(g)) for g in range(count))


def loss_gradient(
    adapter: Adapter,
    features: Features,
    weights: Sequence[nn.Parameter],
    swap: Mapping[str, Tensor] | None,
    group: int,
) -> Tensor:
    """Add up the loss gradients by weights over one jackknife group.

    Args:
        adapter: the model.
        features: n recorded examples.
        weights: of p numbers in all.
        swap: by modality, the rows that it is taken from for each example, int64 (n,); None: none is.
        group: of examples.

    Returns:
        float64 (p,), side by side in the order of ``weights``.
    """
    total = torch.zeros(sum(w.numel() for w in weights), dtype=torch.float64)
    for rows in parts(features, group):
        taken = {m: other[rows] for m, other in (swap or {}).items()}
        total += _flat(gradients(loss_of(adapter, features, rows, taken), weights), weights)
    return total


def _flat(found: Sequence[Tensor | None], weights: Sequence[nn.Parameter]) -> Tensor:
    """Gradients side by side, float64; zeros where one does not reach."""
    both = zip(found, weights, strict=True)
    flat = to_cpu((torch.zeros_like(w) if g is None else g).reshape(-1) for g, w in both)
    return torch.cat([part.double() for part in flat])


def outer_products(
    adapter: Adapter,
    features: Features,
    site: FusionLayer,
    basis: Tensor,
    of: str,
    projections: int,
    seed: int,
    group: int,
) -> Tensor:
    """Add up gradient outer products by a layer's input over one jackknife group.

    They are Wᵀ δ δᵀ W, δ the gradient by what leaves the layer: what bypasses the layer does not count.

    Args:
        adapter: the model.
        features: n recorded examples.
        site: whose layer has weights W of d columns; it has to have a layer.
        basis: of the rows of W, float64 (d, r).
        of: "loss" for gradients of the loss, anything else for those of the model's outputs.
        projections: outputs up to which each is taken by itself; of more, so many random signed sums stand for all.
        seed: of those signs.
        group: of examples.

    Returns:
        float64 (r, r), in ``basis``.
    """
    assert site.layer is not None
    total = OuterProductSum(len(site.matrix))
    generator = torch.Generator().manual_seed(seed + group)
    left: list[Tensor] = []

    def note(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        left.append(output)
        return output.clone()  # what follows may write into it

    handle = site.layer.register_forward_hook(note)
    try:
        for rows in parts(features, group):
            if of == "loss":
                y, ways = loss_of(adapter, features, rows), iter([torch.ones(())])
            else:
                y = outputs_of(adapter, features, rows).reshape(len(rows), -1)
                ways = _ways(y, projections, generator)
            for way in ways:
                (g,) = gradients(y, [left[-1]], way.to(y), again=True)
                if g is not None:
                    total.add(g)
            left.clear()
    finally:
        handle.remove()
    read = site.matrix @ basis
    return read.T @ total.finish() @ read


def _ways(outputs: Tensor, projections: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Weights (n, c) on the outputs: one output at a time; where there are more than ``projections``, random signs,
    whose outer products are in the mean a multiple of what the outputs give."""
    n, c = outputs.shape
    if c <= projections:
        for k in range(c):
            yield torch.eye(c)[k].expand(n, c)
        return
    for _ in range(projections):
        yield 2.0 * torch.randint(0, 2, (n, c), generator=generator) - 1
