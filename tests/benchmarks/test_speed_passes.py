"""What the speed of a diagnosis rests on: encoders run once; the naive way gives the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.speed.naive import naive
from benchmarks.speed.passes import training_free
from collapsekit import diagnose
from collapsekit.adapters.validate import FEW
from tests.problems import make_problem

SEEN: list[tuple[int, int]] = []  # outside of the model, which is given back as it was found


class Counting(nn.Linear):
    """A linear encoder that counts what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        SEEN.append((self.in_features, len(x)))
        return super().forward(x)


def test_probes_that_train_nothing_run_the_encoders_once_over_the_diagnosed_split(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, {"image": 5, "audio": 4}, steps=20)
    for encoder in problem.model.encoders.values():  # type: ignore[operator,union-attr]
        encoder.__class__ = Counting
    SEEN.clear()
    config = {**problem.config, "data": {**problem.config["data"], "batch_size": 32}}
    options = {"noise": {"inputs": False}}  # at the input it runs them again, within what it says
    report = diagnose(model=problem.model, config=config, probes=training_free(), options=options)
    assert {r.probe for r in report.results} == set(training_free())
    for width in (5, 4):
        # 160 examples, and a few of the first batch again: in two halves, as they are, and with each modality exchanged
        few = [FEW // 2 + 1, FEW // 2 + 2, *[4] * 3]
        assert [rows for inputs, rows in SEEN if inputs == width] == [32, *few, *[32] * 4]


@pytest.mark.slow
def test_the_naive_script_gives_the_same_numbers() -> None:
    torch.set_num_threads(1)
    found = naive(examples=128, layers=1)
    assert found.passes == 21
    assert found.apart == pytest.approx(0, abs=1e-9)
