"""What-if arithmetic: donors, leave-out means, coalitions and their credit."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from collapsekit.context import Progress
from collapsekit.errors import NumericsError
from collapsekit.features.batching import CHUNK
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.games.coalitions import CoalitionGame, shapley_values
from collapsekit.interventions.marginal import marginal_samples
from collapsekit.interventions.replay import predict
from collapsekit.stats.inference.jackknife import assign_groups
from collapsekit.stats.inference.leave_out import leave_out_means
from collapsekit.tasks.scoring import leave_out_metric
from tests.problems import Late, adapt


@given(st.integers(2, 60), st.integers(1, 80), st.integers(0, 999))
def test_donors_lend_each_example_once_and_never_to_itself(n: int, draws: int, seed: int) -> None:
    found = marginal_samples(n, draws, seed)
    assert len(found) == min(draws, n - 1)
    for other in found:
        assert sorted(other.tolist()) == list(range(n))
        assert not bool((other == torch.arange(n)).any())
    # No pair twice, so draws are as different as can be.
    for one, two in itertools.combinations(found, 2):
        assert not bool((one == two).any())
    assert all(torch.equal(a, b) for a, b in zip(found, marginal_samples(n, draws, seed), strict=True))


def test_donors_need_two_examples() -> None:
    with pytest.raises(NumericsError, match="at least 2 examples, found 1"):
        marginal_samples(1, 5, 0)


@given(st.integers(4, 50), st.integers(2, 16), st.integers(0, 999))
def test_leave_out_means_are_means_of_what_is_left(n: int, count: int, seed: int) -> None:
    groups = assign_groups(n, min(count, n))
    values = torch.randn(n, generator=torch.Generator().manual_seed(seed)) * 100
    found = leave_out_means(values, groups)
    kept = [values, *(values[groups != g] for g in range(int(groups.max()) + 1))]
    truth = torch.tensor([math.fsum(v.tolist()) / len(v) for v in kept], dtype=torch.float64)
    assert torch.allclose(found, truth, rtol=1e-12, atol=1e-12)


def game(m: int = 3, n: int = 40, draws: int = 4, seed: int = 0, task: str = "classification") -> CoalitionGame:
    g = torch.Generator().manual_seed(seed)
    names = [f"m{i}" for i in range(m)]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Late(dict.fromkeys(names, 3), 3)
    data: dict[str, Tensor] = {k: torch.randn(n, 3, generator=g) for k in names}
    data["label"] = torch.arange(n) % 3 if task == "classification" else torch.randn(n, 3, generator=g)
    config: dict[str, Any] = {"modalities": {k: f"encoders.{k}" for k in names}, "fusion": "fusion", "task": task}
    adapter = adapt(model, config, {"test": data})
    return CoalitionGame(adapter, extract(adapter, "test"), draws, seed, Progress())


def test_a_coalition_is_the_mean_prediction_over_really_swapped_inputs() -> None:
    """Absent modalities come together from one other example; the expectation is averaged before it is scored."""
    made = game()
    features: Features = made.features
    present = 0b010
    total = torch.zeros(len(features), 3, dtype=torch.float64)
    for other in made.donors:
        inputs = {k: v if k == "m1" else v[other] for k, v in features.inputs.items()}
        with torch.no_grad():
            total += made.adapter.model(**inputs).double().softmax(1)
    truth = total / len(made.donors)
    worth = made.value(present)
    assert torch.allclose(worth.expected, truth, atol=1e-6)
    losses = -truth.gather(1, features.targets[:, None])[:, 0].log()
    assert float(worth.loss[0]) == pytest.approx(float(losses.mean()), abs=1e-6)
    hits = (truth.argmax(1) == features.targets).double()
    for g in range(16):
        keep = features.groups != g
        assert float(worth.loss[1 + g]) == pytest.approx(float(losses[keep].mean()), abs=1e-6)
        assert float(worth.metric[1 + g]) == pytest.approx(float(hits[keep].mean()), abs=1e-12)
    assert made.names(present) == ("m1",)
    assert made.full == 0b111


@given(st.integers(2, 4), st.integers(2, 30), st.sampled_from(["classification", "regression"]), st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_credit_adds_up(m: int, n: int, task: str, seed: int) -> None:
    made = game(m, max(n, 4), 3, seed, task)
    credit, error = shapley_values(lambda k: -made.value(k).loss, m, 8, seed)
    total = made.value(0).loss - made.value(made.full).loss
    assert torch.allclose(credit.sum(0), total, rtol=0, atol=1e-10)
    assert not bool(error.any())
    assert len(made.known) == 2**m
    # By its definition: the mean marginal gain over all orders of arrival.
    for i in range(m):
        gains = []
        for order in itertools.permutations(range(m)):
            before = sum(1 << j for j in order[: order.index(i)])
            gains.append(made.value(before).loss - made.value(before | 1 << i).loss)
        assert torch.allclose(credit[i], torch.stack(gains).mean(0), atol=1e-10)


def test_sampled_credit_adds_up_and_comes_near() -> None:
    made = game(7, 20, 2)
    assert not made.exact
    credit, error = shapley_values(lambda k: -made.value(k).loss, 7, 24, 0)
    total = made.value(0).loss - made.value(made.full).loss
    assert torch.allclose(credit.sum(0), total, rtol=0, atol=1e-10)
    from collapsekit.stats import shapley

    exact = shapley.exact(torch.stack([-made.value(k).loss for k in range(1 << 7)]))
    assert bool(((credit - exact).abs() <= 6 * error + 1e-6).all())


def test_each_coalition_is_computed_once() -> None:
    made = game()
    assert made.value(3) is made.value(3)
    assert torch.equal(made.value(made.full).expected, made.adapter.task.expect(made.features.outputs))


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    made = game(2, 50)
    other = made.donors[0]
    whole = predict(made.adapter, made.features, swap={"m0": other}, scale={"m1": 0.5})
    monkeypatch.setattr("collapsekit.features.batching.CHUNK", 7)
    parts = predict(made.adapter, made.features, swap={"m0": other}, scale={"m1": 0.5})
    assert torch.allclose(whole.outputs, parts.outputs, atol=1e-6)
    assert CHUNK > 50


def test_leave_out_metric_is_the_metric_of_what_is_left() -> None:
    made = game()
    task, features = made.adapter.task, made.features
    expected = task.expect(features.outputs)
    found = leave_out_metric(task, expected, features.targets, features.groups)
    keep = features.groups != 5
    assert float(found[6]) == task.metric(expected[keep], features.targets[keep])
