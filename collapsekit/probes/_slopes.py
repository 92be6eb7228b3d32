"""Derivatives of fused neurons by features, which several probes read."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from collapsekit.adapters.build import seed_everything
from collapsekit.adapters.pooling import shifted_features
from collapsekit.errors import NumericsError
from collapsekit.io.transfer import to_device
from collapsekit.readouts.fit import rows_of
from collapsekit.session.session import Session


def neuron_slopes(session: Session, rows: Tensor, picked: Tensor) -> Iterator[Tensor]:
    """Take derivatives of fused neurons by every modality's pooled features, example by example.

    They are taken by a shift of an example's features that is the same at every position, which moves what mean
    pooling gives by as much.

    Args:
        session: the opened subject.
        rows: numbers of n examples, int64 (n,).
        picked: numbers of fused neurons, int64 (k,).

    Yields:
        For each neuron (n, F), float64, the modalities side by side.

    Raises:
        NumericsError: where nothing recorded can be moved, or the fused representation has no gradient.
    """
    adapter, features = session.adapter, session.features
    recorded, inputs = rows_of(features, rows)
    shifts, moved = [], {}
    for m in features.modalities:
        # Where the model is, so that derivatives come back by one copy a neuron, and not one a modality.
        recorded[m] = tuple(to_device(t, torch.device(adapter.device)) for t in recorded[m])
        shift = torch.zeros(len(rows), features.pooled[m].shape[1], device=adapter.device, requires_grad=True)
        section = adapter.config.modalities[m]
        moved[m] = tuple(shifted_features(t, shift, section.pool, adapter.layout(m, t)) for t in recorded[m])
        if not any(t.requires_grad for t in moved[m]):
            raise NumericsError(
                f"no recorded tensor of modality {m!r} has its {shift.shape[1]} pooled features along an axis, so there is "
                "nothing to take derivatives by"
            )
        shifts.append(shift)
    seed_everything(0)  # as in replay: a model that is random in eval mode is so in the same way
    with torch.enable_grad():
        fused = adapter.rerun(moved, inputs).fused
    if not fused.requires_grad:
        raise NumericsError(
            "the fused representation has no gradient by the features, so no feature's drive can be told"
        )
    for k in picked.tolist():
        # Examples do not touch one another, so the derivative of the sum holds each one's own.
        slopes = torch.autograd.grad(fused[:, k].sum(), shifts, retain_graph=True, allow_unused=True)
        known = [torch.zeros_like(s) if g is None else g for s, g in zip(shifts, slopes, strict=True)]
        yield torch.cat(known, 1).cpu().double()
