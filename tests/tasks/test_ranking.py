"""ranking: what labels say, and what a diagnosis finds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.errors import ConfigError, DataError
from collapsekit.tasks.ranking import Ranking
from tests.tasks.planted import KINDS, diagnosed, need_right, rows


def test_one_relevant_item_is_cross_entropy() -> None:
    scores, y, task = torch.randn(20, 7), torch.arange(20) % 7, Ranking("recall_at_1")
    checked = task.check(y, scores, "test")
    truth = F.cross_entropy(scores.double(), y, reduction="none")
    assert torch.allclose(task.loss(task.expect(scores), checked), truth, atol=1e-6)
    assert task.metric(task.expect(scores), checked) == float((scores.argmax(1) == y).double().mean())


def test_relevance_is_shared_among_items() -> None:
    scores, task = torch.randn(3, 4), Ranking()
    y = task.check(torch.tensor([[2.0, 0.0, 6.0, 0.0], [0.0, 5.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]), scores, "test")
    log_p = scores.double().log_softmax(1)
    truth = [-(0.25 * log_p[0, 0] + 0.75 * log_p[0, 2]), -log_p[1, 1], -log_p[2].mean()]
    assert torch.allclose(task.loss(task.expect(scores), y), torch.stack(truth), atol=1e-6)


@pytest.mark.parametrize(
    ("scores", "labels", "kind", "says"),
    [
        (torch.zeros(4, 3, 2), torch.zeros(4, 3), ConfigError, "one row of numbers"),
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]), DataError, "label 3 of split 'x' is no item"),
        (torch.zeros(4, 3), torch.ones(4, 2), DataError, "a relevance for each item"),
        (torch.zeros(4, 3), torch.zeros(4, 3), DataError, "none above 0"),
    ],
)
def test_what_does_not_fit_is_refused(scores: Tensor, labels: Tensor, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        Ranking().check(labels, scores, "x")


class Recommends(nn.Module):
    """Scores a catalogue of 20 items by a user and a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.fuse, self.head = nn.Linear(16, 8), nn.Linear(8, 12)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = self.head(self.fuse(torch.cat([self.a(a), self.b(b)], 1)))
        return out


def liked(n: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(3)
    a, b = torch.randn(n, 8, generator=g), torch.randn(n, 8, generator=g)
    items = torch.randn(2, 8, 12, generator=g)
    score = 0.7 * (a @ items[0] + b @ items[1]) + torch.randn(n, 12, generator=g)
    relevance = (score > score.topk(3, dim=1).values[:, 2:]).float()
    return {"a": a, "b": b, "label": relevance}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_planted_use_is_found(kind: str) -> None:
    def loss(out: Tensor, label: Tensor) -> Tensor:
        return -(label / label.sum(1, keepdim=True) * out.log_softmax(1)).sum(1).mean()

    need_right(diagnosed(Recommends, liked(rows()), loss, kind, {"task": "ranking"}, steps=150), kind)
