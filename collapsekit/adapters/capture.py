"""Listening to the latent encodings of a model with heads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from collapsekit.adapters.inserts import junction_of


@contextmanager
def hearing(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Latent encodings of the last batch by modality, channels last, gradient kept. Raises ValueError where no heads were
    inserted into ``model``."""
    junction = junction_of(model, "basis")
    if junction is None:
        raise ValueError("no heads were inserted into this model")
    before, junction.heard = junction.heard, {}
    try:
        yield junction.heard
    finally:
        junction.heard = before
