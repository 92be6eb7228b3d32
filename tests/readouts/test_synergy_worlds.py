"""Worlds whose label is known to be synergy, redundancy or unique information, and models that are known to use it.

The synergy world is HD-XOR of Wenderoth et al. 2025 (InterSHAP): high-dimensional vectors, each of which hides one bit;
the label is the XOR of the bits. The models here compute it from the bits exactly, so what `reliance` must say is known.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from collapsekit.report.diagnosis import Result
from collapsekit.stats import shapley
from tests.probes.planted import Apply, Planted, linear, noise, study

DIMENSIONS = 100
N = 64
SURE = 40.0  # logits of an oracle: its probabilities are 0 and 1 to float64
Found = Mapping[tuple[str, str | None, str | None], Result]


def hidden_bits(count: int, n: int = N) -> Tensor:
    """Bits (n, count) as ±1: every combination equally often, so each is fair and independent of the others."""
    rows = torch.arange(n) % 2**count
    return 1 - 2 * torch.stack([rows >> i & 1 for i in range(count)], 1).float()


def hide(bits: Tensor, seed: int) -> tuple[Tensor, nn.Module]:
    """Vectors (n, 100) of noise that hold a bit along one hidden direction, and the encoder that reads it."""
    direction = torch.nn.functional.normalize(noise(seed, DIMENSIONS), dim=0)
    x = 3 * noise(seed + 100, len(bits), DIMENSIONS)
    x += (bits - x @ direction)[:, None] * direction
    return x, nn.Sequential(linear(direction[None]), Apply(torch.sign))


def diagnose(bits: Mapping[str, Tensor], label: Tensor, oracle: Callable[[Tensor], Tensor], **options: int) -> Found:
    """Reliance of an oracle: encoders that read the bits, a fusion that computes ±1 from them, and a sure head."""
    hidden = {m: hide(b, i) for i, (m, b) in enumerate(bits.items())}
    model = Planted({m: e for m, (_, e) in hidden.items()}, Apply(oracle), linear([[-SURE], [SURE]]))
    s = study(model, {"test": {**{m: x for m, (x, _) in hidden.items()}, "label": (label > 0).long()}})
    # Every other example is lent to every one, so an absent bit is exactly as often right as wrong.
    found = s.run("reliance", **{"draws": len(label) - 1, **options})
    assert found["full_metric", None, None].value == 1
    return found


def worths(found: Found, kind: str = "") -> dict[frozenset[str], float]:
    """Worth of every subset of modalities above that of none: loss saved, or metric gained."""
    curve = found[f"subsets{kind}", None, None].curve
    sign = 1 if kind else -1
    value = {frozenset(str(x).split("+")) - {"(none)"}: sign * y for x, y in zip(curve.x, curve.y, strict=True)}
    return {s: v - value[frozenset()] for s, v in value.items()}


def dividends(worth: Mapping[frozenset[str], float]) -> dict[frozenset[str], float]:
    """What each subset adds that none of its parts has (Harsanyi 1963): its interaction, for more than one modality."""
    return {s: sum((-1) ** (len(s) - len(t)) * v for t, v in worth.items() if t <= s) for s in worth}


def credits(found: Found, name: str, modalities: str) -> list[float]:
    return [found[name, m, None].value for m in modalities]


def gain(found: Found, kind: str = "") -> float:
    """Worth of the model as it is above that of knowing nothing."""
    if kind:
        return found["full_metric", None, None].value - found["empty_metric", None, None].value
    return found["empty_loss", None, None].value - found["full_loss", None, None].value


both = pytest.mark.parametrize("kind", ["", "_metric"])


@both
@pytest.mark.parametrize("modalities", ["ab", "abc"])
def test_xor_is_interaction_and_nothing_else(modalities: str, kind: str) -> None:
    bits = hidden_bits(len(modalities))
    found = diagnose(dict(zip(modalities, bits.T, strict=True)), bits.prod(1), lambda z: z.prod(1, keepdim=True))
    total = gain(found, kind)
    assert total == pytest.approx(-math.log((N / 2 - 1) / (N - 1)) if not kind else 1, abs=1e-6)
    assert total == pytest.approx(math.log(2) if not kind else 1, abs=0.02)
    worth = worths(found, kind)
    for subset, value in worth.items():  # nothing less than all of them says anything
        assert value == pytest.approx(total if len(subset) == len(modalities) else 0, abs=1e-6)
    for subset, value in dividends(worth).items():
        assert value == pytest.approx(total if len(subset) == len(modalities) else 0, abs=1e-6)
    assert credits(found, f"leave_one_out{kind}", modalities) == pytest.approx([total] * len(modalities), abs=1e-6)
    even = [total / len(modalities)] * len(modalities)
    assert credits(found, f"shapley{kind}", modalities) == pytest.approx(even, abs=1e-6)


def test_of_two_modalities_with_the_same_bit_neither_is_missed() -> None:
    bit = hidden_bits(1)[:, 0]
    found = diagnose({"a": bit, "b": bit}, bit, lambda z: z.mean(1, keepdim=True))
    assert credits(found, "leave_one_out_metric", "ab") == pytest.approx([0, 0], abs=1e-12)
    # In loss an averaging model does miss it a little: a borrowed bit that contradicts leaves it at one half.
    mixed = -math.log((N / 2 - 1 + N / 2 * 0.5) / (N - 1))
    assert credits(found, "leave_one_out", "ab") == pytest.approx([mixed] * 2, abs=1e-6)
    for kind in ("", "_metric"):
        total = gain(found, kind)
        assert credits(found, f"shapley{kind}", "ab") == pytest.approx([total / 2] * 2, abs=1e-6)
        assert dividends(worths(found, kind))[frozenset("ab")] < -0.1  # together they are worth less than one by one
    worth = worths(found, "_metric")
    assert worth[frozenset("a")] == worth[frozenset("b")] == worth[frozenset("ab")]  # either alone suffices


@both
def test_of_three_modalities_with_the_same_bit_none_is_missed_at_all(kind: str) -> None:
    bit = hidden_bits(1)[:, 0]
    found = diagnose(dict.fromkeys("abc", bit), bit, lambda z: z.mean(1, keepdim=True))
    assert credits(found, f"leave_one_out{kind}", "abc") == pytest.approx([0] * 3, abs=1e-5)  # two outvote one
    total = gain(found, kind)
    assert total > 0.6
    assert credits(found, f"shapley{kind}", "abc") == pytest.approx([total / 3] * 3, abs=1e-6)


@both
@pytest.mark.parametrize("owner", ["a", "b", "c"])
def test_unique_information_is_credited_to_its_modality_alone(owner: str, kind: str) -> None:
    bits = dict(zip("abc", hidden_bits(3).T, strict=True))
    at = "abc".index(owner)
    found = diagnose(bits, bits[owner], lambda z: z[:, [at]])
    total = gain(found, kind)
    assert total > 0.6
    expected = [total if m == owner else 0 for m in "abc"]
    for name in ("shapley", "leave_one_out"):
        assert credits(found, f"{name}{kind}", "abc") == pytest.approx(expected, abs=1e-9)
    alone = {m: worths(found, kind)[frozenset(m)] for m in "abc"}
    assert alone == pytest.approx(dict(zip("abc", expected, strict=True)), abs=1e-9)
    others = [v for s, v in dividends(worths(found, kind)).items() if s != {owner}]
    assert others == pytest.approx([0] * len(others), abs=1e-9)


def test_xor_of_two_leaves_an_idle_third_without_credit() -> None:
    bits = dict(zip("abc", hidden_bits(3).T, strict=True))
    one = diagnose(bits, bits["b"] * bits["c"], lambda z: z[:, [1]] * z[:, [2]])
    assert credits(one, "shapley", "abc") == pytest.approx([0, gain(one) / 2, gain(one) / 2], abs=1e-6)
    parts = dividends(worths(one))
    assert parts[frozenset("bc")] == pytest.approx(gain(one), abs=1e-6)
    assert sum(abs(v) for s, v in parts.items() if s != frozenset("bc")) == pytest.approx(0, abs=1e-6)


def test_swapping_names_swaps_who_is_credited() -> None:
    bits = dict(zip("abc", hidden_bits(3).T, strict=True))
    found = diagnose(
        {"c": bits["a"], "b": bits["b"], "a": bits["c"]}, bits["b"] * bits["c"], lambda z: z[:, [1]] * z[:, [2]]
    )
    assert credits(found, "shapley", "cba") == pytest.approx([0, gain(found) / 2, gain(found) / 2], abs=1e-6)


# -- credits add up ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modalities", ["ab", "abc", "abcdef", "abcdefg", "abcdefgh"])
@pytest.mark.parametrize("world", ["synergy", "redundancy", "unique"])
def test_credits_add_up_to_the_models_gain(world: str, modalities: str) -> None:
    size = len(modalities)
    bits = hidden_bits(min(size, 6)).repeat(1, 2)[:, :size]  # beyond six, the first ones come again
    given = dict(zip(modalities, bits.T, strict=True))
    if world == "synergy":
        found = diagnose(given, bits.prod(1), lambda z: z.prod(1, keepdim=True), draws=3, permutations=4)
    elif world == "redundancy":
        same = dict.fromkeys(modalities, bits[:, 0])
        found = diagnose(same, bits[:, 0], lambda z: z.mean(1, keepdim=True), draws=3, permutations=4)
    else:
        found = diagnose(given, bits[:, 1], lambda z: z[:, [1]], draws=3, permutations=4)
    sampled = "sampled over 4 orders" in found["shapley", "a", None].definition
    assert sampled == (size > 6)
    for kind in ("", "_metric"):
        assert math.fsum(credits(found, f"shapley{kind}", modalities)) == pytest.approx(gain(found, kind), abs=1e-10)


@pytest.mark.parametrize("size", range(1, 11))
def test_shapley_values_of_random_games_add_up(size: int) -> None:
    g = torch.Generator().manual_seed(size)
    values = 10 * torch.randn(2**size, 5, generator=g, dtype=torch.float64)
    gained = values[-1] - values[0]
    torch.testing.assert_close(shapley.exact(values).sum(0), gained, atol=1e-10, rtol=0)
    means, _ = shapley.sampled(lambda mask: values[mask], size, 3, g)
    torch.testing.assert_close(means.sum(0), gained, atol=1e-10, rtol=0)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_exact_credits_are_the_dividends_shared_evenly(size: int) -> None:
    """Shapley values by another way (Harsanyi 1963): each subset's dividend goes to its members in equal parts."""
    values = torch.randn(2**size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    players = "abcde"[:size]
    subsets = [frozenset(s) for k in range(size + 1) for s in itertools.combinations(players, k)]
    shared = dividends({s: float(values[sum(1 << players.index(p) for p in s)]) for s in subsets})
    expected = [sum(v / len(s) for s, v in shared.items() if p in s) for p in players]
    assert shapley.exact(values).tolist() == pytest.approx(expected, abs=1e-10)
