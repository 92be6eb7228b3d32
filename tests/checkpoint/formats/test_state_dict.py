from __future__ import annotations

from typing import Any

import pytest

from collapsekit.checkpoint.formats.layout import Located, Odd
from collapsekit.checkpoint.formats.pickle_vm import VERSIONS, StandIn
from collapsekit.checkpoint.formats.state_dict import EMA_KEYS, MAIN_KEYS, Weights, find_weights

T = Located("float32", (), ())
A, B = {"a": T}, {"b": T}
MODULE = StandIn("gone.Net", (), {"weight": T})


def deep(levels: int) -> Any:
    """A state dict within as many dicts."""
    value: Any = A
    for _ in range(levels):
        value = {"model": value}
    return value


@pytest.mark.parametrize(
    ("loaded", "found"),
    [
        # itself
        (A, Weights(A)),
        ({"a": T, "o": Odd("sparse")}, Weights({"a": T, "o": Odd("sparse")})),
        ({"a": T, "epoch": 3, 7: T}, Weights(A, other=2)),
        (StandIn("gone.State", mapping=A), Weights(A)),
        # a usual key, the first of MAIN_KEYS before the others, and before tensors beside it
        *[({k: A, "epoch": 1, "x": T}, Weights(A, k)) for k in MAIN_KEYS],
        ({"params": B, "net": B, "state_dict": A}, Weights(A, "state_dict")),
        ({"state_dict": {}, "model": A}, Weights(A, "model")),
        ({"model": StandIn("gone.State", mapping=A)}, Weights(A, "model")),
        # nested, not without end
        (deep(2), Weights(A, "model.model")),
        (deep(3), Weights(A, "model.model.model")),
        (deep(4), None),
        # an EMA twin is left out, whatever its depth, and taken where there is nothing else
        *[({k: B, "model": A}, Weights(A, "model", twin=k)) for k in EMA_KEYS],
        *[({k: B, "epoch": 1}, Weights(B, k)) for k in EMA_KEYS],
        ({"ema": B, "a": T}, Weights(A, twin="ema", other=1)),
        ({"ema": {"module": B}, "model": A}, Weights(A, "model", twin="ema.module")),
        ({"model": {"ema": B, "module": A}}, Weights(A, "model.module", twin="model.ema")),
        ({"model": {"ema": B, "module": A}, "ema": B}, Weights(A, "model.module", twin="model.ema")),
        ({"ema": {"decay": 0.9}, "model": A}, Weights(A, "model")),
        ({"ema": B, "net_a": A}, Weights(A, "net_a", twin="ema")),
        # several side by side are joined; one alone is taken
        ({"one": A, "two": B}, Weights({"one.a": T, "two.b": T}, parts=("one", "two"))),
        ({"one": {**A, "n": 1}, "two": B, "ema": B}, Weights({"one.a": T, "two.b": T}, None, "ema", ("one", "two"), 1)),
        ({"one": {"model": A}, "epoch": 1}, Weights(A, "one.model")),
        ({"one": StandIn("gone.State", mapping=A), "two": B}, Weights({"one.a": T, "two.b": T}, parts=("one", "two"))),
        ({"one": A, 5: B}, Weights(A, "one")),
        # fewer tensors in parts than beside them
        ({"a": T, "b": T, "extra": {"c": T}}, Weights({"a": T, "b": T}, other=1)),
        # what trains the model is no part of it
        *[({"net_a": A, k: B}, Weights(A, "net_a")) for k in ("optimizer", "scheduler", "scaler", "rng", "config")],
        ({"optimizer": B}, None),
        # a pickled module under a main key: nothing is taken in its stead
        ({"model": MODULE, "ema": B}, None),
        ({"model": MODULE, "net_a": A}, None),
        ({"model": MODULE, "a": T}, None),
        ({"model": MODULE, "state_dict": A}, Weights(A, "state_dict")),
        ({"net_a": MODULE, "ema": B}, Weights(B, "ema")),
        (MODULE, None),
        # nothing
        ({}, None),
        ({"epoch": 1}, None),
        ({7: T}, None),
        ([T], None),
        (T, None),
        (None, None),
    ],
)
def test_which_are_the_weights(loaded: Any, found: Weights | None) -> None:
    assert find_weights(loaded) == found


def test_what_contains_itself_is_looked_through_once_a_level() -> None:
    loop: dict[str, Any] = {"epoch": 1}
    loop.update(model=loop, ema=loop, one=loop)
    assert find_weights(loop) is None
    loop["a"] = T
    assert find_weights(loop) == Weights(A, "model.model.model", twin="model.model.ema", other=4)


def test_no_more_parts_than_a_model_has() -> None:
    parts = {f"part{i}": {"a": T} for i in range(64)}
    found = find_weights(parts)
    assert found is not None
    assert len(found.entries) == len(found.parts) == 64
    assert find_weights({**parts, "one more": {"a": T}}) is None


def test_what_counts_as_a_tensor_is_the_caller_s() -> None:
    assert find_weights({"a": 1, "b": "x"}, (int,)) == Weights({"a": 1}, other=1)
    assert find_weights({"model": A}, (int,)) is None


def test_what_a_state_dict_tells_of_its_modules_is_taken_in_plain_values() -> None:
    told = {
        "": {"version": 1},
        "a": {"spectral_norm": {"w.version": 1, 3: 4}},
        "b": {},
        5: {"version": 2},
        "c": {"x": T},
    }
    plain = {"": {"version": 1}, "a": {"spectral_norm": {"w.version": 1}}}
    assert find_weights({**A, VERSIONS: told}) == Weights(A, versions=plain)
    assert find_weights({"model": {**A, VERSIONS: told}}) == Weights(A, "model", versions=plain)
    joined = find_weights({"one": {**A, VERSIONS: told}, "two": B})
    assert joined is not None
    assert joined.versions == {"one": {"version": 1}, "one.a": {"spectral_norm": {"w.version": 1}}}
    odd = {"a": {"n": 1 << 64, "s": "x" * 201, "y" * 201: 1, "deep": {"a": {"b": {"c": 1}}}, "ok": True}}
    assert find_weights({**A, VERSIONS: odd}) == Weights(A, versions={"a": {"deep": {"a": {}}, "ok": True}})
    for wrong in (None, [1], T):
        assert find_weights({**A, VERSIONS: wrong}) == Weights(A)


def test_averages_may_be_a_list_in_the_order_of_the_parameters() -> None:
    found = find_weights({"model": A, "ema": {"decay": 0.9, "shadow_params": [T, T]}})
    assert found is not None
    assert found.entries == A
    assert found.averaged is not None
    assert found.averaged.entries == {"0": T, "1": T}
