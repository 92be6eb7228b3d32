"""Inserts among hooks, errors and encoders that are not run: each encoder runs once, and the next pass is right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit.adapters.inserts import posts_of, substitute_missing
from tests.adapters.inserting import (
    ORDERS,
    PATTERNS,
    WIDTH,
    WORLD,
    Encoder,
    Interrupted,
    Model,
    inserted,
    masks,
    world,
)


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


def test_a_hook_behind_a_head_receives_the_substitute() -> None:
    model, x = world()
    inserted(model, orders=ORDERS)
    heard: dict[str, Tensor] = {}
    for m, post in posts_of(model, "basis").items():
        post.register_forward_hook(lambda _m, _a, value, m=m: heard.update({m: value.detach().clone()}))
    with substitute_missing(model, masks(*PATTERNS)):
        model(**x)
    assert all(torch.equal(heard[m], given) for m, given in zip(WORLD, model.fusion.given, strict=True))


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


def test_an_encoder_that_the_model_skips_is_not_substituted() -> None:
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


def test_inputs_are_gathered_behind_the_user_s_own_hooks() -> None:
    """A pre-hook of the model that was there before the heads."""
    model, x = world()
    model.register_forward_pre_hook(lambda _, args, kw: (args, {k: 3 * v for k, v in kw.items()}), with_kwargs=True)
    inserted(model, orders=ORDERS)
    plain = model(**x)
    with substitute_missing(model, masks("")):
        assert torch.equal(model(**x), plain)


def test_after_an_interruption_an_encoder_returns_its_own_features(monkeypatch: pytest.MonkeyPatch) -> None:
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
