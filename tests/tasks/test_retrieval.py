"""retrieval: both losses, recall either way, and the name of before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from collapsekit.errors import ConfigError
from collapsekit.tasks.make import make_task
from collapsekit.tasks.retrieval import METRICS, Retrieval

G = torch.Generator().manual_seed(0)
A, B = (F.normalize(torch.randn(48, 6, generator=G).double(), dim=1) for _ in range(2))
B = F.normalize(A + 0.8 * B, dim=1)
OUT = torch.cat([3 * A, 0.5 * B], 1)


def test_siglip_is_the_sigmoid_loss_of_all_pairs() -> None:
    task = Retrieval(0.1, loss="siglip", bias=-4.0)
    z = A @ B.T / 0.1 - 4.0
    sign = 2 * torch.eye(48) - 1
    truth = -F.logsigmoid(sign * z).sum() / 48  # Zhai et al. 2023, eq. 1
    found = task.loss(task.expect(OUT), torch.zeros(48))
    each = -F.logsigmoid(sign * z)
    assert torch.allclose(found, (each.sum(0) + each.sum(1)) / 2)  # an example's pairs either way
    assert float(found.mean()) == pytest.approx(float(truth), rel=1e-9)
    assert float(task.training_loss(OUT, torch.zeros(48))) == pytest.approx(float(truth), rel=1e-9)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_is_told_either_way(k: int) -> None:
    s = A @ B.T
    there = (s.argsort(1, descending=True)[:, :k] == torch.arange(48)[:, None]).any(1).double().mean()
    back = (s.T.argsort(1, descending=True)[:, :k] == torch.arange(48)[:, None]).any(1).double().mean()
    found = {
        way: Retrieval(0.1, metric=f"{way}recall_at_{k}").metric(Retrieval(0.1).expect(OUT), torch.zeros(48))
        for way in ("", "back_", "mean_")
    }
    assert found[""] == pytest.approx(float(there))
    assert found["back_"] == pytest.approx(float(back))
    assert found["mean_"] == pytest.approx(float(there + back) / 2)
    assert k > 1 or float(there) != float(back)
    assert METRICS[f"back_recall_at_{k}"] == f"back recall@{k}"


@pytest.mark.parametrize("loss", ["infonce", "siglip"])
def test_pairs_of_which_nothing_is_known_are_at_chance(loss: Any) -> None:
    task = Retrieval(0.1, loss=loss, bias=-4.0, block=48)
    known = task.from_natural(task.nothing_known(48))
    same = [task.match(torch.tensor([[c, 1.0]]).double().expand(48, -1)) for c in torch.linspace(-1, 1, 41).tolist()]
    losses = [float(task.loss(x, torch.zeros(48)).mean()) for x in same]
    assert float(task.loss(known, torch.zeros(48)).mean()) <= min(losses) + 1e-9
    assert task.metric(known, torch.zeros(48)) == pytest.approx(1 / 48)  # those alike come in any order
    alike = task.match(torch.tensor([[task.likeness, 1.0]]).double().expand(48, -1))
    assert torch.allclose(alike, known, atol=1e-12)


@pytest.mark.parametrize("loss", ["infonce", "siglip"])
def test_a_side_that_is_absent_says_nothing(loss: Any) -> None:
    """The mean over all partners of probabilities is chance, however much alike the partners' embeddings are."""
    task = Retrieval(0.1, loss=loss, bias=-4.0, block=48)
    shifted = torch.cat([A, F.normalize(B + 3 * A[:1], dim=1)], 1)
    turned = [torch.cat([shifted[:, :6], shifted[:, 6:].roll(k, 0)], 1) for k in range(48)]
    mean = torch.stack([task.match(x) for x in turned]).mean(0)
    first = mean[:, :48]  # given the first embedding, every partner is as likely
    assert torch.allclose(first, first[:, :1].expand(-1, 48), atol=1e-9)


def test_the_name_of_before_still_works() -> None:
    before, now = (make_task(n, metric=None, temperature=0.2, base=Path()) for n in ("contrastive", "retrieval"))
    assert (before.name, now.name) == ("contrastive", "retrieval")
    assert before.metric_name == now.metric_name == "recall@1"
    assert isinstance(before, Retrieval)
    assert type(before) is type(make_task("contrastive", metric=None, temperature=0.2, base=Path()))


@pytest.mark.parametrize("options", [{"loss": "triplet"}, {"bias": "low"}])
def test_options_that_cannot_be_meant_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"task_options {next(iter(options))}"):
        make_task("retrieval", metric=None, temperature=0.2, base=Path(), options=options)
