"""A plugin of one file that imports the surface alone: its probe, repair and adapter work like those that are built in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from collapsekit import registry
from tests.problems import Problem
from tests.repairs.making import make_job, options_of, run

PLUGIN = """
from collapsekit.ext import (
    ForwardPass, ModuleAdapter, Options, Result, adapter, jackknife_interval, marginal_samples, predict, probe,
    repair_method, Stage,
)


class Counting(ModuleAdapter):
    def run(self, batch):
        done = super().run(batch)
        assert isinstance(done, ForwardPass)

        return done


@adapter("surface_counting", summary="s")
def counting(config, **how):
    return Counting(config, **how)


class FlipOptions(Options):
    draws: int = 2


@probe("surface_flips", summary="s", definition="d", source="s", cannot="c", options=FlipOptions)
def flips(adapter, features, *, settings):
    for modality in features.modalities:
        shares = []
        for other in marginal_samples(len(features), settings.own(FlipOptions).draws, settings.seed):
            answers = predict(adapter, features, swap={modality: other}).outputs.argmax(1)
            shares.append(float((answers != features.outputs.argmax(1)).double().mean()))
        interval = jackknife_interval(sum(shares) / len(shares), shares, settings.level)
        yield Result(name="surface_flips.share", probe="surface_flips", modality=modality,
                     value=sum(shares) / len(shares), interval=interval, definition="d", source="s")


@repair_method("surface_head", summary="s", definition="d", source="s")
def head(job):
    yield Stage("head", job.adapter.model, list(job.adapter.model.head.parameters()),
                lambda step: job.task_loss(job.run(step).outputs, step), job.held_loss)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    registry.load_builtins()
    for kind in ("PROBES", "ADAPTERS", "REPAIRS"):
        monkeypatch.setattr(registry, kind, dict(getattr(registry, kind)))
    file = tmp_path / "plugin.py"
    file.write_text(PLUGIN)
    return file


def test_its_probe_and_adapter_diagnose(plugin: Path, problem: Problem) -> None:
    config = {**problem.config, "adapter": "surface_counting"}
    report = problem.diagnose(config=config, plugins=[plugin], probes=["surface_flips"])
    image, audio = (report.find("surface_flips.share", modality=m) for m in ("image", "audio"))
    assert image is not None
    assert image.value is not None
    assert image.value > 0.2
    assert audio is not None
    assert audio.value == 0.0  # the model ignores it


def test_its_repair_trains_what_it_names(plugin: Path, tmp_path: Path) -> None:
    registry.load_plugin_file(plugin)
    job = make_job()
    before = {k: v.clone() for k, v in job.adapter.model.state_dict().items()}
    (curve,) = run(job, tmp_path, method="surface_head")
    changed = {k.split(".")[0] for k, v in job.adapter.model.state_dict().items() if not v.equal(before[k])}
    assert changed == {"head"}
    assert min(curve.held) < curve.held[0]
    assert options_of("surface_head") == registry.get_repair("surface_head").options()
