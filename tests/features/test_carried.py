"""Labels that a task reads outputs by: beside the inputs, never given to the model, never moved."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import collapsekit
from collapsekit.adapters.base import Adapter
from collapsekit.config.load import check_config
from collapsekit.data.memory import MemorySource
from collapsekit.errors import ConfigError
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.interventions.edits import Edit, unread_inputs
from collapsekit.interventions.replay import predict, predict_many
from collapsekit.session.opening import build_adapter
from collapsekit.tasks.base import Task

N = 40


class OfOwnTarget(Task):
    """The logit of each example's own class, and which class that was."""

    loss_name, metric_name = "minus the logit", "logit"
    needs_targets = True

    def pick(self, output: Any, rows: int) -> Tensor | None:
        return torch.stack([one["scores"] for one in output]) if isinstance(output, list) else None

    def read(self, prediction: Tensor, targets: Tensor | None) -> Tensor:
        assert targets is not None
        return torch.cat([prediction.gather(1, targets[:, None]), targets[:, None].to(prediction.dtype)], 1)

    def expect(self, outputs: Tensor) -> Tensor:
        return outputs.double()

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        return -expected[:, 0]

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        return float(expected[:, 0].mean())

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -outputs[:, 0].mean()


class Listed(nn.Module):
    """Two encoders, a fusion, and answers that are a list of dicts, as detectors give them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)
        self.fuse, self.head = nn.Linear(8, 6), nn.Linear(6, 3)
        self.calls: list[set[str]] = []

    def forward(self, **given: Tensor) -> list[dict[str, Tensor]]:
        self.calls.append(set(given))
        scores = self.head(torch.relu(self.fuse(torch.cat([self.a(given["a"]), self.b(given["b"])], 1))))
        return [{"scores": row} for row in scores]


def arrays(n: int = N) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(3)
    label = torch.randint(0, 3, (n,), generator=g)
    return {"a": torch.randn(n, 3, generator=g), "b": torch.randn(n, 3, generator=g), "label": label}


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Adapter:
    module = ModuleType("carried_task")
    module.OfOwnTarget = OfOwnTarget  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "carried_task", module)
    torch.manual_seed(0)
    config = {"task": "carried_task:OfOwnTarget", "modalities": {"a": "a", "b": "b"}, "fusion": "fuse"}
    source = MemorySource({split: arrays() for split in ("train", "val", "test")})
    return build_adapter(check_config(config, base=Path()), None, model=Listed(), source=source)


def test_labels_that_a_modality_takes_along_are_refused(adapter: Adapter) -> None:
    config = adapter.config.model_copy(deep=True)
    config.modalities["b"] = config.modalities["b"].model_copy(update={"input": "label"})
    with pytest.raises(ConfigError, match=r"data\.label 'label' is an input of modality 'b'"):
        build_adapter(config, None, model=Listed(), source=adapter.source)


def own(features: Features, scores: Tensor) -> bool:
    """Whether scores were read by each example's own label."""
    return torch.equal(scores[:, 1].long(), features.targets)


def test_labels_are_read_by_and_never_given_nor_moved(adapter: Adapter) -> None:
    features = extract(adapter, "test")
    model = adapter.model
    assert isinstance(model, Listed)
    assert set().union(*model.calls) == {"a", "b"}
    assert set(features.inputs) == {"a", "b", "label"}
    assert adapter.batch_keys == ["a", "b"]
    assert own(features, features.outputs)
    assert unread_inputs(adapter, features) == {"a", "b"}
    other = torch.arange(N).roll(7)
    both = {"a": other, "b": other}
    assert own(features, predict(adapter, features, swap=both).outputs)
    assert all(own(features, p.outputs) for p in predict_many(adapter, features, [Edit(swap=both), Edit(hold=["a"])]))
    raw = torch.stack([one["scores"] for one in model(a=features.inputs["a"][other], b=features.inputs["b"][other])])
    expected = raw.detach().gather(1, features.targets[:, None])[:, 0]
    assert torch.allclose(predict(adapter, features, swap=both).outputs[:, 0], expected, atol=1e-6)


def test_training_and_partial_replays_read_too_with_gradient(adapter: Adapter) -> None:
    features = extract(adapter, "test")
    live = adapter.run_live(features.inputs)
    assert own(features, live.outputs.detach())
    assert torch.allclose(live.outputs.detach(), features.outputs, atol=1e-6)
    adapter.task.training_loss(live.outputs, features.targets).backward()
    assert all(p.grad is not None for p in adapter.model.parameters())
    partial = adapter.outputs_of({"a": features.recorded["a"]}, features.inputs)
    assert torch.allclose(partial.detach(), features.outputs, atol=1e-6)


def test_a_class_of_the_user_s_is_diagnosed(adapter: Adapter) -> None:
    report = collapsekit.diagnose(
        model=adapter.model,
        data={split: arrays() for split in ("train", "val", "test")},
        config={"task": "carried_task:OfOwnTarget", "modalities": {"a": "a", "b": "b"}, "fusion": "fuse"},
        profile="quick",
        probes=["reliance"],
    )
    assert report.subject.task == "carried_task:OfOwnTarget"
    found = report.find("reliance.full_metric")
    assert found is not None
    assert found.value is not None
