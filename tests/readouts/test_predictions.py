"""What a model of the user's own predicts from one modality, as a reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from collapsekit.errors import DataError
from collapsekit.readouts.strength import PREDICTIONS
from collapsekit.report.diagnosis import Report
from tests.problems import SIZES, Problem, make_problem

PROBES = ["reliance", "utilisation"]


def with_predictions(tmp_path: Path, right: float) -> Problem:
    """A problem whose data hold logits for audio: right in a part of the examples, else of a class at random."""
    problem = make_problem(tmp_path, ignored=["audio"], noise=["audio"])
    g = torch.Generator().manual_seed(1)
    arrays = dict(problem.arrays)
    for split, n in SIZES.items():
        shown = torch.where(
            torch.rand(n, generator=g) < right, arrays[f"{split}/label"], torch.randint(0, 3, (n,), generator=g)
        )
        arrays[f"{split}/from_audio"] = 3 * torch.nn.functional.one_hot(shown, 3).float()
    problem.saved(arrays)
    problem.config["modalities"]["audio"]["predictions"] = "from_audio"
    return problem


def audio(report: Report) -> tuple[str, bool | None, str]:
    """The verdict on audio, whether its reference is strong, and its family."""
    verdict = report.modalities["audio"]
    assert verdict.reference is not None
    return verdict.verdict, verdict.reference.trained_alone, verdict.reference.family


@pytest.mark.usefixtures("brief_joint")
def test_what_only_the_users_own_model_finds_is_due(tmp_path: Path) -> None:
    report = with_predictions(tmp_path, right=0.8).diagnose(probes=PROBES)
    assert audio(report) == ("collapsed", True, PREDICTIONS)
    verdict = report.modalities["audio"]
    assert verdict.reference is not None
    assert verdict.reference.read == "your own predictions: read out linearly, 3 numbers"
    assert max(verdict.reference.gains, key=verdict.reference.gains.__getitem__) == PREDICTIONS


@pytest.mark.usefixtures("brief_joint")
def test_predictions_that_others_beat_make_no_reference_strong(tmp_path: Path) -> None:
    problem = with_predictions(tmp_path, right=0.0)
    problem.config["modalities"]["image"]["predictions"] = "from_audio"
    report = problem.diagnose(probes=PROBES)
    image = report.modalities["image"].reference
    assert image is not None
    assert image.trained_alone is False
    assert image.family != PREDICTIONS
    assert image.gains[PREDICTIONS] < 0.1


@pytest.mark.usefixtures("brief_joint")
def test_they_are_no_part_of_the_examples(tmp_path: Path) -> None:
    """The model never gets them, and examples stay the same examples for a baseline that knows none."""
    problem = with_predictions(tmp_path, right=0.8)
    beside = problem.diagnose(probes=PROBES)
    del problem.config["modalities"]["audio"]["predictions"]
    without = problem.diagnose(probes=PROBES)
    assert beside.find("reliance.full_loss") == without.find("reliance.full_loss")
    assert beside.settings["examples"] == without.settings["examples"]
    assert audio(without)[0] == "inconclusive"


def test_an_array_that_is_not_there_is_named(tmp_path: Path) -> None:
    problem = with_predictions(tmp_path, right=0.8)
    problem.config["modalities"]["audio"]["predictions"] = "from_sound"
    with pytest.raises(DataError, match="from_sound"):
        problem.diagnose(probes=PROBES)
