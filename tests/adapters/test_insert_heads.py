"""Heads: they change nothing at first, in whatever form an encoder returns its features, and can be learned."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit.adapters import inserts
from collapsekit.adapters.inserts import capture_latents, insert, posts_of
from tests.adapters.inserting import (
    LATENT,
    LAYOUTS,
    ORDERS,
    PACKS,
    WIDTH,
    WORLD,
    N,
    inserted,
    records,
    world,
)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inserted_heads_change_nothing_at_first(layout: str, dtype: torch.dtype, train: bool) -> None:
    """Bit for bit, whatever else the heads hold; and their weights are of the model's own type, and in its mode."""
    model, x = world(dict.fromkeys(WORLD, layout))
    model, x = model.to(dtype).train(train), {m: 5 * v.to(dtype) for m, v in x.items()}
    before = model(**x)
    given = model.fusion.given
    insert(model, records(model))
    assert torch.equal(model(**x), before)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(model.fusion.given, given, strict=True))
    posts = posts_of(model, "basis")
    assert set(posts) == set(WORLD)
    assert all(p.dtype == dtype for post in posts.values() for p in post.insert.parameters())
    assert all(part.training is train for part in model.modules())
    with torch.no_grad():  # the heads are read at all
        posts["a"].insert.back[2].bias += 1
    assert not torch.equal(model(**x), before)


@pytest.mark.parametrize("pack", PACKS)
def test_heads_change_the_selected_part_of_an_output_alone(pack: str) -> None:
    model, x = world(packs=dict.fromkeys(WORLD, pack))
    encoder = model.encoders["a"]
    before, own = model(**x), encoder(x["a"])
    insert(model, records(model))
    assert torch.equal(model(**x), before)
    post = model.encoders["a"]
    with torch.no_grad():
        post.insert.back[2].bias += 1
    found = post(x["a"])
    assert type(found) is type(own)
    assert torch.equal(PACKS[pack][2](found), PACKS[pack][2](own) + 1)
    for value, was in zip(_leaves(found), _leaves(own), strict=True):
        changed = value is PACKS[pack][2](found)
        assert changed or (torch.equal(value, was) if isinstance(was, Tensor) else value == was)


def _leaves(value: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(value):
        value = [value.found, value.other]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def test_the_value_that_an_encoder_returned_is_not_written_into() -> None:
    """Dicts and dataclasses are copied, not written into."""
    for pack in ("list", "dict", "dataclass"):
        model, x = world(packs=dict.fromkeys(WORLD, pack))
        heard: list[Any] = []
        model.encoders["a"].register_forward_hook(lambda _m, _a, value, kept=heard: kept.append(value))
        inserted(model)(**x)
        fresh = PACKS[pack][2](model.encoders["a"].encoder(x["a"]))
        assert torch.equal(PACKS[pack][2](heard[0]), fresh)


@pytest.mark.parametrize("latent", [WIDTH, WIDTH + 1, 3 * WIDTH])
def test_wider_latent_spaces_pass_features_on(latent: int) -> None:
    model, x = world()
    before = model(**x)
    insert(model, records(model, latent=latent, hidden=2 * latent + 3))
    assert torch.equal(model(**x), before)
    with capture_latents(model) as heard:
        model(**x)
    for m, g in heard.items():
        assert g.shape == (N, latent)
        assert torch.equal(g[:, :WIDTH], model.encoders[m].encoder(x[m]))
        assert latent == WIDTH or bool(g[:, WIDTH:].any())  # free to be used: not dead at zero


def test_every_weight_of_a_head_can_be_learned() -> None:
    """What begins unread does not stay so: a few steps move it all."""
    model, _ = world()
    x = {m: torch.randn(64, d, generator=torch.Generator().manual_seed(i)) for i, (m, d) in enumerate(WORLD.items())}
    insert(model, records(model))
    heads = {m: post.insert for m, post in posts_of(model, "basis").items()}
    before = {m: {k: v.clone() for k, v in head.named_parameters()} for m, head in heads.items()}
    own = [p for head in heads.values() for p in head.parameters()]
    for _ in range(4):
        grads = torch.autograd.grad((model(**x) - 1).square().mean(), own)
        with torch.no_grad():
            for p, g in zip(own, grads, strict=True):
                p -= 0.1 * g
    for m, head in heads.items():
        for k, v in head.named_parameters():
            moved = (v != before[m][k]).double().mean()
            assert moved > 0.85, (m, k)  # a unit may be dead on these examples


def test_a_latent_space_narrower_than_the_features_is_refused() -> None:
    for more in ({"latent": WIDTH - 1}, {"hidden": 2 * LATENT - 1}):
        model, _ = world()
        with pytest.raises(ValueError, match=r"cannot hold 6 features"):
            insert(model, records(model, **more))


def test_inserting_twice_leaves_the_first_heads() -> None:
    model = inserted(world()[0])
    before, weights = list(model.modules()), {k: v.clone() for k, v in model.state_dict().items()}
    hooks = len(model._forward_pre_hooks), len(model._forward_hooks)
    insert(model, records(model, latent=3 * LATENT, hidden=6 * LATENT))
    assert list(model.modules()) == before
    assert (len(model._forward_pre_hooks), len(model._forward_hooks)) == hooks
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_other_attributes_are_the_encoders_own() -> None:
    model, x = world()
    own = model.encoders["a"]
    inserted(model)
    post = model.encoders["a"]
    assert post.nickname == "vector of 5"
    assert post.linear is own.linear
    assert post.double_of(x["a"]).shape == (N, WIDTH)
    assert not hasattr(post, "nonsense")
    with pytest.raises(AttributeError, match="nonsense"):
        _ = post.nonsense
    with pytest.raises(AttributeError):
        _ = post.__wrapped__
    bare = inserts.WrappedEncoder.__new__(inserts.WrappedEncoder)  # as pickle makes one
    with pytest.raises(AttributeError):
        _ = bare.encoder


class Apart(nn.Linear):
    """An encoder that answers in float32 whatever is asked, and has a way of its own to be copied."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()

    def __deepcopy__(self, memo: dict[int, Any]) -> Apart:
        twin = Apart(self.in_features, self.out_features)
        twin.load_state_dict(self.state_dict())
        return twin


def test_heads_return_the_dtype_of_the_encoder() -> None:
    post = insert(nn.ModuleDict({"encoders": nn.ModuleDict({"a": Apart(5, 6)})}), _of_one())["encoders"]["a"]
    with torch.autocast("cpu", torch.bfloat16):
        assert post(torch.randn(3, 5)).dtype == torch.float32


def test_an_encoder_s_own_deepcopy_copies_the_encoder_alone() -> None:
    model = insert(nn.ModuleDict({"encoders": nn.ModuleDict({"a": Apart(5, 6)})}), _of_one())
    twin, x = copy.deepcopy(model)["encoders"]["a"], torch.randn(3, 5)
    assert isinstance(twin, inserts.WrappedEncoder)
    assert twin.encoder is not model["encoders"]["a"].encoder
    assert torch.equal(twin(x), model["encoders"]["a"](x))


def _of_one() -> list[dict[str, Any]]:
    base = {"kind": "basis", "modality": "a", "path": "encoders.a", "part": None, "channels": None}
    return [base | {"features": WIDTH, "latent": LATENT, "hidden": 2 * LATENT}]


def test_the_encoder_s_attributes_are_seen_through_heads_of_the_same_names() -> None:
    model, _ = world()
    kept = {"channels": 99, "features": "mine", "latent": 7, "part": None, "modality": "m", "kind": "k"}
    for name, value in kept.items():
        setattr(model.encoders["a"], name, value)
    inserted(model, orders=ORDERS)
    assert {name: getattr(model.encoders["a"], name) for name in kept} == kept
