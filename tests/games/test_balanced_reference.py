from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from collapsekit.games.balanced_reference import BalancedReference, make_reference
from collapsekit.interventions.marginal import marginal_samples
from collapsekit.readouts.calibration import DOUBT
from collapsekit.readouts.linear import make_split
from collapsekit.session.session import Session
from tests.probes.credit.test_utilisation import CLASSES, late, world
from tests.probes.planted import Planted, Study, linear, noise, plain, study

SIZES = {"train": 300, "val": 200, "test": 250}


def made(s: Study) -> BalancedReference:
    readouts = {m: Session.of(s.adapter, s.features).prefix(m) for m in s.features.modalities}
    return make_reference(s.adapter, s.features, readouts, marginal_samples(len(s.features), 8, 0))


@pytest.fixture(scope="module")
def both() -> Study:
    return study(late({"a": 1.5, "b": 0.0}), world({"a": 1.5, "b": 1.2}, sizes=SIZES))


def numpy_loss(natural: np.ndarray, y: Tensor) -> float:
    shifted = natural - natural.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-log_p[np.arange(len(y)), y.numpy()].mean())


def test_nothing_present_is_the_best_constant(both: Study) -> None:
    train, y = both.features.of("train").targets, both.features.targets
    shares = (torch.bincount(train, minlength=CLASSES) + 1).double() / (len(train) + CLASSES)
    assert float(made(both).constant().loss[0]) == pytest.approx(-float(shares[y].log().mean()), abs=1e-12)


def test_weights_are_the_best_on_held_out_examples(both: Study) -> None:
    reference = made(both)
    prior = reference.prior.numpy()
    held_y = both.features.of("val").targets
    for names, loss in (
        ("a", reference.alone("a").loss),
        ("b", reference.alone("b").loss),
        ("ab", reference.value(3).loss),
    ):
        here, held = (sum(reference.evidence[m][i].numpy() for m in names) for i in (0, 1))
        # One label in fifty drawn from the prior where all evidence is summed; see calibrate.DOUBT.
        doubt = 0.02 if names == "ab" else 0.0

        def smoothed(w: float, h: np.ndarray = held, doubt: float = doubt) -> float:
            natural = prior + w * h
            drawn = sum(float(np.exp(prior[0, c])) * numpy_loss(natural, held_y * 0 + c) for c in range(CLASSES))
            return (1 - doubt) * numpy_loss(natural, held_y) + doubt * drawn

        best = minimize_scalar(smoothed, bounds=(0, 2), method="bounded")
        assert float(loss[0]) == pytest.approx(numpy_loss(prior + best.x * here, both.features.targets), abs=1e-5)


def test_the_reference_plays_the_models_game(both: Study) -> None:
    """A model that is this very late fusion has the same worth for every subset."""
    reference = made(both)
    n = len(both.features)
    for mask in (0, 1, 2, 3):
        total = np.zeros((n, CLASSES))
        for other in reference.donors:
            natural = reference.prior.numpy().repeat(n, 0)
            for i, m in enumerate("ab"):
                e = reference.evidence[m][0].numpy()
                natural = natural + reference.weight * (e if mask >> i & 1 else e[other.numpy()])
            p = np.exp(natural)
            total += p / p.sum(1, keepdims=True)
        p = total[np.arange(n), both.features.targets.numpy()] / len(reference.donors)
        assert float(reference.value(mask).loss[0]) == pytest.approx(-np.log(p).mean(), abs=1e-9)


def test_all_together_is_worth_more_than_one_and_nearly_what_the_truth_is(both: Study) -> None:
    reference = made(both)
    together, alone = float(reference.value(3).loss[0]), [float(reference.alone(m).loss[0]) for m in "ab"]
    assert together < min(alone) < max(alone) < float(reference.constant().loss[0])
    x = both.features.inputs
    bayes = numpy_loss((1.5 * x["a"] + 1.2 * x["b"]).double().numpy(), both.features.targets)
    assert together == pytest.approx(bayes, abs=0.03)


def test_a_copy_adds_nothing_and_shares_the_worth() -> None:
    arrays = world({"a": 1.5}, sizes=SIZES)
    arrays = {k: {"a": v["a"], "b": v["a"].clone(), "label": v["label"]} for k, v in arrays.items()}
    reference = made(study(late({"a": 1.5, "b": 0.0}), arrays))
    assert reference.weight == pytest.approx(reference.weight_of(["a"], DOUBT) / 2, rel=1e-4)
    alone = (reference.prior + 2 * reference.weight * reference.evidence["a"][0]).numpy()
    y = reference.features.targets
    assert float(reference.value(3).loss[0]) == pytest.approx(numpy_loss(alone, y), abs=1e-9)
    assert torch.allclose(reference.value(1).loss, reference.value(2).loss)


def test_every_readout_is_calibrated_before_it_is_added(both: Study) -> None:
    readouts = {m: Session.of(both.adapter, both.features).prefix(m) for m in "ab"}
    task = both.adapter.task

    def surer(p: Tensor) -> Tensor:
        return (1.8 * p.log()).softmax(1)

    sure = replace(readouts["a"], expected=surer(readouts["a"].expected), validation=surer(readouts["a"].validation))
    other = marginal_samples(len(both.features), 8, 0)
    plain_, changed = (
        make_reference(both.adapter, both.features, {**readouts, "a": a}, other) for a in (readouts["a"], sure)
    )
    assert task.metric(plain_.value(3).expected, both.features.targets) > 0.7
    assert torch.allclose(plain_.value(3).loss, changed.value(3).loss, atol=5e-3)


def test_evidence_that_misleads_gets_no_weight(both: Study) -> None:
    reference = made(both)
    reference.evidence = {m: (-here, -held) for m, (here, held) in reference.evidence.items()}
    assert reference.weight == 0
    for mask in range(4):
        assert torch.allclose(reference.value(mask).loss, reference.constant().loss)


def model_of(s: Study) -> tuple[Tensor, Tensor]:
    task = s.adapter.task
    return task.expect(s.features.outputs), task.expect(s.features.of("val").outputs)


def test_adding_evidence_finds_the_weights_a_grid_finds(both: Study) -> None:
    reference = made(both)
    model, model_held = model_of(both)
    prior = reference.prior.numpy()
    base, base_held = np.log(model.numpy()) - prior, np.log(model_held.numpy()) - prior
    here, held = (e.numpy() for e in reference.evidence["b"])
    y = both.features.of("val").targets
    grid = [
        (numpy_loss(prior + a * base_held + b * held, y), a, b)
        for a in np.linspace(0.5, 1.5, 41)
        for b in np.linspace(0, 2, 41)
    ]
    _, a, b = min(grid)
    expected = numpy_loss(prior + a * base + b * here, both.features.targets)
    found = reference.added("b", model, model_held)
    loss = float(both.adapter.task.loss(found, both.features.targets).mean())
    assert loss == pytest.approx(expected, abs=3e-3)
    # On the examples the weights were fitted on, more freedom is never worse.
    on_held = [
        float(both.adapter.task.loss(reference.added(m, model_held, model_held), y).mean())
        if m is None
        else min(grid)[0]
        for m in (None, "b")
    ]
    assert on_held[1] < on_held[0]


def test_adding_nothing_to_a_calibrated_model_leaves_its_choices() -> None:
    s = study(late({"a": 1.5, "b": 1.2}), world({"a": 1.5, "b": 1.2}, sizes=SIZES))
    model, held = model_of(s)
    found = made(s).added(None, model, held)
    assert float((found.argmax(1) == model.argmax(1)).double().mean()) > 0.99
    assert float((found - model).abs().max()) < 0.15


def test_a_model_sure_of_itself_is_tempered_before_evidence_is_added() -> None:
    s = study(late({"a": 15.0, "b": 0.0}), world({"a": 1.5, "b": 1.2}, sizes=SIZES))
    model, held = model_of(s)
    reference = made(s)
    task, y = s.adapter.task, s.features.targets
    with_b, alone = reference.added("b", model, held), reference.added(None, model, held)
    assert float(task.loss(alone, y).mean()) < 0.3 * float(task.loss(model, y).mean())
    assert task.metric(with_b, y) > task.metric(model, y) + 0.03


def test_regression_adds_values_about_the_mean() -> None:
    def real(n: int, seed: int) -> dict[str, Tensor]:
        x = {m: noise(seed + ord(m), n, 1) for m in "ab"}
        return {**x, "label": (x["a"] + x["b"])[:, 0] + 50}

    arrays = {"train": real(200, 0), "val": real(150, 1000), "test": real(150, 2000)}
    s = study(Planted(plain("ab"), linear([[0.5, 0.0]], [50.0])), arrays, task="regression")
    reference = made(s)
    assert float(reference.value(3).loss[0]) < 0.01
    assert float(reference.prior) == pytest.approx(50, abs=0.3)
    found = reference.added("b", *model_of(s))
    before = s.adapter.task.metric(s.features.outputs.double(), s.features.targets)
    assert before < 0.5
    assert s.adapter.task.metric(found, s.features.targets) > 0.94


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_fold_judges_on_neither_what_was_fitted_nor_what_chose(both: Study, split: str) -> None:
    s = study(late({"a": 1.5, "b": 0.0}), world({"a": 1.5, "b": 1.2}, sizes=SIZES), split=split)
    at = make_split(s.adapter, s.features)
    assert at.train is not s.features
    assert at.held is not s.features
    assert not set(at.fit.tolist()) & set(at.choose.tolist()) or at.held is not at.train


def test_worths_have_the_groups_of_the_models_own(both: Study) -> None:
    game = Session.of(both.adapter, both.features).game_of(8)
    for mask in range(4):
        assert made(both).value(mask).loss.shape == game.value(mask).loss.shape


def test_weights_of_each_half_are_fitted_on_the_other(both: Study) -> None:
    """By a grid on either half; what is said of one half does not depend on its own labels."""
    reference = made(both)
    model, _ = model_of(both)
    prior, y = reference.prior.numpy(), both.features.targets
    base, here = np.log(model.numpy()) - prior, reference.evidence["b"][0].numpy()
    found = reference.added_across(("b", None), model)
    for half in (both.features.groups % 2 == 0, both.features.groups % 2 == 1):
        other = (~half).numpy()
        grid = [
            (numpy_loss(prior + a * base[other] + b * here[other], y[~half]), a, b)
            for a in np.linspace(0.5, 1.5, 41)
            for b in np.linspace(0, 2, 41)
        ]
        _, a, b = min(grid)
        expected = numpy_loss(prior + a * base[half.numpy()] + b * here[half.numpy()], y[half])
        assert float(both.adapter.task.loss(found[half], y[half]).mean()) == pytest.approx(expected, abs=5e-3)
    twin = copy.copy(reference)
    twin.features = replace(both.features, targets=torch.where(both.features.groups % 2 == 0, (y + 1) % 2, y))
    changed = twin.added_across(("b", None), model)
    odd = both.features.groups % 2 == 1
    assert torch.equal(changed[~odd], found[~odd])
    assert not torch.equal(changed[odd], found[odd])
