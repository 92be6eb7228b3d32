"""Heads together with channel exchanges."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from collapsekit.adapters.inserts import capture_latents, insert, posts_of, substitute_missing
from tests.adapters.inserting import (
    NOBODY,
    ORDERS,
    PATTERNS,
    WIDTH,
    WORLD,
    Encoder,
    inserted,
    masks,
    records,
    world,
)


def exchanges(model: nn.Module) -> list[dict[str, Any]]:
    keep = ("modality", "path", "part", "channels", "features")
    giver = {"a": "b", "b": "c", "c": "a"}
    return [
        {
            **{k: r[k] for k in keep},
            "kind": "exchange",
            "giver": giver[r["modality"]],
            "given": WIDTH,
            "to": [0, 2],
            "source": [1, 5],
            "blend": 0.3,
        }
        for r in records(model)
    ]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("way", ["basis first", "exchange first", "at once", "at once, turned"])
def test_heads_stand_inside_exchanges_whichever_was_inserted_first(way: str, masked: bool) -> None:
    """Blended is what heads give, substitutes included; every encoder runs once."""
    model, x = world(packs={"b": "dict"})
    basis, exchange = records(model), exchanges(model)
    steps = {
        "basis first": [basis, exchange],
        "exchange first": [exchange, basis],
        "at once": [basis + exchange],
        "at once, turned": [exchange + basis],
    }[way]
    for structure in steps:
        insert(model, structure)
    plain, _ = world(packs={"b": "dict"})
    inserted(plain, orders=ORDERS)
    for m, post in posts_of(model, "basis").items():
        post.insert.load_state_dict(posts_of(plain, "basis")[m].insert.state_dict())
        assert isinstance(post.encoder, Encoder)
        outer = posts_of(model, "exchange")[m]
        assert model.encoders[m] is outer
        assert outer.encoder is post
        assert outer.nickname == post.encoder.nickname
    gone = masks(*PATTERNS)
    with substitute_missing(plain, gone) if masked else nullcontext():
        plain(**x)
    behind = dict(zip(WORLD, plain.fusion.given, strict=True))
    with substitute_missing(model, gone) if masked else nullcontext(), capture_latents(model) as heard:
        model(**x)
    assert set(heard) == set(WORLD)
    assert [posts_of(model, "basis")[m].encoder.calls for m in WORLD] == [1, 1, 1]
    assert model.fusion.calls == 1
    for record, found in zip(exchange, model.fusion.given, strict=True):
        own, other = behind[record["modality"]].clone(), behind[record["giver"]]
        own[:, [0, 2]] = 0.7 * own[:, [0, 2]] + 0.3 * other[:, [1, 5]]
        torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-6)


def test_heads_and_exchanges_pass_through_a_state_dict() -> None:
    made = []
    for turned in (False, True):
        model, x = world()
        basis, exchange = records(model), exchanges(model)
        made.append(insert(model, exchange + basis if turned else basis + exchange))
    with torch.no_grad():
        for p in made[0].parameters():
            p.add_(0.1 * torch.randn_like(p))
    made[1].load_state_dict(made[0].state_dict())
    copies = [*made, copy.deepcopy(made[0])]
    for gone in (NOBODY, masks(*PATTERNS)):
        outputs = []
        for model in copies:
            with substitute_missing(model, gone):
                outputs.append(model(**x))
        assert torch.equal(outputs[0], outputs[1])
        assert torch.equal(outputs[0], outputs[2])
