"""Noise of the training examples alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from collapsekit.reproduce.item import Trial
from collapsekit.reproduce.studies import training_noise
from collapsekit.reproduce.studies.subjects import Repaired, StudySubject
from collapsekit.reproduce.studies.training_noise import accuracy_by_noise, add_uniform
from tests.reproduce.synthetic import make_synthetic


def test_noise_is_uniform_within_a_part_of_the_largest_range() -> None:
    x = torch.zeros(4000, 3)
    x[0, 1], x[1, 1], x[0, 2] = -1.0, 3.0, 2.0  # a range of 4
    noise = add_uniform(x, 0.25, 7) - x
    assert float(noise.abs().max()) <= 1 + 1e-6
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1 / 3**0.5) < 0.01
    assert torch.equal(add_uniform(x, 0.25, 7), add_uniform(x, 0.25, 7))
    assert not torch.equal(add_uniform(x, 0.25, 8), add_uniform(x, 0.25, 7))
    assert torch.equal(add_uniform(x, 0.0, 7), x)


def test_only_the_weak_modality_of_training_examples_is_noisy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    subject = make_synthetic()
    seen: list[StudySubject] = []

    class FakeBench:
        def __init__(self, trial: Trial, noisy: StudySubject) -> None:
            seen.append(noisy)

        def rows(self) -> list[Repaired]:
            return []

    monkeypatch.setattr(training_noise, "Bench", FakeBench)
    assert list(accuracy_by_noise(Trial(3, False, tmp_path), subject, ("5", "50"))) == []
    assert len(seen) == 2
    for noisy in seen:
        changed = {k for k, v in noisy.arrays.items() if not torch.equal(v, subject.arrays[k])}
        assert changed == {"train/b"}
    little, much = ((n.arrays["train/b"] - subject.arrays["train/b"]).abs().max() for n in seen)
    assert float(much) > 5 * float(little)
