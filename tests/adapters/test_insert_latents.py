"""Latent encodings are captured while the model runs."""

from __future__ import annotations

from contextlib import nullcontext, suppress

import pytest
import torch

from collapsekit.adapters.inserts import capture_latents, posts_of, substitute_missing
from tests.adapters.inserting import (
    LAYOUTS,
    ORDERS,
    PATTERNS,
    WORLD,
    Interrupted,
    N,
    inserted,
    masks,
    world,
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("masked", [False, True])
def test_latent_encodings_are_captured_with_their_gradient(layout: str, masked: bool) -> None:
    """Of every modality its own, channels last, whatever stands in for it."""
    model, x = world(dict.fromkeys(WORLD, layout))
    inserted(model, orders=ORDERS)
    with substitute_missing(model, masks(*PATTERNS)) if masked else nullcontext(), capture_latents(model) as heard:
        model(**x)
    for m, post in posts_of(model, "basis").items():
        f = post.encoder(x[m])
        expected = post.insert.h(f.movedim(1, -1) if layout.endswith("first") else f)
        torch.testing.assert_close(heard[m], expected, rtol=0, atol=0)
        grads = torch.autograd.grad(
            heard[m].sum(), [post.encoder.linear.weight, post.insert.h[0].weight, post.insert.back[0].weight],
            allow_unused=True,
        )  # fmt: skip
        assert grads[0] is not None
        assert bool(grads[0].any())
        assert grads[1] is not None
        assert bool(grads[1].any())
        assert grads[2] is None


def test_captured_latents_are_those_of_the_last_batch_within_the_block() -> None:
    model, x = world()
    inserted(model)
    few = {m: v[:2] for m, v in x.items()}
    with capture_latents(model) as outer:
        model(**x)
        with suppress(Interrupted), capture_latents(model) as inner:
            model(**few)
            raise Interrupted
        kept = {m: g.clone() for m, g in outer.items()}
        assert {len(g) for g in inner.values()} == {2}
        assert {len(g) for g in outer.values()} == {N}
        model(**{m: v.flip(0) for m, v in x.items()})
        for m in WORLD:
            torch.testing.assert_close(outer[m], kept[m].flip(0))
    last = dict(outer)
    model(**few)
    assert all(outer[m] is last[m] for m in WORLD)
