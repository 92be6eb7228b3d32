"""What is due to a modality is what it says, not an equal share: sensors of one quantity, each with its own noise.

The best answer weighs them by the inverse of their variances; equal credit would be wrong there, and equal weights do harm.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from collapsekit.report.verdicts import Verdicts, judge
from tests.probes.planted import Planted, Study, linear, noise, plain, study

SIZES = {"train": 600, "val": 400, "test": 600}
SPREADS = [{"a": 0.3, "b": 1.0}, {"a": 0.5, "b": 0.5}, {"a": 0.4, "b": 0.8, "c": 1.6}]


def sensors(spreads: dict[str, float]) -> dict[str, dict[str, Tensor]]:
    """A quantity of variance 1, and what each sensor reads of it."""
    out = {}
    for k, (split, n) in enumerate(SIZES.items()):
        y = noise(900 + k, n, 1)
        x = {m: y + s * noise(100 * k + ord(m), n, 1) for m, s in spreads.items()}
        out[split] = {**x, "label": y}
    return out


def best_weights(spreads: dict[str, float]) -> dict[str, float]:
    """Of the mean of the quantity given all readings: precision of each over the sum of all, the prior's 1 included."""
    precision = {m: s**-2 for m, s in spreads.items()}
    return {m: p / (1 + sum(precision.values())) for m, p in precision.items()}


def weighted(weights: dict[str, float], spreads: dict[str, float]) -> Study:
    model = Planted(plain(list(weights)), linear(torch.tensor([list(weights.values())])))
    return study(model, sensors(spreads), task="regression")


def judged(s: Study) -> Verdicts:
    return judge(s.run("utilisation").values(), s.features.modalities, "r2")


def ratio(s: Study, m: str) -> float:
    value = s.run("utilisation")["ratio", m, None].value
    assert value is not None
    return value


@pytest.mark.usefixtures("brief_joint_here")
@pytest.mark.parametrize("spreads", SPREADS, ids=str)
def test_the_best_weights_use_every_sensor_however_unequal_their_credit(spreads: dict[str, float]) -> None:
    found = weighted(best_weights(spreads), spreads)
    credit = {m: found.run("utilisation")["credit", m, None].value for m in spreads}
    loudest, faintest = min(spreads, key=lambda m: spreads[m]), max(spreads, key=lambda m: spreads[m])
    assert credit[loudest] >= credit[faintest] * (1 if spreads[loudest] == spreads[faintest] else 2)
    for m in spreads:  # what others say far more clearly is still due a tenth of what it says alone
        assert 0.6 < ratio(found, m) < 1.25, m
    assert {v.verdict for v in judged(found).each.values()} == {"used"}


@pytest.mark.usefixtures("brief_joint_here")
def test_equal_weights_do_harm_and_are_not_what_the_reference_asks_for() -> None:
    spreads = {"a": 0.3, "b": 1.0}
    best, equal = weighted(best_weights(spreads), spreads), weighted({"a": 0.5, "b": 0.5}, spreads)
    losses = [float((s.features.outputs - s.features.targets).square().mean()) for s in (best, equal)]
    assert losses[1] > 2 * losses[0]
    assert ratio(equal, "b") > 1.2  # more than it is worth, at the cost of the other
    assert ratio(equal, "a") < ratio(best, "a")


@pytest.mark.usefixtures("brief_joint_here")
def test_a_sensor_with_a_tenth_of_its_best_weight_is_not_used() -> None:
    spreads = {"a": 0.5, "b": 0.5}
    weights = best_weights(spreads)
    found = weighted({"a": weights["a"], "b": weights["b"] / 10}, spreads)
    assert judged(found).each["b"].verdict != "used"
    assert judged(found).each["a"].verdict == "used"
