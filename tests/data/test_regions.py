"""Parts of a field: taken out and put back, they are what NumPy and a loop over tokens say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collapsekit.config.regions import parse_slice, parse_where
from collapsekit.data.regions import need_disjoint, put_region, region_lengths, take_region
from collapsekit.errors import ConfigError

INDICES = ["[1]", "[:2]", "[..., 0]", "[:, 1:]", "[2, ..., ::2]", "[-1]"]


@pytest.mark.parametrize("text", INDICES)
def test_a_slice_is_numpy_s_of_every_example(text: str) -> None:
    x = torch.randn(4, 3, 5)
    region = parse_slice("x", text)
    wanted = np.stack([eval(f"one{text}", {"one": one}) for one in x.numpy()])  # the reference may evaluate: it is ours
    assert torch.equal(take_region(region, {"x": x}), torch.from_numpy(wanted))


@pytest.mark.parametrize("text", INDICES)
def test_a_slice_put_back_is_the_field_and_nothing_else_moves(text: str) -> None:
    x = torch.randn(4, 3, 5)
    region = parse_slice("x", text)
    part = take_region(region, {"x": x})
    assert torch.equal(put_region(region, {"x": x}, part), x)
    moved = put_region(region, {"x": x}, torch.full_like(part, 9.0))
    assert int((moved == 9).sum()) == part.numel()
    assert torch.equal(moved[moved != 9], x[moved != 9])
    assert not bool((x == 9).any())  # the batch itself stays


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from(["s == 1", "s != 0", "s in [0, 2]", "s >= 1"]))
def test_tokens_of_a_condition_are_those_of_a_loop(seed: int, text: str) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(1, 50, (5, 7), generator=g)
    s = torch.randint(0, 3, (5, 7), generator=g)
    s[0, 0] = 2 if "2" in text or ">=" in text or "!=" in text else 1
    if text == "s == 1":
        s[0, 0] = 1
    region = parse_where("x", text)
    inside = {"s == 1": s == 1, "s != 0": s != 0, "s in [0, 2]": (s == 0) | (s == 2), "s >= 1": s >= 1}[text]
    part = take_region(region, {"x": x, "s": s})
    for i in range(5):
        own = x[i][inside[i]]
        assert torch.equal(part[i, : len(own)], own)
        assert not bool(part[i, len(own) :].any())
    counts = region_lengths(region, {"x": x, "s": s})
    assert counts is not None
    assert torch.equal(counts, inside.sum(1))
    assert torch.equal(put_region(region, {"x": x, "s": s}, part), x)


def test_vectors_of_tokens_move_as_a_whole() -> None:
    x, s = torch.randn(3, 4, 2), torch.tensor([[0, 1, 1, 0]] * 3)
    region = parse_where("x", "s == 1")
    part = take_region(region, {"x": x, "s": s})
    assert torch.equal(part[:, :2], x[:, 1:3])
    swapped = put_region(region, {"x": x, "s": s}, part.roll(1, 0))
    assert torch.equal(swapped[:, 1:3], x[:, 1:3].roll(1, 0))
    assert torch.equal(swapped[:, [0, 3]], x[:, [0, 3]])


def test_what_a_field_has_no_part_of() -> None:
    x = torch.randn(4, 3)
    with pytest.raises(ConfigError, match=r"beyond 'x', of which an example has shape \(3,\)"):
        take_region(parse_slice("x", "[5]"), {"x": x})
    with pytest.raises(ConfigError, match="empty"):
        take_region(parse_slice("x", "[3:]"), {"x": x})
    with pytest.raises(ConfigError, match="holds float32, expected whole numbers"):
        take_region(parse_where("x", "s == 1"), {"x": x, "s": torch.rand(4, 3)})
    with pytest.raises(ConfigError, match="one whole number a token"):
        take_region(parse_where("x", "s == 1"), {"x": x, "s": torch.ones(4, 2, dtype=torch.long)})
    with pytest.raises(ConfigError, match="no example has a token"):
        take_region(parse_where("x", "s == 7"), {"x": x, "s": torch.ones(4, 3, dtype=torch.long)})


def test_parts_that_overlap_are_refused() -> None:
    x = torch.randn(2, 4)
    one, other, third = (parse_slice("x", t) for t in ("[:2]", "[2:]", "[1:3]"))
    need_disjoint([("a", one), ("b", other)], {"x": x})
    with pytest.raises(ConfigError, match="'c' shares a part of 'x' with 'a' or 'b'"):
        need_disjoint([("a", one), ("b", other), ("c", third)], {"x": x})
