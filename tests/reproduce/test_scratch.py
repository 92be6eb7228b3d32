"""Losses noted while a network is trained from fresh weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from collapsekit.repairs.training.job import Stage, Step
from collapsekit.reproduce.studies.networks import build
from collapsekit.reproduce.studies.scratch import followed, loss_on_test
from tests.reproduce.synthetic import make_synthetic


def test_a_stage_is_judged_as_before_and_the_test_loss_noted_each_time() -> None:
    subject = make_synthetic()
    torch.manual_seed(0)
    model = build(**subject.kwargs)
    judged = iter((3.0, 2.0, 1.0))

    def loss(step: Step) -> torch.Tensor:
        return torch.zeros(())

    stage = Stage("plain", model, list(model.parameters()), loss, lambda: next(judged), cycle=2)
    losses: list[float] = []
    (now,) = followed([stage], model, subject.arrays, losses)
    assert now == replace(stage, held=now.held)
    assert now.held() == 3.0
    with torch.no_grad():
        model.head.bias += torch.tensor([5.0, 0.0, -5.0])
    assert now.held() == 2.0
    x = {m: subject.arrays[f"test/{m}"] for m in ("a", "b")}
    assert len(losses) == 2
    assert losses[1] > losses[0] + 1
    with torch.no_grad():
        direct = float(F.cross_entropy(model(**x), subject.arrays["test/label"]))
    assert abs(losses[1] - direct) < 1e-6


def test_two_stages_are_each_judged_by_their_own_loss() -> None:
    subject, model = make_synthetic(), nn.Linear(1, 1)
    stages = [Stage(str(n), model, [], lambda _: torch.zeros(()), lambda n=n: float(n)) for n in range(2)]  # type: ignore[misc]
    network = build(**subject.kwargs)
    followers = list(followed(stages, network, subject.arrays, []))
    assert [stage.held() for stage in followers] == [0.0, 1.0]


def test_the_loss_on_test_reads_no_other_split() -> None:
    subject = make_synthetic()
    torch.manual_seed(0)
    network = build(**subject.kwargs)
    some = {k: v if k.startswith("test/") else torch.full_like(v, 0) for k, v in subject.arrays.items()}
    assert loss_on_test(network, some) == loss_on_test(network, subject.arrays)
