"""survival: what is refused, what intervals hold, and what a diagnosis says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from collapsekit.errors import ConfigError, DataError
from collapsekit.games.draws import MeanOverDraws, score_draws
from collapsekit.interventions.marginal import marginal_samples
from collapsekit.stats.inference.leave_out import leave_out_means
from collapsekit.stats.scores.cox import cox_losses
from collapsekit.tasks.survival import Survival
from tests.tasks.planted import KINDS, diagnosed, need_right, rows


@pytest.mark.parametrize(
    ("outputs", "labels", "kind", "says"),
    [
        (torch.zeros(4, 3), torch.ones(4, 2), ConfigError, "reads one log-risk an example"),
        (torch.zeros(4), torch.ones(4), DataError, r"needs \(n, 2\)"),
        (torch.zeros(4, 1), torch.tensor([[1.0, 5.0]] * 4), DataError, "time comes first: swap the columns"),
        (torch.zeros(4, 1), torch.tensor([[3.0, 5.0]] * 4), DataError, "give 1 where the event was seen"),
        (torch.zeros(4, 1), torch.tensor([[-3.0, 1.0]] * 4), DataError, "finite and from 0 on"),
    ],
)
def test_what_does_not_fit_is_refused(outputs: Tensor, labels: Tensor, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        Survival().check(labels, outputs, "x")


def test_one_without_events_has_nothing_to_score() -> None:
    assert Survival().unvarying(torch.tensor([[1.0, 0.0], [2.0, 0.0]])) is not None


def cohort(n: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    eta = torch.randn(n, generator=g).double()
    time = -torch.rand(n, generator=g).double().log() / eta.exp()
    lost = -torch.rand(n, generator=g).double().log()
    return eta, torch.stack([torch.minimum(time, lost), (time <= lost).double()], 1)


def test_the_jackknife_has_the_spread_of_new_subjects() -> None:
    """Over 300 cohorts: the spread of the mean loss, and what leaving groups of one cohort out says of it."""
    groups = torch.arange(160) % 16
    means, reckoned = [], []
    for seed in range(300):
        eta, y = cohort(160, seed)
        values = leave_out_means(Survival().loss(eta[:, None], y), groups)
        means.append(float(values[0]))
        left = values[1:]
        reckoned.append(15 / 16 * float((left - left.mean()).square().sum()))
    spread = torch.tensor(means).std()
    assert 0.85 < math.sqrt(sum(reckoned) / 300) / float(spread) < 1.2


class _Subjects:
    """What ``score_draws`` reads of features."""

    def __init__(self, targets: Tensor) -> None:
        self.targets, self.groups = targets, torch.arange(len(targets)) % 4


def test_draws_are_left_out_beside_the_whole_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer without a group is scored among all subjects once, not among copies of itself."""
    eta, y = cohort(48, 1)
    features = _Subjects(y)
    donors = marginal_samples(48, 6, 0)
    mean = MeanOverDraws(features, donors)  # type: ignore[arg-type]
    for k, other in enumerate(donors):
        mean.add(k, (0.7 * eta + 0.3 * eta[other])[:, None])
    scored: list[Tensor] = []

    def loss(self: Survival, expected: Tensor, targets: Tensor) -> Tensor:
        assert torch.equal(targets, y)
        scored.append(expected)
        return cox_losses(expected[:, 0], targets[:, 0], targets[:, 1])

    monkeypatch.setattr(Survival, "loss", loss)
    found = score_draws(Survival(), features, mean)  # type: ignore[arg-type]
    assert float(found.loss[0]) == pytest.approx(float(cox_losses(mean.value[:, 0], y[:, 0], y[:, 1]).mean()))
    rows, groups, others = mean.without_groups()
    for g, answers in enumerate(scored[-4:]):
        right = mean.value.clone()
        right[rows[groups == g]] = others[groups == g]
        assert torch.equal(answers, right)


class Risks(nn.Module):
    """Two encoders and a log-risk."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 4)
        self.fuse, self.head = nn.Linear(8, 4), nn.Linear(4, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = self.head(self.fuse(torch.cat([self.a(a), self.b(b)], 1)))
        return out[:, 0]


def followed(n: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(2)
    a, b = torch.randn(n, 6, generator=g), torch.randn(n, 6, generator=g)
    eta = a[:, 0] - a[:, 1] + 1.4 * b[:, 2]
    time, lost = (-torch.rand(n, generator=g).log() for _ in range(2))
    time, lost = time / eta.exp(), 2 * lost
    return {"a": a, "b": b, "label": torch.stack([torch.minimum(time, lost), (time <= lost).float()], 1)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_planted_use_is_found(kind: str) -> None:
    def loss(out: Tensor, label: Tensor) -> Tensor:
        return cox_losses(out, label[:, 0], label[:, 1]).mean() + 1e-2 * out.square().mean()

    need_right(diagnosed(Risks, followed(rows()), loss, kind, {"task": "survival"}, steps=60), kind)
