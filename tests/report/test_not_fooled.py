"""Models that nobody planted a verdict in, and that a headline must not be fooled by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit import diagnose, gate
from collapsekit.cli.commands.diagnose import judge_exit
from collapsekit.report.diagnosis import Report
from tests.problems import CHEAP, make_problem

pytestmark = pytest.mark.usefixtures("brief_joint")
SIZES = {"train": 400, "val": 200, "test": 200}
SEGMENTATION = """
import torch.nn.functional as F

def cross_entropy(outputs, labels):
    return F.cross_entropy(outputs, labels, reduction="none").flatten(1).mean(1)
"""


def by_split(arrays: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Rows of every array, split after split."""
    parts = {name: array.split(list(SIZES.values())) for name, array in arrays.items()}
    return {split: {name: part[i] for name, part in parts.items()} for i, split in enumerate(SIZES)}


def states(report: Report) -> dict[str, str]:
    """The verdict of each modality."""
    return {m: v.verdict for m, v in report.modalities.items()}


def assert_nothing_passes(report: Report) -> None:
    """Neither the headline nor a gate nor the exit code takes it for a good model."""
    assert report.verdict not in ("healthy", "underused")
    assert judge_exit(report, [], full=True)[0] == 5
    assert gate(report).outcome != "passed"


class Convolved(nn.Module):
    """One vector, and twelve channels along two positions, which the fusion all but leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.vector, self.waves = nn.Identity(), nn.Conv1d(12, 12, 1)
        self.fusion, self.head = nn.Linear(4 + 24, 16), nn.Linear(16, 4)

    def forward(self, vector: Tensor, waves: Tensor) -> Tensor:
        both = torch.cat([self.vector(vector), 0.004 * self.waves(waves).flatten(1)], 1)
        out: Tensor = self.head(torch.relu(self.fusion(both)))
        return out


def test_channels_that_lie_first_are_not_averaged_away() -> None:
    torch.manual_seed(1)
    label = torch.randint(0, 4, (sum(SIZES.values()),))
    one_hot = F.one_hot(label, 4).float()
    vector = torch.randn(len(label), 4) * 0.3 + one_hot
    waves = torch.randn(len(label), 12, 2) * 0.3
    waves[:, :4] += one_hot[:, :, None]
    waves[:, 4:8] -= one_hot[:, :, None]  # the mean over channels tells nothing
    model = Convolved()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(vector, waves), label).backward()
        optimizer.step()
    config = {
        "modalities": {"vector": {"encoder": "vector"}, "waves": {"encoder": "waves"}},
        "fusion": "fusion",
        "task": "classification",
        "data": {"label": "label"},
    }
    data = by_split({"vector": vector, "waves": waves, "label": label})
    report = diagnose(
        model=model, config=config, data=data, profile="quick", options=CHEAP, probes=["reliance", "utilisation"]
    )
    assert states(report) == {"vector": "used", "waves": "collapsed"}
    reference = report.modalities["waves"].reference
    assert reference is not None
    assert reference.read is not None
    assert "12 x 2" in reference.read or "inputs" in reference.read


def test_what_is_lost_before_its_encoder_is_not_uninformative(tmp_path: Path) -> None:
    problem = make_problem(tmp_path)

    class Zeroed(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.encoders, self.fusion, self.head = inner.encoders, inner.fusion, inner.head

        def forward(self, image: Tensor, audio: Tensor) -> Tensor:
            parts = [self.encoders["image"](image), self.encoders["audio"](audio * 0)]  # type: ignore[index,operator]
            out: Tensor = self.head(self.fusion(torch.cat(parts, 1)))  # type: ignore[operator]
            return out

    report = problem.diagnose(model=Zeroed(problem.model), probes=["reliance", "utilisation"])
    assert states(report)["audio"] == "collapsed"
    assert report.verdict == "collapsed"


class Dense(nn.Module):
    """Two images to a class for every pixel; depth is all but left out."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.depth = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(1, 6, 3, padding=1)
        self.fusion, self.head = nn.Conv2d(12, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        both = torch.cat([self.rgb(rgb), 0.01 * self.depth(depth)], 1)
        out: Tensor = self.head(torch.relu(self.fusion(both)))
        return out


@pytest.mark.parametrize("steps", [0, 40], ids=["untrained", "trained"])
def test_without_a_reference_nothing_is_used(steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    (tmp_path / "dense_losses.py").write_text(SEGMENTATION)
    monkeypatch.syspath_prepend(tmp_path)
    label = torch.randint(0, 3, (sum(SIZES.values()), 6, 6))
    depth = label[:, None].float() + 0.3 * torch.randn(len(label), 1, 6, 6)
    rgb = F.one_hot(label, 3).movedim(-1, 1).float() + 0.5 * torch.randn(len(label), 3, 6, 6)
    model = Dense()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(rgb, depth), label).backward()
        optimizer.step()
    config: dict[str, Any] = {
        "modalities": {"rgb": {"encoder": "rgb"}, "depth": {"encoder": "depth"}},
        "fusion": "fusion",
        "task": "dense_losses:cross_entropy",
        "data": {"label": "label"},
    }
    data = by_split({"rgb": rgb, "depth": depth, "label": label})
    report = diagnose(model=model, config=config, data=data, profile="quick", options=CHEAP)
    assert set(states(report).values()) == {"inconclusive"}
    assert report.summary.startswith("Partly judged: what rgb and depth could give is not known")
    assert_nothing_passes(report)


@pytest.mark.parametrize("task", [{"outputs": 3}, {"task": "regression", "outputs": 1}], ids=["classes", "numbers"])
def test_an_untrained_network_uses_nothing(task: dict[str, Any], tmp_path: Path) -> None:
    report = make_problem(tmp_path, steps=0, **task).diagnose(probes=["reliance", "utilisation"])
    assert "used" not in states(report).values()
    assert report.verdict != "healthy"


def test_labels_that_mean_nothing_are_not_healthy(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, noise=["image", "audio"])
    report = problem.diagnose(probes=["reliance", "utilisation"])
    assert "used" not in states(report).values()
    assert_nothing_passes(report)


def test_part_of_the_probes_is_part_of_the_judgement(tmp_path: Path) -> None:
    report = make_problem(tmp_path).diagnose(probes=["reliance"])
    assert report.judged is not None
    assert report.judged.extent == "partly"
    assert_nothing_passes(report)


def test_a_model_that_is_far_too_sure_still_uses_what_it_uses(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, spread=1.5)
    before = states(problem.diagnose(probes=["reliance", "utilisation"]))
    with torch.no_grad():
        problem.model.head.weight.mul_(30)
        problem.model.head.bias.mul_(30)
    report = problem.diagnose(probes=["reliance", "utilisation"])
    guessed = report.find("reliance.full_loss"), report.find("utilisation.prior_loss")
    assert guessed[0].value > guessed[1].value  # type: ignore[union-attr,operator] # as it is, a constant is better
    assert states(report) == before
    assert "used" in before.values()


def test_values_that_fit_by_chance_once_they_are_made_smaller_are_not_learned(tmp_path: Path) -> None:
    """An untrained network's values are worse than a constant; drawn toward it they would be better."""
    problem = make_problem(tmp_path, task="regression", outputs=1, spread=0.3)
    with torch.no_grad():
        problem.model.head.weight.mul_(6)
    report = problem.diagnose(probes=["reliance", "utilisation"])
    learned = report.find("utilisation.learned")
    assert learned is not None
    assert learned.value is not None
    assert learned.value < 0
    assert "used" not in states(report).values()
