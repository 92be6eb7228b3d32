from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.games.coalitions import shapley_values
from collapsekit.interventions.marginal import marginal_samples
from collapsekit.session.session import Session
from collapsekit.stats.inference.bounds import NOT_NEGATIVE
from collapsekit.stats.inference.sums import Part, difference_interval
from tests.probes.planted import Apply, Planted, Study, linear, noise, plain, study

N = 90
DRAWS = 4


def data(modalities: str, n: int = N) -> dict[str, Tensor]:
    x = {m: noise(i, n, 3) for i, m in enumerate(modalities)}
    return {**x, "label": (sum(v[:, 0] for v in x.values()) > 0).long() + (x[modalities[0]][:, 1] > 1).long()}


def nonlinear(modalities: str, n: int = N) -> Study:
    """Encoders with weights of their own, so that a rerun of them differs from a replay unless both are right."""
    encoders = {m: nn.Sequential(linear(noise(10 + i, 3, 3)), nn.Tanh()) for i, m in enumerate(modalities)}
    fusion = nn.Sequential(linear(noise(20, 8, 3 * len(modalities))), nn.ReLU())
    return study(Planted(encoders, fusion, linear(noise(21, 3, 8))), {"test": data(modalities, n)})


def naive_worths(s: Study, others: list[Tensor]) -> dict[frozenset[str], tuple[float, float]]:
    """Minus loss, and accuracy, of every subset, by calling the model itself on inputs put together by hand."""
    model, x, y = s.adapter.model, s.features.inputs, s.features.targets
    out = {}
    for k in range(len(x) + 1):
        for present in itertools.combinations(x, k):
            predicted = []
            for other in others:
                given = {m: (x[m] if m in present else x[m][other]) for m in x}
                with torch.no_grad():
                    predicted.append(model(**given).double().softmax(1))
            p = torch.stack(predicted).mean(0).numpy()
            rows = np.arange(len(y))
            out[frozenset(present)] = (
                float(np.log(p[rows, y.numpy()]).mean()),
                float((p.argmax(1) == y.numpy()).mean()),
            )
    return out


def naive_shapley(worth: Callable[[frozenset[str]], float], players: str) -> dict[str, float]:
    """Mean gain over all orders of arrival."""
    total = dict.fromkeys(players, 0.0)
    orders = list(itertools.permutations(players))
    for order in orders:
        for i, p in enumerate(order):
            total[p] += worth(frozenset(order[: i + 1])) - worth(frozenset(order[:i]))
    return {p: v / len(orders) for p, v in total.items()}


@pytest.mark.parametrize("modalities", ["ab", "abcd"])
def test_credit_is_that_of_a_model_really_run_on_resampled_inputs(modalities: str) -> None:
    s = nonlinear(modalities)
    found = s.run("reliance", draws=DRAWS)
    worths = naive_worths(s, marginal_samples(N, DRAWS, 0))
    everyone = frozenset(modalities)
    for which, suffix in ((0, ""), (1, "_metric")):
        expected = naive_shapley(lambda present, w=which: worths[present][w], modalities)
        for m in modalities:
            assert found[f"shapley{suffix}", m, None].value == pytest.approx(expected[m], abs=1e-6)
            drop = worths[everyone][which] - worths[everyone - {m}][which]
            assert found[f"leave_one_out{suffix}", m, None].value == pytest.approx(drop, abs=1e-6)
    curve = found["subsets", None, None].curve
    for label, y in zip(curve.x, curve.y, strict=True):
        present = frozenset() if label == "(none)" else frozenset(str(label).split("+"))
        assert y == pytest.approx(-worths[present][0], abs=1e-6)
    assert len(curve.x) == 2 ** len(modalities)
    assert curve.x[0] == "(none)"
    assert curve.x[-1] == "+".join(modalities)


@pytest.mark.parametrize("modalities", ["ab", "abcdefg"])
def test_credits_add_up_to_what_the_model_gains(modalities: str) -> None:
    found = nonlinear(modalities, 40).run("reliance", draws=2, permutations=5)
    total = sum(found["shapley", m, None].value for m in modalities)
    gain = found["empty_loss", None, None].value - found["full_loss", None, None].value
    assert total == pytest.approx(gain, abs=1e-10)
    gain = found["full_metric", None, None].value - found["empty_metric", None, None].value
    assert sum(found["shapley_metric", m, None].value for m in modalities) == pytest.approx(gain, abs=1e-10)


def signs(names: str, label: Callable[[dict[str, Tensor]], Tensor], n: int = 64) -> dict[str, Tensor]:
    """Every combination of signs equally often."""
    rows = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=len(names))))
    x = rows.repeat(n // len(rows), 1)
    # The rows must differ for a canonical order to exist; the second column is not read.
    given = {m: torch.stack([x[:, i], noise(i, n)], 1) for i, m in enumerate(names)}
    return {**given, "label": label({m: v[:, 0] for m, v in given.items()}).long()}


def reading(names: str, function: Callable[..., Tensor]) -> Planted:
    """A fusion that reads the first column of each modality and says the label with certainty."""

    def fuse(x: Tensor) -> Tensor:
        said = function(*(x[:, 2 * i] for i in range(len(names))))
        return torch.stack([-10 * said, 10 * said], 1)

    return Planted(plain(names), Apply(fuse))


def test_both_halves_of_an_xor_get_half_of_the_credit() -> None:
    arrays = signs("ab", lambda x: x["a"] * x["b"] > 0)
    found = study(reading("ab", lambda a, b: a * b), {"test": arrays}).run("reliance", draws=63)
    gain = found["empty_loss", None, None].value - found["full_loss", None, None].value
    for m in "ab":
        assert found["shapley", m, None].value == pytest.approx(gain / 2, rel=0.02)
        assert found["leave_one_out", m, None].value == pytest.approx(gain, rel=0.05)
    singles = dict(zip(found["subsets", None, None].curve.x, found["subsets", None, None].curve.y, strict=True))
    assert singles["a"] == pytest.approx(math.log(2), rel=0.05)


def test_copies_share_credit_and_what_is_not_read_gets_none() -> None:
    arrays = signs("abc", lambda x: x["a"] > 0)
    arrays["b"] = arrays["a"].clone()
    found = study(reading("abc", lambda a, b, c: (a + b) / 2), {"test": arrays}).run("reliance", draws=40)
    assert found["shapley", "a", None].value == pytest.approx(found["shapley", "b", None].value, rel=1e-6)
    assert found["shapley", "a", None].value > 0.3
    for suffix in ("", "_metric"):
        for name in ("shapley", "leave_one_out"):
            r = found[f"{name}{suffix}", "c", None]
            assert r.value == pytest.approx(0, abs=1e-12)
            assert r.interval == pytest.approx((0, 0), abs=1e-12)


def test_credit_of_a_linear_regression_is_variance() -> None:
    # y = 2a + b, predicted exactly: taking a away leaves its variance, twice of it with one draw's own variance on top.
    n = 4000
    x = {"a": noise(0, n, 1), "b": noise(1, n, 1)}
    y = 2 * x["a"] + x["b"]
    s = study(Planted(plain("ab"), linear([[2.0, 1.0]])), {"test": {**x, "label": y}}, task="regression")
    draws = 16
    found = s.run("reliance", draws=draws)
    for m, weight in (("a", 2), ("b", 1)):
        assert found["shapley", m, None].value == pytest.approx(weight**2 * (1 + 1 / draws), rel=0.08)
    assert found["empty_metric", None, None].value == pytest.approx(-1 / draws, abs=0.02)


def test_intervals_of_sampled_orders_cover_the_exact_credits() -> None:
    modalities = "abcdefg"
    s = nonlinear(modalities, 64)
    worths = naive_worths(s, marginal_samples(64, 2, 0))
    exact = naive_shapley_by_subset(lambda present: worths[present][0], modalities)
    found = s.run("reliance", draws=2, permutations=12)
    for m in modalities:
        low, high = found["shapley", m, None].interval
        assert low <= exact[m] <= high
        assert "sampled over 12 orders" in found["shapley", m, None].definition
    assert [found["shapley", m, None].value for m in modalities] != pytest.approx(
        [exact[m] for m in modalities], abs=1e-9
    )
    curve = found["subsets", None, None]
    assert len(curve.curve.x) == 2 + 2 * 7
    assert "more than 6" in curve.note


def naive_shapley_by_subset(worth: Callable[[frozenset[str]], float], players: str) -> dict[str, float]:
    out = {}
    m = len(players)
    for p in players:
        rest = [q for q in players if q != p]
        out[p] = sum(
            math.factorial(k)
            * math.factorial(m - 1 - k)
            / math.factorial(m)
            * (worth(frozenset((*s, p))) - worth(frozenset(s)))
            for k in range(m)
            for s in itertools.combinations(rest, k)
        )
    return out


def test_sampled_orders_widen_the_interval_by_their_standard_error() -> None:
    s = nonlinear("abcdefg", 64)
    found = s.run("reliance", draws=2, permutations=3)
    game = Session.of(s.adapter, s.features).game_of(2)
    credit, error = shapley_values(lambda mask: -game.value(mask).loss, 7, 3, 0)
    for i, m in enumerate("abcdefg"):
        held, _ = shapley_values(lambda mask, i=i: -game.value(mask).loss * (mask >> i & 1), 7, 3, 0)
        parts = (Part(-values, NOT_NEGATIVE) for values in (held[i], held[i] - credit[i]))
        ends = (-float(end) for end in reversed(difference_interval(*parts, 0.95)))
        value, got = float(credit[i, 0]), found["shapley", m, None].interval
        for end, exact in zip(got, ends, strict=True):
            assert abs(end - value) == pytest.approx(math.hypot(exact - value, 1.959964 * float(error[i, 0])), rel=1e-6)


def test_a_credit_has_the_jackknife_interval_of_paired_differences() -> None:
    from scipy.stats import t as student_t

    s = nonlinear("ab")
    other = marginal_samples(N, DRAWS, 0)
    model, x, y = s.adapter.model, s.features.inputs, s.features.targets
    with torch.no_grad():
        gone = torch.stack([model(a=x["a"][o], b=x["b"]).double().softmax(1) for o in other]).mean(0)
        each = (
            F.nll_loss(gone.log(), y, reduction="none") - F.cross_entropy(model(**x).double(), y, reduction="none")
        ).numpy()
    groups = np.arange(N) % 16
    out = np.array([each[groups != g].mean() for g in range(16)])
    half = student_t.ppf(0.975, 15) * np.sqrt(15 / 16 * ((out - out.mean()) ** 2).sum())
    r = s.run("reliance", draws=DRAWS)["leave_one_out", "a", None]
    assert r.value == pytest.approx(each.mean(), abs=1e-6)
    # Beyond that: who lent the rest, skewness, and losses that are not below 0.
    assert 0.95 * half < (r.interval[1] - r.interval[0]) / 2 < 1.3 * half
    losses = (Part(Session.of(s.adapter, s.features).game_of(DRAWS).value(mask).loss, NOT_NEGATIVE) for mask in (2, 3))
    assert r.interval == pytest.approx([float(end) for end in difference_interval(*losses, 0.95)], abs=1e-9)


def test_intervals_cover_the_credit_on_a_population() -> None:
    modalities, draws, size, datasets = "ab", 4, 200, 100
    weight = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [2.0, 0.5, 0.0, 1.0, -0.5, 0.3]])

    def world(seed: int, n: int) -> Study:
        x = {m: noise(2 * seed + i, n, 3) for i, m in enumerate(modalities)}
        logit = 1.5 * x["a"][:, 0] + 1.2 * x["b"][:, 0]
        label = (torch.rand(n, generator=torch.Generator().manual_seed(seed)) < torch.sigmoid(logit)).long()
        return study(Planted(plain(modalities), linear(weight)), {"test": {**x, "label": label}})

    truth = world(10_000, 20_000).run("reliance", draws=draws)
    inside = dict.fromkeys(modalities, 0)
    for k in range(datasets):
        found = world(k, size).run("reliance", draws=draws)
        for m in modalities:
            low, high = found["shapley", m, None].interval
            inside[m] += low <= truth["shapley", m, None].value <= high
    # 95 % nominal; 88 of 100 has probability under 0.5 % if that is what it is.
    assert min(inside.values()) >= 88, inside


def test_the_default_number_of_draws_grows_with_the_classes() -> None:
    def draws(classes: int, task: str = "classification") -> str:
        n = 400
        label = torch.arange(n) % classes if task == "classification" else noise(3, n, classes)
        model = Planted(plain("ab"), linear(noise(1, classes, 4)))
        s = study(model, {"test": {"a": noise(4, n, 2), "b": noise(5, n, 2), "label": label}}, task=task)
        return s.run("reliance")["shapley", "a", None].definition

    assert "averaged over 32 of them" in draws(2)
    assert "averaged over 80 of them" in draws(10)
    assert "averaged over 256 of them" in draws(40)
    assert "averaged over 32 of them" in draws(10, "regression")


def test_no_more_draws_than_other_examples_and_every_text_says_so() -> None:
    found = nonlinear("ab", 20).run("reliance", draws=50)
    for key in (("shapley", "a", None), ("empty_loss", None, None), ("subsets", None, None)):
        assert "averaged over 19 of them" in found[key].definition


def test_a_model_that_says_nothing_has_no_credit_and_no_nan() -> None:
    s = study(Planted(plain("ab"), linear(torch.zeros(3, 6))), {"test": data("ab")})
    found = s.run("reliance", draws=3)
    for m in "ab":
        assert found["shapley", m, None].value == 0
    assert found["full_loss", None, None].value == pytest.approx(math.log(3))


def test_renaming_modalities_renames_results() -> None:
    one = nonlinear("ab")
    arrays = data("ab")
    encoders = {"b": one.adapter.model.encoders["a"], "a": one.adapter.model.encoders["b"]}
    swapped = {"b": arrays["a"], "a": arrays["b"], "label": arrays["label"]}
    other = study(Planted(encoders, one.adapter.model.fusion, one.adapter.model.head), {"test": swapped})
    before, after = one.run("reliance", draws=3), other.run("reliance", draws=3)
    name = {"a": "b", "b": "a"}
    for (kind, m, _), r in before.items():
        if m is not None:
            assert after[kind, name[m], None].value == pytest.approx(r.value, abs=1e-12)
            assert after[kind, name[m], None].interval == pytest.approx(r.interval, abs=1e-12)
