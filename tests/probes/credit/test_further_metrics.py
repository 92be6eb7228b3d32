"""Further metrics beside the task's own: each as the task scores it, and what is lost of it without each modality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score, mean_absolute_error, roc_auc_score
from torch import Tensor, nn

from collapsekit import Report, diagnose
from collapsekit.config.load import check_config
from collapsekit.errors import ConfigError
from collapsekit.report.diagnosis import Result
from collapsekit.tasks.make import further_tasks, task_of

N = 200


class Sum(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, outputs), nn.Linear(3, outputs)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.a(a) + self.b(b)


def rows(seed: int, kind: str) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(N, 3, generator=g), torch.randn(N, 3, generator=g)
    said = Sum(2 if kind == "classes" else 1)(a, b).detach()
    noisy = said + torch.randn(said.shape, generator=g)
    return {"a": a, "b": b, "label": noisy.argmax(1) if kind == "classes" else noisy[:, 0]}


def report(kind: str, metrics: list[str], **config: Any) -> Report:
    data = {s: rows(i, kind) for i, s in enumerate(("train", "val", "test"))}
    return diagnose(
        model=Sum(2 if kind == "classes" else 1),
        data=data,
        config={"modalities": {"a": "a", "b": "b"}, "metrics": metrics, **config},
        profile="quick",
        probes=["reliance"],
    )


def curve_of(found: Report, name: str, modality: str | None = None) -> dict[str, float]:
    result: Result = next(r for r in found.results if r.name == name and r.modality == modality)
    assert result.curve is not None
    assert result.curve.lower is not None
    assert result.curve.upper is not None
    for low, y, high in zip(result.curve.lower, result.curve.y, result.curve.upper, strict=True):
        assert low < y < high
    return dict(zip(map(str, result.curve.x), result.curve.y, strict=True))


def test_each_is_what_scikit_learn_says() -> None:
    found = curve_of(report("classes", ["macro_f1", "auroc"]), "reliance.further_metrics")
    r, model = rows(2, "classes"), Sum(2)
    with torch.no_grad():
        scores = model(r["a"], r["b"]).softmax(1)
    assert found["macro_f1"] == pytest.approx(f1_score(r["label"], scores.argmax(1), average="macro"))
    assert found["auroc"] == pytest.approx(roc_auc_score(r["label"], scores[:, 1]))


def test_an_error_is_told_with_a_minus() -> None:
    found = report("values", ["mae"], task="regression")
    r, model = rows(2, "values"), Sum(1)
    with torch.no_grad():
        error = mean_absolute_error(r["label"], model(r["a"], r["b"])[:, 0])
    assert curve_of(found, "reliance.further_metrics") == {"negative MAE": pytest.approx(-error)}
    lost = curve_of(found, "reliance.further_metrics_lost", "b")
    assert lost["negative MAE"] > 0.02  # without b errors are larger


def test_what_is_lost_of_the_task_s_own_metric_is_what_leaving_out_says() -> None:
    found = report("classes", ["accuracy"])
    own = next(r for r in found.results if r.name == "reliance.leave_one_out_metric" and r.modality == "a")
    assert curve_of(found, "reliance.further_metrics_lost", "a")["accuracy"] == pytest.approx(own.value)


def test_none_are_told_where_none_are_named() -> None:
    assert not [r for r in report("classes", []).results if "further" in r.name]


def test_one_that_the_task_lacks_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="metric 'recall' is not one of"):
        report("classes", ["recall"])


@pytest.mark.parametrize(
    ("task", "metrics"),
    [
        ("tokens", ["exact_match", "perplexity"]),
        ("dense", ["mean_dice", "place_accuracy"]),
        ("ranking", ["recall_at_5"]),
        ("regression", ["pearson", "ccc", "rmse"]),
    ],
)
def test_all_but_the_metric_is_the_task_s_own(task: str, metrics: list[str]) -> None:
    """What it has learned of labels and of the model goes along."""
    config = check_config({"modalities": {"a": None, "b": None}, "task": task, "metrics": metrics}, base=Path())
    own = task_of(config)
    vars(own)["learned"] = torch.arange(3)
    for name, other in zip(metrics, further_tasks(own, config), strict=True):
        alone = task_of(config.model_copy(update={"metric": name}))
        assert other.metric_name == alone.metric_name
        assert other.metric_bounds == alone.metric_bounds
        assert vars(other)["learned"] is vars(own)["learned"]
        assert type(other) is type(own)
