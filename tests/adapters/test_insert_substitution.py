"""Substitution: which encoding stands in for an absent modality, example by example."""

from __future__ import annotations

import copy
from contextlib import suppress

import pytest
import torch

from collapsekit.adapters import inserts
from collapsekit.adapters.inserts import capture_latents, posts_of, substitute_missing
from tests.adapters.inserting import (
    LAYOUTS,
    NOBODY,
    ORDERS,
    PACKS,
    PATTERNS,
    WORLD,
    Interrupted,
    N,
    by_hand,
    inserted,
    masks,
    world,
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("orders", [ORDERS, {m: tuple(reversed(o)) for m, o in ORDERS.items()}], ids=["one", "other"])
def test_the_fusion_receives_the_substitute(layout: str, orders: dict[str, tuple[str, ...]]) -> None:
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


def test_the_reference_tells_orders_and_absent_modalities_apart() -> None:
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
def test_the_input_of_an_absent_modality_does_not_matter(value: float) -> None:
    model, x = world()
    inserted(model, orders=ORDERS)
    for gone in (masks("a"), masks("ab"), masks(*PATTERNS)):
        other = {m: torch.where(gone[m][:, None], torch.full_like(v, value), v) for m, v in x.items()}
        with substitute_missing(model, gone):
            assert torch.equal(model(**x), model(**other))
        with substitute_missing(model, NOBODY):
            assert not torch.equal(model(**x), model(**other))


def test_an_example_without_any_modality_keeps_its_own_features() -> None:
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


def test_a_modality_without_a_head_cannot_be_substituted() -> None:
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


def test_substitutions_are_nested() -> None:
    model, x = world()
    inserted(model, orders=ORDERS)
    with substitute_missing(model, masks("a")):
        one = model(**x)
        with suppress(Interrupted), substitute_missing(model, masks("b")):
            assert not torch.equal(model(**x), one)
            raise Interrupted
        assert torch.equal(model(**x), one)


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


def test_substitution_works_without_gradients_and_in_bfloat16() -> None:
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
