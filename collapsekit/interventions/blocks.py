"""Which weights of the first layer that mixes modalities read which modality: found by noise on recorded features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from collapsekit.adapters.base import Activations, Adapter
from collapsekit.adapters.weights.offloaded import weights_of
from collapsekit.features.features import Features
from collapsekit.interventions.gradients import LAYERS, SCOUT, entering


@dataclass(frozen=True)
class FusionBlocks:
    """The layer, and of each modality the Frobenius norm of the weights that read it alone; or why there is none."""

    name: str
    whole: float | None  # norm of all of the layer's weights
    blocks: dict[str, float]
    reasons: dict[str, str]  # why a modality has none


def find_blocks(adapter: Adapter, recorded: Features, seed: int) -> FusionBlocks:
    """Find the first layer outside the encoders that the most modalities enter, and which of its weights read each.

    A modality enters an input of a layer where noise on its recorded features moves that input, however little they vary
    from example to example: so a dead encoder has its block too.

    Args:
        adapter: the model.
        recorded: examples, of which a few are run.
        seed: of the noise.

    Returns:
        The norms, and the reasons where there are none.
    """
    encoders = {id(s) for m in recorded.modalities for s in adapter.encoder_module(m).modules()}
    modules = {k: s for k, s in adapter.model.named_modules() if isinstance(s, LAYERS) and id(s) not in encoders}
    few = recorded.taken(torch.arange(min(SCOUT, len(recorded))))
    rows = torch.arange(len(few))
    before = entering(adapter, few, rows, {}, modules)
    after = {m: entering(adapter, _noisy(few, m, seed), rows, {}, modules) for m in recorded.modalities}
    movers = {k: [m for m in after if _moves(before[k], after[m].get(k, []))] for k in before}
    most = max((len(found) for found in movers.values()), default=0)
    if most < 2:
        return _none(recorded, "no layer outside the encoders is entered by two modalities")
    name = next(k for k, found in movers.items() if len(found) == most)  # in the order in which they are called
    layer = modules[name]
    if not isinstance(layer, nn.Linear | _ConvNd) or getattr(layer, "groups", 1) != 1 or layer.weight.is_complex():
        return _none(
            recorded,
            f"{name} ({type(layer).__name__}), which they enter first, is no plain linear layer or convolution",
        )
    if len(before[name]) != 1:
        return _none(recorded, f"{name}, which they enter first, is called {len(before[name])} times")
    axis = -1 if isinstance(layer, nn.Linear) else 1
    moved = {m: _channels_moved(before[name][0], after[m][name][0], axis) for m in movers[name]}
    return _measured(name, layer, moved, recorded.modalities)


def _measured(
    name: str, layer: nn.Linear | _ConvNd, moved: Mapping[str, Tensor], modalities: tuple[str, ...]
) -> FusionBlocks:
    weight = weights_of(layer).detach().cpu().double()
    blocks, reasons = {}, {}
    inputs = 1 if isinstance(layer, nn.Linear) or not layer.transposed else 0
    for m in modalities:
        others = [mask for other, mask in moved.items() if other != m]
        if m not in moved:
            reasons[m] = f"it does not enter {name}, which the most modalities enter first"
        elif bool((moved[m] & torch.stack(others).any(0)).any()):
            reasons[m] = f"it is mixed with others before {name}, which the most modalities enter first"
        else:
            blocks[m] = float(weight.index_select(inputs, moved[m].nonzero()[:, 0]).norm())
    return FusionBlocks(name, float(weight.norm()), blocks, reasons)


def _none(features: Features, reason: str) -> FusionBlocks:
    return FusionBlocks("", None, {}, dict.fromkeys(features.modalities, reason))


def _noisy(features: Features, modality: str, seed: int) -> Features:
    """The same examples with noise on what was recorded of one modality, of its size or of size 1 if that is more."""
    g = torch.Generator().manual_seed(seed)
    recorded: Activations = tuple(
        t + (torch.randn(t.shape, generator=g) * max(1.0, float(t.float().square().mean().sqrt()))).to(t.dtype)
        if t.is_floating_point()
        else t
        for t in features.recorded[modality]
    )
    return features.changed({**features.recorded, modality: recorded})


def _moves(before: list[Tensor], after: list[Tensor]) -> bool:
    return len(before) != len(after) or any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def _channels_moved(before: Tensor, after: Tensor, axis: int) -> Tensor:
    """Which inputs of a layer are not what they were, bool (d,)."""
    changed = (before != after).movedim(axis, -1)
    return changed.reshape(-1, changed.shape[-1]).any(0)
