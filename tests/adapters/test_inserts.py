"""What a repair puts into a model: heads that change nothing at first, and modalities that stand in for one another."""

from __future__ import annotations

import ast
import copy
import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit.adapters import inserts
from collapsekit.adapters.inserts import capture_latents, insert, posts_of, substitute_missing
from collapsekit.repairs.export import export_weights

N, WIDTH, LATENT = 7, 6, 8
WORLD = {"a": 5, "b": 4, "c": 3}  # inputs of each modality
Pair = namedtuple("Pair", ["other", "found"])


@dataclasses.dataclass
class Loose:
    found: Tensor
    other: Tensor


@dataclasses.dataclass(frozen=True)
class Frozen:
    found: Tensor
    other: Tensor


class Encoder(nn.Module):
    """Features of ``WIDTH`` channels in the layout and the package asked for."""

    def __init__(self, width: int, layout: str = "vector", pack: str = "plain", length: int = 3) -> None:
        super().__init__()
        self.linear, self.layout, self.pack, self.length, self.calls = nn.Linear(width, WIDTH), layout, pack, length, 0
        self.nickname = f"{layout} of {width}"

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        made = torch.tanh(self.linear(x))
        if self.layout != "vector":
            made = made[:, None] * torch.linspace(0.5, 1.5, self.length, dtype=made.dtype)[:, None]  # (n, t, d)
        if self.layout.startswith("map"):
            made = made[:, :, None] * torch.tensor([1.0, -0.7], dtype=made.dtype)[:, None]  # (n, t, 2, d)
        if self.layout.endswith("first"):
            made = made.movedim(-1, 1)
        return PACKS[self.pack][1](made)

    def double_of(self, x: Tensor) -> Tensor:
        """A method of the user's own."""
        return 2 * self.linear(x)


# How an encoder hands its features over: the part's key, how it is packed, how the model unpacks it.
PACKS: dict[str, tuple[Any, Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "plain": (None, lambda f: f, lambda v: v),
    "tuple": (1, lambda f: (f.sum(), f), lambda v: v[1]),
    "list": (0, lambda f: [f, f + 1], lambda v: v[0]),
    "unnamed": (None, lambda f: (f, "said"), lambda v: v[0]),
    "nested": (1, lambda f: (f + 1, (f, f - 1)), lambda v: v[1][0]),
    "dict": ("found", lambda f: {"other": f + 1, "found": f}, lambda v: v["found"]),
    "namedtuple": ("found", lambda f: Pair(f + 1, f), lambda v: v.found),
    "dataclass": ("found", lambda f: Loose(f, f + 1), lambda v: v.found),
    "frozen": ("found", lambda f: Frozen(f, f + 1), lambda v: v.found),
}
LAYOUTS = {  # and the ``channels`` a record says
    "vector": None,
    "tokens": None,
    "tokens-first": "first",
    "map-first": None,
    "map": "last",
}


class Fusion(nn.Module):
    """Pools each modality, and mixes; keeps what it was given."""

    def __init__(self, modalities: int) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(modalities * WIDTH, 4), 0
        self.given: list[Tensor] = []

    def forward(self, parts: Sequence[Tensor], layouts: Sequence[str]) -> Tensor:
        self.calls, self.given = self.calls + 1, [p.detach().clone() for p in parts]
        last = [p.movedim(1, -1) if layout.endswith("first") else p for p, layout in zip(parts, layouts, strict=True)]
        pooled = [p.flatten(1, -2).mean(1) if p.ndim > 2 else p for p in last]
        return self.linear(torch.cat(pooled, 1))


class Model(nn.Module):
    """Encoders called in ``order``; those of ``silent`` are not called at all: zeros in their places."""

    def __init__(self, encoders: Mapping[str, nn.Module], order: Sequence[str] | None = None) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.order, self.silent = tuple(order or encoders), ()
        self.fusion = Fusion(len(encoders))

    def forward(self, **x: Tensor) -> Tensor:
        called = {m: self.encoders[m](x[m]) for m in self.order if m not in self.silent}
        parts, layouts = [], []
        for m, encoder in self.encoders.items():
            if m in called:
                parts.append(PACKS[encoder.pack][2](called[m]))
                layouts.append(encoder.layout)
            else:
                parts.append(x[m].new_zeros(len(x[m]), WIDTH))
                layouts.append("vector")
        return self.fusion(parts, layouts)


def records(model: nn.Module, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "kind": "basis",
            "modality": m,
            "path": f"encoders.{m}",
            "part": PACKS[getattr(encoder, "pack", "plain")][0],
            "channels": LAYOUTS[getattr(encoder, "layout", "vector")],
            "features": WIDTH,
            "latent": LATENT,
            "hidden": 2 * LATENT,
            **more,
        }
        for m, encoder in model.encoders.items()
    ]


def world(
    layouts: Mapping[str, str] | None = None, packs: Mapping[str, str] | None = None, **how: Any
) -> tuple[Model, dict[str, Tensor]]:
    """A model in eval mode and inputs of it, always the same."""
    layouts, packs = layouts or {}, packs or {}
    lengths = how.pop("lengths", {})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoders = {
            m: Encoder(d, layouts.get(m, "vector"), packs.get(m, "plain"), lengths.get(m, 3)) for m, d in WORLD.items()
        }
        model = Model(encoders, **how).eval()
        return model, {m: torch.randn(N, d) for m, d in WORLD.items()}


def inserted(model: Model, *, learned: bool = True, orders: Mapping[str, Sequence[str]] | None = None) -> Model:
    """The model with heads; ``learned``: whose weights were moved away from where they begin."""
    structure = records(model)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        insert(model, structure)
        for m, post in posts_of(model, "basis").items():
            for p in post.insert.parameters() if learned else ():
                p.data = p.data + 0.2 * torch.randn_like(p)
            if orders:
                post.insert.order.copy_(torch.tensor([post.insert.others.index(o) for o in orders[m]]))
    return model


def masks(*gone: str) -> dict[str, Tensor]:
    """``gone``: by example the absent modalities, as "ab"; cycled over the batch."""
    return {m: torch.tensor([m in gone[i % len(gone)] for i in range(N)]) for m in WORLD}


def by_hand(
    model: Model, x: Mapping[str, Tensor], gone: Mapping[str, Tensor], orders: Mapping[str, Sequence[str]]
) -> dict[str, Tensor]:
    """h⁻¹ of g, example by example, channels last: where a modality is absent, g of its first choice among those present
    (the mean over positions, where those differ)."""
    posts = posts_of(model, "basis")
    features = {}
    with torch.no_grad():
        for m, post in posts.items():
            f = PACKS[post.encoder.pack][2](post.encoder(x[m]))
            features[m] = f.movedim(1, -1) if post.encoder.layout.endswith("first") else f
        out = {}
        for m, post in posts.items():
            rows = []
            for i in range(len(x[m])):
                there = [o for o in orders[m] if not bool(gone[o][i])]
                source = m if not bool(gone[m][i]) or not there else there[0]
                g = posts[source].insert.h(features[source][i])
                own = features[m][i]
                if g.shape[:-1] != own.shape[:-1]:
                    flat = g.reshape(-1, g.shape[-1])
                    places = own.shape[:-1]
                    g = flat.mean(0).expand(*places, -1) if len(flat) != places.numel() else flat.reshape(*places, -1)
                rows.append(post.insert.back(g))
            out[m] = torch.stack(rows)
    return out


ORDERS = {"a": ("c", "b"), "b": ("a", "c"), "c": ("b", "a")}
NOBODY = {m: torch.zeros(N, dtype=torch.bool) for m in WORLD}


# ---- what was just put in changes nothing


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_at_first_nothing_changes(layout: str, dtype: torch.dtype, train: bool) -> None:
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
def test_features_are_found_in_what_an_encoder_gives_and_the_rest_stays(pack: str) -> None:
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


def test_an_encoder_keeps_what_it_gave() -> None:
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


def test_a_space_too_narrow_is_refused() -> None:
    for more in ({"latent": WIDTH - 1}, {"hidden": 2 * LATENT - 1}):
        model, _ = world()
        with pytest.raises(ValueError, match=r"cannot hold 6 features"):
            insert(model, records(model, **more))


def test_what_is_there_already_stays() -> None:
    model = inserted(world()[0])
    before, weights = list(model.modules()), {k: v.clone() for k, v in model.state_dict().items()}
    hooks = len(model._forward_pre_hooks), len(model._forward_hooks)
    insert(model, records(model, latent=3 * LATENT, hidden=6 * LATENT))
    assert list(model.modules()) == before
    assert (len(model._forward_pre_hooks), len(model._forward_hooks)) == hooks
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


# ---- substitution


PATTERNS = ("", "a", "b", "c", "ab", "ac", "bc")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("orders", [ORDERS, {m: tuple(reversed(o)) for m, o in ORDERS.items()}], ids=["one", "other"])
def test_what_reaches_the_fusion_is_the_substitute(layout: str, orders: dict[str, tuple[str, ...]]) -> None:
    """Of each example its own, in every pattern at once."""
    model, x = world(dict.fromkeys(WORLD, layout))
    inserted(model, orders=orders)
    gone = masks(*PATTERNS)
    with substitute_missing(model, gone):
        model(**x)
    given = dict(zip(WORLD, model.fusion.given, strict=True))
    for m, expected in by_hand(model, x, gone, orders).items():
        found = given[m].movedim(1, -1) if layout.endswith("first") else given[m]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_reference_can_tell() -> None:
    """What it compares with differs between the orders, from the plain features and between modalities."""
    model, x = world()
    inserted(model, orders=ORDERS)
    gone = masks(*PATTERNS)
    one = by_hand(model, x, gone, ORDERS)
    other = by_hand(model, x, gone, {m: tuple(reversed(o)) for m, o in ORDERS.items()})
    none = by_hand(model, x, NOBODY, ORDERS)
    for m in WORLD:
        assert float((one[m] - other[m]).abs().max()) > 0.05
        changed = (one[m] - none[m]).abs().amax(1) > 0.02
        assert torch.equal(changed, gone[m])


@pytest.mark.parametrize(
    ("layouts", "lengths"),
    [
        ({"a": "tokens", "b": "tokens", "c": "tokens"}, {"a": 3, "b": 5, "c": 5}),
        ({"a": "tokens", "b": "vector", "c": "tokens"}, {"a": 4, "c": 1}),
        ({"a": "map-first", "b": "map", "c": "map-first"}, {"a": 3, "b": 4, "c": 3}),
        ({"a": "map-first", "b": "tokens", "c": "vector"}, {"a": 3, "b": 6}),  # 6 places each: one by one
        ({"a": "tokens-first", "b": "map", "c": "vector"}, {"a": 2, "b": 5}),
    ],
    ids=str,
)
def test_positions_that_differ_are_averaged(layouts: dict[str, str], lengths: dict[str, int]) -> None:
    model, x = world(layouts, lengths=lengths)
    inserted(model, orders=ORDERS)
    gone = masks(*PATTERNS)
    with substitute_missing(model, gone):
        model(**x)
    for (m, expected), found in zip(by_hand(model, x, gone, ORDERS).items(), model.fusion.given, strict=True):
        last = found.movedim(1, -1) if layouts[m].endswith("first") else found
        torch.testing.assert_close(last, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pack", PACKS)
def test_substitutes_stand_in_packages_too(pack: str) -> None:
    model, x = world(packs={"a": pack, "b": "plain", "c": pack})
    plain, y = world()
    for made in (inserted(model, orders=ORDERS), inserted(plain, orders=ORDERS)):
        with substitute_missing(made, masks(*PATTERNS)):
            made(**x)
    assert all(torch.equal(x[m], y[m]) for m in x)
    assert all(torch.equal(a, b) for a, b in zip(model.fusion.given, plain.fusion.given, strict=True))


def test_examples_with_everything_there_are_left_alone_bit_for_bit() -> None:
    model, x = world(dict.fromkeys(WORLD, "tokens"))
    inserted(model, orders=ORDERS)
    plain = model(**x)
    with substitute_missing(model, NOBODY):
        assert torch.equal(model(**x), plain)
    gone = masks("", "a", "bc")
    with substitute_missing(model, gone):
        found = model(**x)
    whole = ~torch.stack(list(gone.values())).any(0)
    assert 0 < int(whole.sum()) < N
    assert torch.equal(found[whole], plain[whole])
    assert bool((found[~whole] != plain[~whole]).any(1).all())
    assert torch.equal(model(**x), plain)  # and afterwards, everybody


@pytest.mark.parametrize("value", [1e6, float("nan"), float("inf")])
def test_what_an_absent_modality_is_given_does_not_matter(value: float) -> None:
    model, x = world()
    inserted(model, orders=ORDERS)
    for gone in (masks("a"), masks("ab"), masks(*PATTERNS)):
        other = {m: torch.where(gone[m][:, None], torch.full_like(v, value), v) for m, v in x.items()}
        with substitute_missing(model, gone):
            assert torch.equal(model(**x), model(**other))
        with substitute_missing(model, NOBODY):
            assert not torch.equal(model(**x), model(**other))


def test_where_all_are_absent_an_example_keeps_its_own() -> None:
    model, x = world()
    inserted(model, orders=ORDERS)
    plain = model(**x)
    with substitute_missing(model, masks("abc")):
        assert torch.equal(model(**x), plain)
    with substitute_missing(model, masks("abc", "a")):
        found = model(**x)
    assert torch.equal(found[0::2], plain[0::2])
    assert not torch.equal(found[1::2], plain[1::2])


def test_masks_may_name_some_modalities_only() -> None:
    model, x = world()
    inserted(model, orders=ORDERS)
    gone = masks("b", "")
    with substitute_missing(model, gone):
        expected = model(**x)
    with substitute_missing(model, {"b": gone["b"]}):
        assert torch.equal(model(**x), expected)


@pytest.mark.parametrize("order", list(permutations(WORLD)), ids="".join)
def test_encoders_run_once_and_in_any_order(order: tuple[str, ...]) -> None:
    model, x = world(order=order)
    reference, _ = world()
    fired: list[str] = []
    for m, encoder in model.encoders.items():
        encoder.register_forward_hook(lambda *_, m=m: fired.append(m))
        encoder.register_forward_pre_hook(lambda *_, m=m: fired.append(f"before {m}"))
    outer: list[str] = []
    for made in (inserted(model, orders=ORDERS), inserted(reference, orders=ORDERS)):
        for m, post in posts_of(made, "basis").items():
            post.register_forward_hook(lambda *_, m=m: outer.append(m))
        with substitute_missing(made, masks(*PATTERNS)):
            found = made(**x)
        if made is model:
            first, heard = found, outer.copy()
    assert torch.equal(first, found)
    assert [encoder.calls for encoder in model.encoders.values()] == [1, 1, 1]
    assert model.fusion.calls == 1
    assert fired == [step for m in order for step in (f"before {m}", m)]
    assert heard == list(order)  # whoever listens behind a head hears the answer, once


def test_a_hook_behind_a_head_hears_the_substitute() -> None:
    model, x = world()
    inserted(model, orders=ORDERS)
    heard: dict[str, Tensor] = {}
    for m, post in posts_of(model, "basis").items():
        post.register_forward_hook(lambda _m, _a, value, m=m: heard.update({m: value.detach().clone()}))
    with substitute_missing(model, masks(*PATTERNS)):
        model(**x)
    assert all(torch.equal(heard[m], given) for m, given in zip(WORLD, model.fusion.given, strict=True))


def test_swapping_two_modalities_names_swaps_their_substitutes() -> None:
    """The same encoders and heads under each other's name, masks and inputs with them."""
    model, x = world()
    inserted(model, orders=ORDERS)
    other = {"a": "b", "b": "a", "c": "c"}
    twin = copy.deepcopy(model)
    for m, post in posts_of(twin, "basis").items():
        post.record["modality"] = other[m]
    junction = inserts.junction_of(twin, "basis")
    assert junction is not None
    junction.names = tuple(other[m] for m in junction.names)
    for post in posts_of(twin, "basis").values():
        post.insert.others = tuple(other[o] for o in post.insert.others)
    gone = masks(*PATTERNS)
    with substitute_missing(model, gone):
        one = model(**x)
    with substitute_missing(twin, {other[m]: mask for m, mask in gone.items()}):
        assert torch.equal(twin(**x), one)
    with substitute_missing(twin, gone):
        assert not torch.equal(twin(**x), one)


def test_who_has_no_head_cannot_be_absent() -> None:
    model, x = world()
    refused = pytest.raises(ValueError, match=r"no head was inserted for a, b, c: known are")
    with refused, substitute_missing(model, masks("a")):
        pass
    with pytest.raises(ValueError, match=r"any modality"), substitute_missing(model, {}):
        pass
    with pytest.raises(ValueError, match=r"no heads were inserted"), capture_latents(model):
        pass
    inserted(model)
    with pytest.raises(ValueError, match=r"no head was inserted for d, e: known are a, b, c"):
        with substitute_missing(model, {"d": NOBODY["a"], "a": NOBODY["a"], "e": NOBODY["a"]}):
            pass
    plain = model(**x)
    with substitute_missing(model, masks("a")), substitute_missing(model, NOBODY):
        assert torch.equal(model(**x), plain)


def test_ways_to_be_absent_are_nested() -> None:
    model, x = world()
    inserted(model, orders=ORDERS)
    with substitute_missing(model, masks("a")):
        one = model(**x)
        with suppress(Interrupted), substitute_missing(model, masks("b")):
            assert not torch.equal(model(**x), one)
            raise Interrupted
        assert torch.equal(model(**x), one)


# ---- copies


def _pairs() -> list[tuple[str, Callable[[Model], Model]]]:
    return [("deepcopy", copy.deepcopy), ("pickle", lambda m: pickle.loads(pickle.dumps(m)))]


@pytest.mark.parametrize(("how", "copied"), _pairs(), ids=lambda v: v if isinstance(v, str) else "")
def test_a_copy_is_independent(how: str, copied: Callable[[Model], Model]) -> None:
    model, x = world()
    inserted(model, orders=ORDERS)
    gone = masks(*PATTERNS)
    with substitute_missing(model, gone):
        one = model(**x)
        twin = copied(model)
    plain = model(**x)
    if how == "deepcopy":  # begun while something was absent, the copy is not held to it
        assert torch.equal(twin(**x), plain)
    twin = copied(model)
    assert torch.equal(twin(**x), plain)
    with substitute_missing(twin, gone):
        assert torch.equal(twin(**x), one)
        assert torch.equal(model(**x), plain)
    with substitute_missing(model, gone):
        assert torch.equal(twin(**x), plain)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert torch.equal(model(**x), plain)
    junctions = {id(p.junction) for made in (model, twin) for p in posts_of(made, "basis").values()}
    assert len(junctions) == 2  # one a model, shared by its heads


def test_weights_pass_into_a_fresh_model_with_heads(tmp_path: Path) -> None:
    model, x = world(dict.fromkeys(WORLD, "tokens"))
    inserted(model, orders=ORDERS)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    torch.manual_seed(99)
    fresh = Model({m: Encoder(d, "tokens") for m, d in WORLD.items()}).eval()
    insert(fresh, records(fresh))
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(fresh(**x), model(**x))
    results = []
    for made in (model, fresh):
        with substitute_missing(made, masks(*PATTERNS)):
            results.append(made(**x))
    assert torch.equal(*results)  # the order of substitutes is in the state, too
    names = set(model.state_dict()) - set(world()[0].state_dict())
    assert {n for n in names if n.endswith("order")} == {f"encoders.{m}.insert.order" for m in WORLD}


# ---- in the encoder's place


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


class Interrupted(Exception):
    pass


@contextmanager
def failing(module: nn.Module, error: type[BaseException]) -> Iterator[None]:
    def hook(*_: Any) -> None:
        raise error("stop")

    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["encoders.a.encoder", "encoders.c.encoder", "encoders.b", "fusion"])
@pytest.mark.parametrize("masked", [False, True])
def test_after_an_error_the_next_pass_is_right(where: str, error: type[BaseException], masked: bool) -> None:
    model, x = world()
    inserted(model, orders=ORDERS)
    other = {m: v.flip(0) for m, v in x.items()}
    gone = masks(*PATTERNS)
    plain = model(**x)
    with substitute_missing(model, gone):
        one = model(**x)
    with substitute_missing(model, gone) if masked else nullcontext():
        with failing(model.get_submodule(where), error), pytest.raises(error):
            model(**other)
        assert torch.equal(model(**x), one if masked else plain)
        with failing(model.get_submodule(where), error), pytest.raises(error):
            model(**other)
    assert torch.equal(model(**x), plain)
    with substitute_missing(model, gone):
        assert torch.equal(model(**x), one)


def test_an_encoder_that_is_not_run_leaves_the_plain_answer() -> None:
    """A modality that is missing in the model's own way, which is the model's to answer for."""
    model, x = world()
    inserted(model, orders=ORDERS)
    with substitute_missing(model, masks("b")):
        one = model(**x)
    model.silent = ("b",)
    plain = model(**x)
    with substitute_missing(model, masks("")):
        assert torch.equal(model(**x), plain)
    with substitute_missing(model, masks("a")):  # the first choice, c, is there all the same
        with_c = model(**x)
    assert not torch.equal(with_c, plain)
    with substitute_missing(model, masks("b")), pytest.raises(RuntimeError, match="the encoder of b was not run"):
        model(**x)
    assert torch.equal(model(**x), plain)
    with substitute_missing(model, masks("ac")):  # b would be next, and is not there: each keeps its own
        assert torch.equal(model(**x), plain)
    model.silent = ()
    with substitute_missing(model, masks("b")):
        assert torch.equal(model(**x), one)


class Swallowing(Model):
    """Takes every error of an encoder for a modality that is missing."""

    def forward(self, **x: Tensor) -> Tensor:
        called = []
        for m, encoder in self.encoders.items():
            try:
                called.append(encoder(x[m]))
            except Exception:  # noqa: BLE001 - that is the point
                called.append(x[m].new_zeros(len(x[m]), WIDTH))
        return self.fusion(called, ["vector"] * 3)


def test_a_model_that_swallows_errors_does_not_swallow_ours() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        swallowing = Swallowing({m: Encoder(d) for m, d in WORLD.items()}).eval()
    model, x = world()
    results = []
    for made in (swallowing, model):
        with substitute_missing(inserted(made, orders=ORDERS), masks(*PATTERNS)):
            results.append(made(**x))
    assert torch.equal(*results)


# ---- hearing


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("masked", [False, True])
def test_latent_encodings_are_heard_with_gradient(layout: str, masked: bool) -> None:
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


def test_it_hears_the_last_batch_and_only_while_asked() -> None:
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


def test_gradients_follow_the_substitution() -> None:
    """Where a is absent its encoder learns nothing, and its substitute's more; by finite differences, too."""
    model, x = world()
    model, x = inserted(model.double(), orders=ORDERS), {m: v.double() for m, v in x.items()}
    with substitute_missing(model, masks("a")):
        model(**x).square().sum().backward()
        loss = [0.0, 0.0]
        weight = model.encoders["c"].encoder.linear.weight
        step = 1e-6
        for k, sign in enumerate((1, -1)):
            with torch.no_grad():
                weight[2, 1] += sign * step
                loss[k] = float(model(**x).square().sum())
                weight[2, 1] -= sign * step
    assert not bool(model.encoders["a"].encoder.linear.weight.grad.any())
    assert not bool(model.encoders["a"].insert.h[0].weight.grad.any())
    assert bool(model.encoders["a"].insert.back[0].weight.grad.any())
    assert float(weight.grad[2, 1]) == pytest.approx((loss[0] - loss[1]) / (2 * step), rel=1e-4)


def test_without_gradients_and_in_bfloat16() -> None:
    model, x = world()
    inserted(model, orders=ORDERS)
    with substitute_missing(model, masks(*PATTERNS)):
        one = model(**x)
        with torch.no_grad():
            quiet = model(**x)
        with torch.autocast("cpu", torch.bfloat16):
            coarse = model(**x)
            given = [g.dtype for g in model.fusion.given]
    assert one.requires_grad
    assert not quiet.requires_grad
    assert torch.equal(one, quiet)
    assert coarse.dtype == torch.bfloat16
    assert set(given) == {torch.bfloat16}  # as the encoders give
    torch.testing.assert_close(coarse.float(), one, rtol=0.05, atol=0.05)
    assert not torch.equal(coarse.float(), one)
    with torch.inference_mode(), substitute_missing(model, masks(*PATTERNS)):
        assert torch.equal(model(**x), one)


class Apart(nn.Linear):
    """An encoder that answers in float32 whatever is asked, and has a way of its own to be copied."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()

    def __deepcopy__(self, memo: dict[int, Any]) -> Apart:
        twin = Apart(self.in_features, self.out_features)
        twin.load_state_dict(self.state_dict())
        return twin


def test_answers_have_the_type_the_encoder_gives() -> None:
    post = insert(nn.ModuleDict({"encoders": nn.ModuleDict({"a": Apart(5, 6)})}), _of_one())["encoders"]["a"]
    with torch.autocast("cpu", torch.bfloat16):
        assert post(torch.randn(3, 5)).dtype == torch.float32


def test_what_an_encoder_does_to_be_copied_is_for_the_encoder_alone() -> None:
    model = insert(nn.ModuleDict({"encoders": nn.ModuleDict({"a": Apart(5, 6)})}), _of_one())
    twin, x = copy.deepcopy(model)["encoders"]["a"], torch.randn(3, 5)
    assert isinstance(twin, inserts.WrappedEncoder)
    assert twin.encoder is not model["encoders"]["a"].encoder
    assert torch.equal(twin(x), model["encoders"]["a"](x))


def _of_one() -> list[dict[str, Any]]:
    base = {"kind": "basis", "modality": "a", "path": "encoders.a", "part": None, "channels": None}
    return [base | {"features": WIDTH, "latent": LATENT, "hidden": 2 * LATENT}]


# ---- together with an exchange


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
def test_heads_stand_inside_exchanges_whatever_came_first(way: str, masked: bool) -> None:
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


def test_a_structure_of_both_passes_through_a_state_dict() -> None:
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


# ---- the file


def test_it_imports_the_standard_library_and_torch_only() -> None:
    tree = ast.parse(Path(inserts.__file__).read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.Call):
            assert getattr(node.func, "id", None) not in ("__import__", "exec", "eval")
    assert found - set(sys.stdlib_module_names) == {"torch"}


ALONE = """
import json, sys
sys.modules["collapsekit"] = None
sys.path.insert(0, sys.argv[1])
import torch
from torch import nn
from safetensors.torch import load_file
import inserts

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleDict({"a": nn.Linear(5, 6), "b": nn.Linear(4, 6)})
        self.head = nn.Linear(12, 3)
    def forward(self, a, b):
        return self.head(torch.cat([self.encoders["a"](a), self.encoders["b"](b)], 1))

model = inserts.insert(Mine(), json.loads(sys.argv[2])).eval()
model.load_state_dict(load_file(sys.argv[1] + "/model.safetensors"))
g = torch.Generator().manual_seed(0)
x = torch.randn(4, 5, generator=g), torch.randn(4, 4, generator=g)
with torch.no_grad():
    found = [model(*x)]
    with inserts.absent(model, {"a": torch.tensor([True, False, True, False])}):
        found.append(model(*x))
try:
    import collapsekit
except ImportError:
    print(json.dumps([f.tolist() for f in found]))
"""


class Mine(nn.Module):
    """As in ALONE."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"a": nn.Linear(5, 6), "b": nn.Linear(4, 6)})
        self.head = nn.Linear(12, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.cat([self.encoders["a"](a), self.encoders["b"](b)], 1))


def test_alone_in_a_folder_it_loads_what_was_exported(tmp_path: Path) -> None:
    model = Mine()
    structure = records(model)
    insert(model, structure)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    export_weights(model, tmp_path)
    shutil.copy(inserts.__file__, tmp_path / "inserts.py")
    command = [sys.executable, "-I", "-c", ALONE, str(tmp_path), json.dumps(structure)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    plain, substituted = (torch.tensor(f) for f in json.loads(done.stdout))
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, generator=g), torch.randn(4, 4, generator=g)
    with torch.no_grad():
        torch.testing.assert_close(plain, model(*x), rtol=1e-6, atol=1e-6)
        with substitute_missing(model, {"a": torch.tensor([True, False, True, False])}):
            torch.testing.assert_close(substituted, model(*x), rtol=1e-6, atol=1e-6)
    assert float((plain - substituted).abs().max()) > 1e-3


def test_what_the_user_s_own_hooks_change_is_what_is_gathered() -> None:
    """A pre-hook of the model that was there before the heads."""
    model, x = world()
    model.register_forward_pre_hook(lambda _, args, kw: (args, {k: 3 * v for k, v in kw.items()}), with_kwargs=True)
    inserted(model, orders=ORDERS)
    plain = model(**x)
    with substitute_missing(model, masks("")):
        assert torch.equal(model(**x), plain)


def test_the_encoder_s_own_attributes_are_seen_through_the_heads() -> None:
    model, _ = world()
    kept = {"channels": 99, "features": "mine", "latent": 7, "part": None, "modality": "m", "kind": "k"}
    for name, value in kept.items():
        setattr(model.encoders["a"], name, value)
    inserted(model, orders=ORDERS)
    assert {name: getattr(model.encoders["a"], name) for name in kept} == kept


def test_after_an_interruption_an_encoder_answers_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = world()
    inserted(model, orders=ORDERS)
    expected = model.encoders["a"](x["a"])

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, substitute_missing(model, masks("a")):
        patched.setattr(model.fusion, "forward", stop)
        with pytest.raises(KeyboardInterrupt):
            model(**x)
    assert torch.equal(model.encoders["a"](x["a"]), expected)


def test_what_was_inserted_can_be_read_off_the_model() -> None:
    """The records, in an order that gives the same model."""
    model, x = world()
    inserted(model, orders=ORDERS)
    records = inserts.inserted_in(model)
    twin, _ = world()
    insert(twin, records)
    assert inserts.inserted_in(twin) == records
    twin.load_state_dict(model.state_dict())
    with substitute_missing(model, masks("a", "b")), substitute_missing(twin, masks("a", "b")):
        assert torch.equal(twin(**x), model(**x))
    assert inserts.inserted_in(world()[0]) == []
