from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from collapsekit.readouts.calibration import fitted_weights
from collapsekit.session.session import Session
from collapsekit.tasks.classification import Classification
from collapsekit.tasks.multilabel import Multilabel
from collapsekit.tasks.regression import Regression
from tests.probes.credit.test_utilisation import late, world
from tests.probes.planted import study

SIZES = {"train": 300, "val": 400, "test": 250}


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_a_model_is_drawn_to_be_as_sure_as_it_is_right(factor: float) -> None:
    s = study(late({"a": 1.5 * factor, "b": 1.2 * factor}), world({"a": 1.5, "b": 1.2}, sizes=SIZES))
    made = Session.of(s.adapter, s.features).calibration
    assert made is not None
    assert made.factor == pytest.approx(1 / factor, rel=0.2)
    task = s.adapter.task
    expected = task.expect(s.features.outputs)
    before, after = (float(task.loss(p, s.features.targets).mean()) for p in (expected, made(expected)))
    assert after < before + 0.005
    assert torch.equal(made(expected).argmax(1), (made(expected) / made.prior.exp()).argmax(1)) or after <= before


@pytest.mark.parametrize("weight", [0.0, -1.5])
def test_a_model_that_says_nothing_right_is_drawn_to_the_prior(weight: float) -> None:
    s = study(late({"a": weight, "b": 0.0}), world({"a": 1.5, "b": 1.2}, sizes=SIZES))
    made = Session.of(s.adapter, s.features).calibration
    assert made is not None
    task, y = s.adapter.task, s.features.targets
    told, prior = made(task.expect(s.features.outputs)), made.prior.exp().expand(len(s.features), -1)
    assert float(task.loss(told, y).mean()) < float(task.loss(prior, y).mean()) + 0.005
    assert torch.allclose(told, told[:1], atol=1e-3)  # the same for every example


def test_without_val_the_diagnosed_examples_say_how_sure() -> None:
    """Examples the model was trained on would say that it is right to be so sure."""
    arrays = world({"a": 1.5, "b": 1.2}, sizes={"train": 300, "test": 400})
    y = arrays["train"]["label"]
    arrays["train"]["a"] = 9.0 * torch.nn.functional.one_hot(y, 3).float()  # learned by heart
    s = study(late({"a": 3.0, "b": 2.4}), arrays)
    made = Session.of(s.adapter, s.features).calibration
    assert made is not None
    assert made.factor == pytest.approx(0.5, rel=0.25)


def test_no_train_split_no_calibration() -> None:
    s = study(late({"a": 1.0, "b": 1.0}), world({"a": 1.5, "b": 1.2}, sizes={"test": 100}))
    assert Session.of(s.adapter, s.features).calibration is None


def evidence(seed: int, n: int, width: int) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_weights_of_two_terms_are_scikit_learns_logistic_regression() -> None:
    a, b = evidence(0, 4000, 1), evidence(1, 4000, 1)
    y = (
        1.3 * a + 0.4 * b + torch.logit(torch.rand(4000, 1, generator=torch.Generator().manual_seed(2)).double()) > 0
    ).long()
    prior = torch.zeros(1, 2, dtype=torch.float64)
    terms = [torch.cat([torch.zeros_like(x), x], 1) for x in (a, b)]
    ours = fitted_weights(Classification(), prior, terms, y[:, 0], [20.0, 5.0])
    theirs = LogisticRegression(C=1e9, fit_intercept=False, tol=1e-10).fit(
        torch.cat([a, b], 1).numpy(), y[:, 0].numpy()
    )
    assert ours == pytest.approx(theirs.coef_[0].tolist(), abs=2e-4)


def test_weights_of_values_are_least_squares_within_bounds() -> None:
    a, b = evidence(3, 500, 2), evidence(4, 500, 2)
    y = 0.7 * a - 0.5 * b + 0.1 * evidence(5, 500, 2)
    prior = torch.zeros(1, 2, dtype=torch.float64)
    free = float((a * y).sum() / (a * a).sum())
    assert fitted_weights(Regression(), prior, [a], y, [20.0])[0] == pytest.approx(free, abs=1e-5)
    assert fitted_weights(Regression(), prior, [a, b], y, [20.0, 5.0])[1] == 0.0  # it misleads
    assert fitted_weights(Regression(), prior, [a], 30 * a, [20.0])[0] == 20.0


def test_labels_are_weighted_together() -> None:
    a = evidence(6, 3000, 2)
    y = (torch.rand(3000, 2, generator=torch.Generator().manual_seed(7)) < (2 * a).sigmoid()).double()
    prior = torch.zeros(1, 2, dtype=torch.float64)
    assert fitted_weights(Multilabel(), prior, [a], y, [20.0])[0] == pytest.approx(2, rel=0.1)
