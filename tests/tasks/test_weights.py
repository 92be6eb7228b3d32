"""Labels and outputs that count for more than others: the losses of models that were trained with weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import collapsekit
from collapsekit.errors import ConfigError
from collapsekit.tasks.base import Task
from collapsekit.tasks.make import make_task

HEAVY = [1.0, 4.0]  # of a 1 of each label
OUTPUTS = [1.0, 3.0]


def task(name: str, **options: object) -> Task:
    return make_task(name, metric=None, temperature=1.0, base=Path(), options=options)


def labels(n: int = 400, gaps: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=g, dtype=torch.float64)
    y = (x[:, :2] + torch.randn(n, 2, generator=g) > 1.0).double()
    y[:gaps, 0] = float("nan")
    return x, y


def test_losses_of_labels_are_torch_s() -> None:
    x, y = labels()
    weighed, weight = task("multilabel", pos_weight=HEAVY), torch.tensor(HEAVY).double()
    theirs = F.binary_cross_entropy_with_logits(x[:, :2], y, pos_weight=weight, reduction="none").mean(1)
    assert torch.allclose(weighed.loss(weighed.expect(x[:, :2]), y), theirs)
    assert float(weighed.training_loss(x[:, :2], y)) == pytest.approx(float(theirs.mean()))


def test_labels_that_are_not_known_have_no_weight() -> None:
    x, y = labels(gaps=100)
    weighed = task("multilabel", pos_weight=HEAVY)
    alone = task("multilabel", pos_weight=HEAVY[1:])
    each = weighed.loss(weighed.expect(x[:, :2]), y)
    assert torch.allclose(each[:100], alone.loss(alone.expect(x[:100, 1:2]), y[:100, 1:]))
    assert float(weighed.training_loss(x[:, :2], y)) == pytest.approx(float(each.mean()))


@pytest.mark.parametrize("gaps", [0, 100])
def test_a_weight_of_a_label_counts_as_that_many_ones(gaps: int) -> None:
    x, y = labels(gaps=gaps)
    weighed, plain = task("multilabel", pos_weight=HEAVY), task("multilabel")
    known = ~y[:, 1].isnan()
    rows = torch.repeat_interleave(torch.arange(len(y))[known], torch.where(y[known, 1] == 1, 4, 1))
    natural = weighed.to_natural(weighed.prior(y, 2))
    if not gaps:  # one more example of each kind is counted, before it is weighed
        assert float(weighed.prior(y, 2)[0, 1]) == pytest.approx(float(plain.prior(y[rows], 2)[0, 1]), abs=5e-3)
        answers = torch.full((1, 2), 0.3).double()
        by_hand = weighed.loss(answers.expand(400, 2), y).mean()
        expected = weighed.prior_loss(answers, natural)
        assert expected is not None
        assert float(expected) == pytest.approx(float(by_hand), abs=5e-3)
    a = weighed.fit_linear(x, y, 2, 1e-3).predict(x).sigmoid()[:, 1]
    b = plain.fit_linear(x[rows], y[rows], 2, 1e-3).predict(x).sigmoid()[:, 1]
    assert torch.allclose(a, b, atol=0.02)  # features are standardised by other examples
    assert not torch.allclose(a, plain.fit_linear(x, y, 2, 1e-3).predict(x).sigmoid()[:, 1], atol=0.02)


@pytest.mark.parametrize("gaps", [0, 100])
def test_one_weight_of_1_for_all_labels_is_none(gaps: int) -> None:
    x, y = labels(gaps=gaps)
    weighed, plain = task("multilabel", pos_weight=1), task("multilabel")
    answers = plain.expect(x[:, :2])
    assert torch.equal(weighed.loss(answers, y), plain.loss(answers, y))
    assert torch.allclose(weighed.prior(y, 2), plain.prior(y, 2))
    assert torch.allclose(
        weighed.fit_linear(x, y, 2, 0.1).predict(x), plain.fit_linear(x, y, 2, 0.1).predict(x), atol=1e-5
    )


def test_weights_of_outputs_weigh_their_squared_errors() -> None:
    g = torch.Generator().manual_seed(0)
    out, y = (torch.randn(50, 2, generator=g).double() for _ in range(2))
    weighed = task("regression", weights=OUTPUTS)
    theirs = F.mse_loss(out, y, reduction="none") * torch.tensor(OUTPUTS) / 2  # the mean weight
    assert torch.allclose(weighed.loss(weighed.expect(out), y), theirs.mean(1))
    assert float(weighed.training_loss(out, y)) == pytest.approx(float(theirs.mean()))
    assert weighed.metric(out, y) == task("regression").metric(out, y)
    y[:10, 0] = float("nan")
    each = weighed.loss(weighed.expect(out), y)
    assert torch.allclose(each[:10], 1.5 * (out - y)[:10, 1].square())
    assert float(weighed.training_loss(out, y)) == pytest.approx(float(each.mean()))


@pytest.mark.parametrize("given", [[], [1.0, 0.0], [1.0, -2.0], [1, float("nan")], [1, "2"], "3", [1, True], 0])
@pytest.mark.parametrize(("name", "option"), [("multilabel", "pos_weight"), ("regression", "weights")])
def test_weights_that_are_none_are_refused(name: str, option: str, given: object) -> None:
    with pytest.raises(ConfigError, match=rf"task_options {option} is .*, expected a number above 0 for each"):
        task(name, **{option: given})


@pytest.mark.parametrize(
    ("name", "option", "of"), [("multilabel", "pos_weight", "labels"), ("regression", "weights", "outputs")]
)
def test_there_is_a_weight_for_each(name: str, option: str, of: str) -> None:
    x, y = labels()
    with pytest.raises(ConfigError, match=f"{option} has 3 numbers, the model 2 {of}"):
        task(name, **{option: [1, 2, 3]}).check(y, x[:, :2], "test")


class Rare(nn.Module):
    """Says a rare label far more often than it is, as a model does that was trained with its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            for p in (self.a.weight, self.b.weight):
                p.copy_(2 * torch.eye(2))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = self.a(a) + self.b(b) - 2.0
        return out


def test_a_model_of_rare_labels_is_judged_by_the_loss_that_it_learned() -> None:
    data: dict[str, Any] = {}
    for i, (split, n) in enumerate({"train": 800, "val": 400, "test": 1000}.items()):
        g = torch.Generator().manual_seed(i)
        y = (torch.rand(n, 2, generator=g) < 0.1).float()
        a, b = (y + 0.5 * torch.randn(n, 2, generator=g) for _ in "ab")
        data[split] = {"a": a, "b": b, "label": y}
    config = {"modalities": {"a": "a", "b": "b"}, "task": "multilabel", "task_options": {"pos_weight": 9}}
    report = collapsekit.diagnose(model=Rare(), data=data, config=config, profile="quick")
    assert {m: v.verdict for m, v in report.modalities.items()} == {"a": "used", "b": "used"}
    loss = report.find("reliance.full_loss")
    assert loss is not None
    assert "weighed 1s" in loss.definition
