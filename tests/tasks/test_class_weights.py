"""Classes that count for more than others: the loss of a model that was trained with weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import collapsekit
from collapsekit.errors import ConfigError
from collapsekit.tasks.classification import Classification
from collapsekit.tasks.make import make_task

WEIGHTS = [1.0, 3.0, 2.0]


def drawn(n: int = 60) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, generator=g), torch.randint(0, 3, (n,), generator=g)


def repeated(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Each example as often as its class weighs."""
    rows = torch.repeat_interleave(torch.arange(len(y)), torch.tensor(WEIGHTS).long()[y])
    return x[rows], y[rows]


def test_losses_are_torch_s_but_for_their_scale() -> None:
    x, y = drawn()
    task = Classification(None, torch.tensor(WEIGHTS).double())
    theirs = (
        F.cross_entropy(x.double(), y, weight=torch.tensor(WEIGHTS).double(), reduction="none") / 2
    )  # the mean weight
    assert torch.allclose(task.loss(task.expect(x), y), theirs)
    assert float(task.training_loss(x.double(), y)) == pytest.approx(float(theirs.mean()))


def test_one_logit_is_the_second_class_against_the_first() -> None:
    x, y = drawn()
    task, y = Classification(None, torch.tensor([1.0, 4.0]).double()), y.clamp_max(1)
    one, two = x[:, :1], torch.cat([torch.zeros(60, 1), x[:, :1]], 1)
    assert float(task.training_loss(one, y)) == pytest.approx(float(task.training_loss(two, y)))
    assert torch.allclose(task.loss(task.expect(one), y), task.loss(task.expect(two), y))


def test_a_weight_counts_as_that_many_examples() -> None:
    x, y = drawn(600)
    weighed, plain = Classification(None, torch.tensor(WEIGHTS).double()), Classification()
    more, of = repeated(x, y)
    assert torch.allclose(weighed.prior(y, 3), plain.prior(of, 3), atol=2e-3)  # each has one more of every class
    a = weighed.fit_linear(x, y, 3, 1e-3).predict(x).softmax(1)
    b = plain.fit_linear(more, of, 3, 1e-3).predict(x).softmax(1)
    assert torch.allclose(a, b, atol=0.02)  # features are standardised by other examples
    natural = weighed.prior(y, 3).log()
    by_hand = sum(float(weighed.loss(torch.full((1, 3), 1 / 3).double(), y[i : i + 1])) for i in range(600)) / 600
    assert float(weighed.prior_loss(torch.full((1, 3), 1 / 3).double(), natural)) == pytest.approx(by_hand, abs=5e-3)  # type: ignore[arg-type]


def test_equal_weights_are_none() -> None:
    x, y = drawn()
    weighed, plain = Classification(None, torch.full((3,), 2.0).double()), Classification()
    assert torch.allclose(weighed.loss(weighed.expect(x), y), plain.loss(plain.expect(x), y))
    assert torch.allclose(
        weighed.fit_linear(x, y, 3, 0.1).predict(x), plain.fit_linear(x, y, 3, 0.1).predict(x), atol=1e-5
    )
    natural = plain.prior(y, 3).log()
    assert torch.allclose(
        weighed.prior_loss(plain.expect(x), natural),  # type: ignore[arg-type]
        plain.prior_loss(plain.expect(x), natural),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -2.0], [1, float("nan")], [1, "2"], 3, [1, True]])
def test_weights_that_are_none_are_refused(weights: object) -> None:
    with pytest.raises(ConfigError, match=r"task_options weights is .*, expected a number above 0 for each class"):
        make_task("classification", metric=None, temperature=1.0, base=Path(), options={"weights": weights})


def test_there_is_a_weight_for_each_class() -> None:
    x, y = drawn()
    with pytest.raises(ConfigError, match="weights has 2 numbers, the model 3 classes"):
        Classification(None, torch.tensor([1.0, 2.0]).double()).check(y, x, "test")


class Rare(nn.Module):
    """Says a rare class far more often than it is, as a model does that was trained with its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.head = nn.Linear(2, 1)
        with torch.no_grad():
            for p in (self.a.weight, self.b.weight):
                p.fill_(1.0)
            self.head.weight.fill_(2.0)
            self.head.bias.fill_(-2.0)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = self.head(torch.cat([self.a(a), self.b(b)], 1))
        return out


def test_a_model_of_a_rare_class_is_judged_by_the_loss_that_it_learned() -> None:
    data = {}
    for i, (split, n) in enumerate({"train": 800, "val": 400, "test": 1000}.items()):
        g = torch.Generator().manual_seed(i)
        y = (torch.rand(n, generator=g) < 0.1).long()
        a, b = (y[:, None] + 0.5 * torch.randn(n, 1, generator=g) for _ in "ab")
        data[split] = {"a": a, "b": b, "label": y}
    config = {"modalities": {"a": "a", "b": "b"}, "task": "classification", "task_options": {"weights": [1, 9]}}
    report = collapsekit.diagnose(model=Rare(), data=data, config=config, profile="quick")
    assert {m: v.verdict for m, v in report.modalities.items()} == {"a": "used", "b": "used"}
    loss = report.find("reliance.full_loss")
    assert loss is not None
    assert "weighed by class" in loss.definition
