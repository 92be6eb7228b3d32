"""Models that answer in probabilities: read as what they are, whatever puts them out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import collapsekit
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.data.arrays import ArraySource
from collapsekit.errors import ConfigError, DataError
from collapsekit.features.extraction import extract
from collapsekit.report.diagnosis import Report
from collapsekit.tasks.classification import Classification
from collapsekit.tasks.make import make_task
from collapsekit.tasks.probabilities import PROBABILITIES

N, CLASSES = {"train": 300, "val": 120, "test": 200}, 3
Outputs = Callable[[Tensor], Tensor]


def data(label: Callable[[Tensor], Tensor] = lambda y: y, classes: int = CLASSES) -> dict[str, dict[str, Tensor]]:
    made = {}
    for i, (split, n) in enumerate(N.items()):
        g = torch.Generator().manual_seed(i)
        y = torch.randint(0, classes, (n,), generator=g)
        hot = F.one_hot(y, CLASSES).float()
        made[split] = {m: hot + 0.7 * torch.randn(n, CLASSES, generator=g) for m in "ab"} | {"label": label(y)}
    return made


class Answers(nn.Module):
    """Two encoders, logits of both, and whatever is made of these."""

    def __init__(self, outputs: Outputs, width: int = CLASSES) -> None:
        super().__init__()
        self.a, self.b, self.outputs, self.width = nn.Linear(3, 3), nn.Linear(3, 3), outputs, width
        with torch.no_grad():
            for layer in (self.a, self.b):
                layer.weight.copy_(2 * torch.eye(3))
                layer.bias.fill_(-1.0)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        logits = self.a(a) + self.b(b)
        return self.outputs(logits[:, 1:2] - logits[:, :1] if self.width == 1 else logits[:, : self.width])


def report(outputs: Outputs, inputs: Any = None, width: int = CLASSES, **config: Any) -> Report:
    described = {"modalities": {"a": "a", "b": "b"}, "task": "classification", **config}
    return collapsekit.diagnose(
        model=Answers(outputs, width), data=inputs or data(), config=described, probes=["reliance", "utilisation"]
    )


def names(found: Report) -> list[str]:
    return [w.name for w in found.warnings]


def alike(one: Report, other: Report) -> None:
    assert {m: v.verdict for m, v in one.modalities.items()} == {m: v.verdict for m, v in other.modalities.items()}
    for name in ("reliance.full_loss", "utilisation.prior_loss"):
        a, b = one.find(name), other.find(name)
        assert a is not None
        assert b is not None
        assert a.value == pytest.approx(b.value, rel=1e-4)


def image(p: Tensor) -> Tensor:
    """One answer at each of 2 × 2 places, the second class's or all."""
    return p[:, :, None, None].expand(-1, -1, 2, 2).contiguous()


def two_labels(y: Tensor) -> Tensor:
    return torch.stack([y == 0, y == 1], 1).float()


def everywhere(y: Tensor) -> Tensor:
    return y[:, None, None].expand(-1, 2, 2)


@pytest.mark.parametrize(
    ("logits", "probabilities", "asked"),
    [
        (lambda z: z, lambda z: z.softmax(1), {}),
        (lambda z: z, lambda z: F.softmax(z, -1)[:, :, None], {}),
        (lambda z: z, lambda z: z.exp() / z.exp().sum(1, keepdim=True), {}),
        (lambda z: z, lambda z: z.sigmoid(), {"width": 1, "label": None}),
        (lambda z: z[:, 0], lambda z: torch.sigmoid(z).squeeze(-1).clamp(1e-6, 1 - 1e-6), {"width": 1, "label": None}),
        (lambda z: z, nn.Sigmoid(), {"width": 2, "label": two_labels, "task": "multilabel"}),
        (
            lambda z: z,
            lambda z: torch.cat([torch.sigmoid(z[:, :1]), torch.special.expit(z[:, 1:])], 1),
            {"width": 2, "label": two_labels, "task": "multilabel"},
        ),
        (lambda z: image(z), lambda z: image(z).softmax(1), {"label": everywhere, "task": "dense"}),
        (lambda z: image(z), lambda z: image(z).sigmoid(), {"width": 1, "label": everywhere, "task": "dense"}),
    ],
)
def test_probabilities_are_read_as_the_logits_they_stand_for(
    logits: Outputs, probabilities: Outputs, asked: dict[str, Any]
) -> None:
    label = asked.pop("label", None) or (lambda y: y)
    inputs = data(label, 2 if asked.get("width") == 1 else CLASSES)
    one, other = (report(outputs, inputs, **asked) for outputs in (logits, probabilities))
    assert "probabilities_read" not in names(one)
    assert "probabilities_read" in names(other)
    alike(one, other)


def test_what_lies_within_0_and_1_and_is_made_by_nothing_known_is_told_and_read_as_logits() -> None:
    two = data(classes=2)
    squashed = report(lambda z: 0.5 + z.atan() / 3.15, two, width=1)
    assert "outputs_within_0_and_1" in names(squashed)
    said = report(lambda z: 0.5 + z.atan() / 3.15, two, width=1, task_options={"outputs": "probabilities"})
    assert "outputs_within_0_and_1" not in names(said)
    a, b = squashed.find("reliance.full_loss"), said.find("reliance.full_loss")
    assert a is not None
    assert b is not None
    assert b.value < a.value - 0.1  # logits within 0 and 1 would be sure of nothing


@pytest.mark.parametrize("make", [lambda p: p * 0.5, lambda p: p.mul_(0.5), lambda p: p[:, :].mul_(0.5)])
def test_what_is_made_of_a_sigmoid_further_on_is_no_probability(make: Outputs) -> None:
    assert "outputs_within_0_and_1" in names(report(lambda z: make(z.sigmoid()), data(classes=2), width=1))


def test_the_config_can_say_that_they_are_logits() -> None:
    said = report(lambda z: z.softmax(1), task_options={"outputs": "logits"})
    assert "probabilities_read" not in names(said)
    read = report(lambda z: z.softmax(1))
    a, b = said.find("reliance.full_loss"), read.find("reliance.full_loss")
    assert a is not None
    assert b is not None
    assert a.value > b.value + 0.1


def test_the_config_cannot_make_probabilities_of_logits() -> None:
    with pytest.raises(ConfigError, match=r"are probabilities, and the model's go from -.*write `outputs: logits`"):
        report(lambda z: z, task_options={"outputs": "probabilities"})
    with pytest.raises(ConfigError, match="task_options outputs is 'odds', expected logits or probabilities"):
        make_task("dense", metric=None, temperature=1.0, base=Path(), options={"outputs": "odds"})


CONFIG = {"modalities": {"a": "a", "b": "b"}, "task": "classification", "data": {"path": "memory"}}


def soft() -> Answers:
    return Answers(lambda z: z.softmax(1))


def test_every_split_is_told_alike() -> None:
    source = ArraySource(data(), "memory")
    adapter = ModuleAdapter(check_config(CONFIG, base=Path.cwd()), model=soft(), source=source)
    for split in ("test", "val"):
        assert [w.name for w in extract(adapter, split).warnings] == ["probabilities_read"]


def test_late_fusion_does_not_add_evidence_to_probabilities(tmp_path: Path) -> None:
    torch.save(soft().state_dict(), tmp_path / "ckpt.pt")
    np.savez(tmp_path / "data.npz", **{f"{s}/{k}": v.numpy() for s, d in data().items() for k, v in d.items()})
    config = {**CONFIG, "data": {"path": str(tmp_path / "data.npz")}, "model": {"factory": f"{__name__}:soft"}}
    with pytest.raises(ConfigError, match="the model returns probabilities: let it return logits"):
        collapsekit.repair(
            tmp_path / "ckpt.pt",
            config=config,
            method="late_fusion",
            modalities=("a",),
            output=tmp_path / "out",
            profile="quick",
        )


@pytest.mark.parametrize("never", [float("-inf"), torch.finfo(torch.float32).min])
def test_classes_that_cannot_be_are_no_faults_of_the_model(never: float) -> None:
    def barred(z: Tensor) -> Tensor:
        return torch.cat([z, torch.full((len(z), 1), never)], 1)

    alike(report(barred), report(lambda z: torch.cat([z, z.amax(1, keepdim=True) - 200], 1)))
    with pytest.raises(DataError, match="NaN or infinity first appears in the model's output"):
        report(lambda z: torch.full_like(z, never) if never == float("-inf") else z / 0)


def test_gradients_pass_what_was_read() -> None:
    logits = torch.randn(40, CLASSES, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = torch.arange(40) % CLASSES
    plain, reading = Classification(), Classification(None, None, PROBABILITIES)
    (ours,) = torch.autograd.grad(reading.training_loss(reading.read(logits.softmax(1), None), y), logits)
    (theirs,) = torch.autograd.grad(plain.training_loss(logits, y), logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.int64, torch.float32, torch.bool])
def test_one_hot_labels_are_class_numbers(kind: torch.dtype) -> None:
    alike(report(lambda z: z, data(lambda y: F.one_hot(y, CLASSES).to(kind))), report(lambda z: z))


def test_soft_labels_are_refused() -> None:
    with pytest.raises(DataError, match="are shares of 3 classes"):
        report(lambda z: z, data(lambda y: 0.9 * F.one_hot(y, CLASSES) + 0.1 / 3))
