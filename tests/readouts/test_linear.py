"""Linear readouts and the balanced reference made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from torch import Tensor

from collapsekit.adapters.module import ModuleAdapter
from collapsekit.data.arrays import by_split
from collapsekit.errors import NumericsError
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.games.balanced_reference import BalancedReference, make_reference
from collapsekit.games.coalitions import shapley_values
from collapsekit.interventions.marginal import marginal_samples
from collapsekit.readouts.linear import L2_GRID, make_split
from collapsekit.session.session import Session
from tests.probes.credit.test_utilisation import late, world
from tests.probes.planted import study
from tests.problems import Problem, adapt, make_problem


def opened(problem: Problem, split: str = "test", drop: tuple[str, ...] = ()) -> tuple[ModuleAdapter, Features]:
    arrays = {k: v for k, v in by_split(problem.arrays, Path("d")).items() if k not in drop}
    adapter = adapt(problem.model, problem.config, arrays)
    return adapter, extract(adapter, split)


def reference(tmp_path: Path, **kwargs: Any) -> tuple[BalancedReference, ModuleAdapter, Features]:
    adapter, features = opened(make_problem(tmp_path, steps=20, **kwargs))
    readouts = {m: Session.of(adapter, features).prefix(m) for m in features.modalities}
    made = make_reference(adapter, features, readouts, marginal_samples(len(features), 4, 0))
    return made, adapter, features


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_prefix_is_sklearns_with_the_penalty_chosen_on_val(task: str, tmp_path: Path) -> None:
    problem = make_problem(tmp_path, task=task, steps=5, spread=2.0)
    adapter, features = opened(problem)
    found = Session.of(adapter, features).prefix("image")
    x = {s: features.of(s).pooled["image"].double() for s in ("train", "val", "test")}
    y = {s: features.of(s).targets for s in x}
    mean, scale = x["train"].mean(0), x["train"].std(0, unbiased=False)
    z = {s: ((v - mean) / scale).numpy() for s, v in x.items()}
    tried = []
    for l2 in L2_GRID:
        n = len(z["train"])
        if task == "classification":
            fit: Any = LogisticRegression(C=1 / (l2 * n), tol=1e-9, max_iter=5000).fit(z["train"], y["train"])
            tried.append((log_loss(y["val"], fit.predict_proba(z["val"])), l2, fit.predict_proba(z["test"])))
        else:
            fit = Ridge(alpha=l2 * n).fit(z["train"], y["train"])
            tried.append((float(((fit.predict(z["val"]) - y["val"].numpy()) ** 2).mean()), l2, fit.predict(z["test"])))
    loss, l2, expected = min(tried, key=lambda t: t[0])
    assert found.l2 == l2
    assert found.validation_loss == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(found.expected, torch.as_tensor(expected), atol=1e-4)


def test_which_examples_are_fitted_on(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, steps=0)
    adapter, features = opened(problem)
    at = make_split(adapter, features)
    assert (at.train.split, at.held.split, len(at.fit), len(at.choose)) == ("train", "val", 240, 120)
    assert at.width == 3
    for split, drop in (("val", ()), ("test", ("val",))):
        adapter, features = opened(problem, split, drop)
        at = make_split(adapter, features)
        assert at.held.split == "train"
        assert not set(at.fit.tolist()) & set(at.choose.tolist())
        assert len(at.fit) == 192
        assert len(at.choose) == 48
    for split, drop, says in (("train", (), "diagnose val or test"), ("test", ("train",), "no train split")):
        adapter, features = opened(problem, split, drop)
        with pytest.raises(NumericsError, match=says):
            make_split(adapter, features)


@pytest.mark.parametrize("outputs", [1, 3])
def test_width_of_readouts(outputs: int, tmp_path: Path) -> None:
    assert make_split(*opened(make_problem(tmp_path, outputs=outputs, steps=0))).width == (2 if outputs == 1 else 3)


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_reference_credit_adds_up(task: str, tmp_path: Path) -> None:
    made, _, features = reference(tmp_path, task=task)
    credit, _ = shapley_values(lambda k: -made.value(k).loss, 2, 8, 0)
    assert torch.allclose(credit.sum(0), made.value(0).loss - made.value(3).loss, rtol=0, atol=1e-10)
    for mask in range(4):
        truth = made.task.loss(made.value(mask).expected, features.targets).mean()
        assert float(made.value(mask).loss[0]) == pytest.approx(float(truth), rel=1e-12)


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_one_readout_is_weighted_on_held_out_examples(task: str, tmp_path: Path) -> None:
    """No other weight does better there, 0 among them, where the readout counts for nothing."""
    made, _, features = reference(tmp_path, task=task, noise=["audio"])
    for m in ("image", "audio"):
        held, here = (made.evidence[m][i] for i in (1, 0))

        def loss(weight: float, held: Tensor = held) -> float:
            natural = made.task.from_natural(made.prior + weight * held)
            return float(made.task.loss(natural, made.at.held_targets).mean())

        best = min((i / 200 for i in range(401)), key=loss)
        expected = made.task.from_natural(made.prior + best * here)
        assert torch.allclose(made.alone(m).expected, expected, atol=2e-2)
        truth = made.task.loss(made.alone(m).expected, features.targets).mean()
        assert float(made.alone(m).loss[0]) == pytest.approx(float(truth), rel=1e-12)


@given(st.integers(0, 200))
@settings(max_examples=4, deadline=None)
def test_the_reference_does_not_depend_on_the_order_of_modalities(seed: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        problem = make_problem(
            Path(folder), {"a": 2, "b": 3, "c": 2}, steps=0, seed=seed, sizes={"train": 40, "val": 24, "test": 24}
        )
        made = []
        for names in (["a", "b", "c"], ["c", "b", "a"]):
            problem.config["modalities"] = {m: f"encoders.{m}" for m in names}
            adapter, features = opened(problem)
            readouts = {m: Session.of(adapter, features).prefix(m) for m in names}
            one = make_reference(adapter, features, readouts, marginal_samples(len(features), 4, 0))
            credit, _ = shapley_values(lambda k, one=one: -one.value(k).loss, 3, 8, 0)
            made.append(dict(zip(names, credit, strict=True)))
        for m in "abc":
            assert torch.allclose(made[0][m], made[1][m], atol=1e-7)


def test_a_unit_is_never_both_fitted_on_and_held_out() -> None:
    arrays = world({"a": 1.0, "b": 1.0}, sizes={"train": 200, "test": 60})
    for x in arrays.values():
        x["patient"] = torch.arange(len(x["label"])) // 7
    s = study(late({"a": 1.0, "b": 1.0}), arrays, data={"path": "unused.npz", "group": "patient"})
    at = make_split(s.adapter, s.features)
    fitted, held = (set(at.train.units[rows].tolist()) for rows in (at.fit, at.choose))
    assert not fitted & held
    assert len(fitted | held) == 29
    assert 0.1 < len(at.choose) / 200 < 0.4
