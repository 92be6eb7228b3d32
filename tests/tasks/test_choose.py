"""What an answer chooses, of every task, and which part of that another answer changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from collapsekit.tasks.base import Task
from collapsekit.tasks.tokens import Tokens
from tests.tasks.test_contract import N, base, each_task, made, outputs_for, targets_for

__all__ = ["base"]  # a fixture

CHOOSES = {"classification", "multilabel", "dense", "tokens"}


def expected_of(task: Task, seed: int) -> torch.Tensor:
    return task.expect(outputs_for(task, seed=seed))


@each_task
def test_every_task_says_whether_its_answers_choose(name: str, base: Path) -> None:
    task = made(name, base)
    one, other = (expected_of(task, seed) for seed in (0, 1))
    chosen = task.choose(one)
    assert (chosen is not None) == (task.name in CHOOSES)
    if chosen is None:
        return
    again = task.choose(other)
    assert again is not None
    assert chosen.shape == again.shape
    assert chosen.dtype == torch.int64
    targets = targets_for(task)
    assert task.share_changed(chosen, chosen, targets).tolist() == [0.0] * N
    changed = task.share_changed(chosen, again, targets)
    assert changed.dtype == torch.float64
    assert 0 < float(changed.mean()) < 1
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    assert torch.equal(changed, task.share_changed(again, chosen, targets))


def test_of_classes_it_is_the_likeliest() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(5), 40)
    chosen = made("classification").choose(torch.tensor(p))
    assert chosen is not None
    assert np.array_equal(chosen.numpy(), p.argmax(1)[:, None])


def test_of_labels_it_is_each_that_is_likelier_than_not() -> None:
    task = made("multilabel")
    chosen, other = (task.choose(torch.tensor([row])) for row in ([0.2, 0.5, 0.7, 0.9], [0.6, 0.4, 0.8, 0.1]))
    assert chosen is not None
    assert other is not None
    assert chosen.tolist() == [[0, 0, 1, 1]]
    assert task.share_changed(chosen, other, torch.tensor([[0.0, 0.0, 1.0, 1.0]])).tolist() == [0.5]


def test_of_tokens_it_is_one_of_those_that_answers_are_made_of_and_only_places_of_targets_count() -> None:
    task = Tokens(shift=False)
    task.learn({"train": torch.tensor([[4, 7], [7, -100]])})
    logits = torch.zeros(2, 2, 9)
    logits[:, :, 8] = 9.0  # no token of any answer is likeliest
    logits[0, 0, 4] = logits[0, 1, 7] = logits[1, 0, 7] = 1.0
    labels = torch.tensor([[4, 7], [7, -100]])
    outputs = task.read(logits, labels)
    chosen = task.choose(task.expect(outputs))
    assert chosen is not None
    assert chosen[0].tolist() == [0, 1]
    assert chosen[1, 0] == 1
    other = chosen.clone()
    other[:, 1] = 1 - other[:, 1]
    assert task.share_changed(chosen, other, task.check(labels, outputs, "test")).tolist() == [0.5, 0.0]


def test_of_open_answers_nobody_knows_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collapsekit.tasks.tokens.WIDEST", 0)
    task = Tokens(shift=False)
    task.learn({"train": torch.tensor([[4, 7]])})
    outputs = task.read(torch.randn(1, 2, 9), torch.tensor([[4, 7]]))
    assert task.choose(task.expect(outputs)) is None
