"""What each layer of a fusion gives, one after another."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.adapters.pooling import pool_fused
from collapsekit.errors import NumericsError
from collapsekit.features.batching import CHUNK
from collapsekit.readouts.fit import rows_of
from collapsekit.session.session import Session
from collapsekit.stats.checks import doubled


def fusion_layers(session: Session) -> dict[str, nn.Module]:
    """Find the layers that a fusion is made of, by their names in the model: its submodules that have none.

    Raises NumericsError where the fusion is no module whose layers could be listened to.
    """
    adapter = session.adapter
    path = adapter.config.fusion
    if path is None or path.endswith(":input"):
        raise NumericsError(
            "the config's `fusion` is no module that gives the representation, so it has no layers to read"
        )
    try:
        fusion = adapter.model.get_submodule(path)
    except AttributeError:
        raise NumericsError(f"the model has no submodule {path!r}, so the fusion has no layers to read") from None
    return {".".join(filter(None, (path, k))): m for k, m in fusion.named_modules() if not any(m.children())}


def layer_outputs(session: Session, rows: Tensor) -> dict[str, Tensor]:
    """Run the fusion on recordings and pool what each of its layers gives.

    Args:
        session: the opened subject.
        rows: numbers of n examples, int64 (n,).

    Returns:
        By the layer's name, in the order of calls: (n, D), float64. Layers that are called several times, or that give
        no row for each example, are left out.

    Raises:
        NumericsError: where the fusion is no module whose layers could be listened to.
    """
    adapter, layers = session.adapter, fusion_layers(session)
    parts: dict[str, list[Tensor]] = {}

    def note(name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.ndim > 1:
            pooled = pool_fused(adapter.model, name, output) if len(output) == size else output[:0]
            parts.setdefault(name, []).append(doubled(pooled.detach()).cpu())

    with contextlib.ExitStack() as stack:
        stack.enter_context(preserve_rng_state())
        stack.enter_context(torch.no_grad())
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(partial(note, name)).remove)
        for chunk in rows.split(CHUNK):
            size = len(chunk)
            seed_everything(0)  # as in replay
            adapter.rerun(*rows_of(session.features, chunk))
    whole = {name: outputs for name, outputs in parts.items() if sum(map(len, outputs)) == len(rows)}
    return {name: torch.cat(outputs) for name, outputs in whole.items()}
