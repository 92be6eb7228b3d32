"""Which readout the due is read from, and how strong it is beside the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from collapsekit.readouts import raw
from collapsekit.readouts.linear import FitSplit, UnimodalReadout
from collapsekit.readouts.strength import OWN_ENCODER, TRAINED_ALONE, TriedReadout, weigh_readouts
from collapsekit.report.diagnosis import Reference
from collapsekit.tasks.classification import Classification
from tests.problems import make_problem
from tests.readouts.test_raw import opened, xor

N = 200


class _Split:
    """As much of features as is read here."""

    def __init__(self, targets: Tensor) -> None:
        self.targets = targets


def at() -> FitSplit:
    y = torch.arange(N) % 2
    split = _Split(y)
    return FitSplit(split, torch.arange(N), split, torch.arange(N), 2)  # type: ignore[arg-type]


def tried(family: str, sure: float, noise: float = 0.0) -> TriedReadout:
    """A readout that gives the right class so much probability, more or less."""
    y = torch.arange(N) % 2
    p = (sure + noise * torch.randn(N, generator=torch.Generator().manual_seed(1))).clamp(0.01, 0.99).double()
    expected = torch.stack([torch.where(y == 0, p, 1 - p), torch.where(y == 1, p, 1 - p)], 1)
    return TriedReadout(family, UnimodalReadout(expected, expected, expected, 0.0, 1.0), f"{family} read")


def test_the_best_is_used_and_every_gain_is_told() -> None:
    found = weigh_readouts(
        Classification(), at(), [tried(OWN_ENCODER, 0.6), tried(TRAINED_ALONE, 0.8)], [tried("raw", 0.7)]
    )
    assert found.used.family == TRAINED_ALONE
    assert list(found.gains) == [TRAINED_ALONE, "raw", OWN_ENCODER]
    assert found.gains["raw"] == pytest.approx(
        1 - torch.tensor(0.7).log().item() / torch.tensor(0.5).log().item(), abs=1e-6
    )
    assert found.strength == 1.0
    assert found.read == f"{TRAINED_ALONE} read"


@pytest.mark.parametrize(
    ("sure", "noise", "used"), [(0.602, 0.0, OWN_ENCODER), (0.65, 0.0, "raw"), (0.62, 0.35, OWN_ENCODER)]
)
def test_raw_inputs_take_over_only_where_they_are_surely_better(sure: float, noise: float, used: str) -> None:
    found = weigh_readouts(Classification(), at(), [tried(OWN_ENCODER, 0.6)], [tried("raw", sure, noise)])
    assert found.used.family == used
    assert next(iter(found.gains)) == used
    assert 0 <= found.strength <= 1


def test_a_strength_below_one_is_the_part_of_the_best_gain() -> None:
    found = weigh_readouts(Classification(), at(), [tried(OWN_ENCODER, 0.6)], [tried("raw", 0.602)])
    assert found.strength == pytest.approx(found.gains[OWN_ENCODER] / found.gains["raw"])
    assert 0.9 < found.strength < 1


def test_what_nobody_gains_from_has_full_strength_and_no_ratio_of_negatives() -> None:
    found = weigh_readouts(Classification(), at(), [tried(OWN_ENCODER, 0.4)], [tried("raw", 0.45)])
    assert found.strength == 1.0
    assert all(gain < 0 for gain in found.gains.values())


@pytest.mark.usefixtures("brief_joint")
def test_the_report_says_what_the_due_was_read_from() -> None:
    results = opened(xor).results("utilisation", {})
    found = Reference.of(results, "b")
    assert found is not None
    assert found.family == "random Fourier features"
    assert found.read is not None
    assert f"{raw.FOURIER} numbers" in found.read
    assert (found.trained_alone, found.independent) == (True, True)  # its encoder has nothing to train
    assert found.gains[found.family] == max(found.gains.values())
    assert found.strength == 1.0
    assert Reference.of([], "b") is None


@pytest.mark.usefixtures("brief_joint")
def test_a_reference_whose_encoder_was_not_trained_says_why(tmp_path: Path) -> None:
    report = make_problem(tmp_path).diagnose(probes=["utilisation"])
    found = report.find("utilisation.reference_trained", "image")
    assert found is not None
    assert (found.value, found.note) == (0.0, "profile quick trains no encoders")
    reference = report.modalities["image"].reference
    assert reference is not None
    assert (reference.trained_alone, reference.independent) == (False, True)
