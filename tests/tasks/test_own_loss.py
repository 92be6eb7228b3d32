"""own_loss: one loss an example or one a batch, mappings of losses, and what a user reads of a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit import diagnose
from collapsekit.adapters.outputs import prediction_in
from collapsekit.errors import ConfigError
from collapsekit.features.extraction import extract
from collapsekit.tasks.own_loss import OwnLoss
from tests.problems import adapt

N = 10


def test_a_mapping_of_losses_is_their_sum_and_a_total_stands_for_all() -> None:
    box, score = torch.rand(N), torch.rand(N, 1)
    task = OwnLoss()
    parts = {"loss_box": box, "score_loss": score, "acc": torch.rand(()), "losses": None}
    assert torch.allclose(prediction_in(parts, None, task, N), box + score[:, 0])
    assert torch.equal(prediction_in({**parts, "loss": score}, None, task, N), score[:, 0])
    one = {"loss": torch.tensor(2.0)}
    assert prediction_in(one, None, task, 1).tolist() == [2.0]
    assert prediction_in(one, "loss", task, 1).tolist() == [2.0]
    assert torch.equal(prediction_in({"x": box, "y": box}, ["x", "y"], task, N), 2 * box)
    assert task.loss(task.expect(task.read(box, None)), torch.zeros(N)).tolist() == box.double().tolist()


@pytest.mark.parametrize(
    ("output", "rows", "says"),
    [
        ({"loss": torch.tensor(2.0)}, N, r"one loss for 10 examples.*one_by_one: true"),
        (torch.tensor(2.0), N, r"one number for 10 examples.*one_by_one: true"),
        ({"loss": torch.rand(N, 3)}, N, r"losses of shape \(10, 3\).*one an example"),
        ({"logits": torch.rand(N, 3)}, N, "none called a loss"),
    ],
)
def test_what_is_no_loss_of_each_example_is_refused(output: Any, rows: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        prediction_in(output, None, OwnLoss(), rows)


class Trained(nn.Module):
    """Returns its loss of labels that it takes, of each example or the mean of all."""

    def __init__(self, how: str, reads_b: bool = True) -> None:
        super().__init__()
        self.how, self.reads_b = how, reads_b
        self.register_buffer("weight", torch.ones(2))

    def forward(self, a: Tensor, b: Tensor, target: Tensor) -> dict[str, Tensor]:
        said = self.weight[0] * a[:, 0] + (self.weight[1] * b[:, 0] if self.reads_b else 0.0)
        return {"loss_value": F.mse_loss(said, target, reduction=self.how)}


def split(seed: int, n: int = 40) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(n, 3, generator=g), torch.randn(n, 3, generator=g)
    return {"a": a, "b": b, "target": a[:, 0] + b[:, 0] + 0.1 * torch.randn(n, generator=g)}


CONFIG = {"modalities": {"a": None, "b": None}, "data": {"also": ["target"]}, "task": "own_loss"}


@pytest.mark.parametrize("how", ["mean", "sum"])
def test_a_loss_of_a_batch_is_had_of_each_example_by_itself(how: str) -> None:
    each = extract(adapt(Trained("none"), CONFIG, {"test": split(0)}), "test")
    config = {**CONFIG, "model": {"one_by_one": True}}
    alone = extract(adapt(Trained(how), config, {"test": split(0)}), "test")
    assert torch.allclose(alone.outputs, each.outputs, atol=1e-6)
    assert each.outputs.std() > 0.001


def test_what_a_modality_is_worth_is_told_and_no_due() -> None:
    config = {**CONFIG, "model": {"one_by_one": True}}
    data = {s: split(i, 120) for i, s in enumerate(("train", "val", "test"))}
    report = diagnose(
        model=Trained("mean", reads_b=False),
        data=data,
        config=config,
        profile="quick",
        probes=["reliance", "utilisation"],
    )
    credit = report.find("reliance.shapley", "a")
    assert credit is not None
    assert credit.interval is not None
    assert credit.interval[0] > 0
    assert {v.verdict for v in report.modalities.values()} == {"inconclusive"}
    assert report.modalities["a"].reason.startswith("Taking a away costs the model")
    assert report.modalities["b"].reason.startswith("The model gains nothing measurable from b")


PAGE = Path(__file__).parents[2] / "docs/tasks.md"


def test_the_detector_of_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ten lines that the page prints, with a detector that answers a list of mappings."""
    code = next(part for part in PAGE.read_text().split("```python\n")[1:] if "SurestBox" in part).split("```")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    (tmp_path / "boxes_of_page.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))

    class Detector(nn.Module):
        def forward(self, images: list[Tensor], thermal: list[Tensor]) -> list[dict[str, Tensor]]:
            assert isinstance(images, list)
            found = [
                torch.stack([i.mean(), t.mean(), i.mean(), i.mean()]) for i, t in zip(images, thermal, strict=True)
            ]
            sure = torch.tensor([0.2, 0.9])
            return [{"boxes": torch.stack([torch.zeros(4), box]), "scores": sure} for box in found]

    g = torch.Generator().manual_seed(0)
    images, thermal = (list(torch.rand(60, 1, 4, 4, generator=g) * torch.rand(60, 1, 1, 1, generator=g)) for _ in "ab")
    box = torch.stack(
        [torch.stack([i.mean(), t.mean(), i.mean(), i.mean()]) for i, t in zip(images, thermal, strict=True)]
    )
    batches = [{"images": images, "thermal": thermal, "box": box}]
    config = {
        "modalities": {"images": None, "thermal": None},
        "task": "boxes_of_page:SurestBox",
        "data": {"label": "box"},
    }
    report = diagnose(model=Detector(), data={"test": batches}, config=config, profile="quick", probes=["reliance"])
    loss = report.find("reliance.full_loss")
    assert loss is not None
    assert loss.value == pytest.approx(0.0, abs=1e-9)
