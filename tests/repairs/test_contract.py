"""What every repair promises, whatever it trains: each test runs over all built-in ones, so a new one is covered."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from collapsekit import RepairReport, load_repaired, registry
from collapsekit.adapters.inserts import insert, inserted_in
from collapsekit.config.options import Training
from collapsekit.context import Progress
from collapsekit.data.arrays import by_split
from collapsekit.errors import ConfigError
from collapsekit.features.extraction import extract
from collapsekit.readouts.linear import FitSplit
from collapsekit.repairs.request import check_method_options
from collapsekit.repairs.training import loop
from collapsekit.repairs.training.job import Job
from collapsekit.repairs.training.snapshots import Snapshots
from collapsekit.report.repair import structure_of
from collapsekit.session.subject import weights_digest
from tests.conftest import joint_trained_briefly
from tests.factories import digests_in
from tests.problems import Late, adapt, make_problem
from tests.repairs.making import OPTIONS, differing, kept_in, make_job, make_model, run, state
from tests.repairs.test_repairing import WIDTHS, deaf, mend

registry.load_builtins()
METHODS = sorted(n for n, s in registry.REPAIRS.items() if s.stages.__module__.startswith("collapsekit.repairs."))
PARTS = ("encoders.image", "encoders.audio", "fusion", "head")
# As of a model whose audio encoder learned nothing: what a method begins anew, it begins anew here.
NEGLECTED: dict[str, Any] = {"ignored": ("audio",), "kept": {"audio": 0.0}}


AT_ONCE = {"late_fusion"}  # fitted and not trained: no weight of the model changes


@dataclass(frozen=True)
class Trained:
    """What training left."""

    job: Job
    state: dict[str, Tensor]
    curves: str
    stages: list[tuple[int, ...]]  # the epochs of each
    structure: list[dict[str, Any]]
    findings: str


def _json(records: list[Any]) -> str:
    return "\n".join(r.model_dump_json() for r in records)


@dataclass
class Case:
    """A repair, and what is trained once for all its tests."""

    method: str
    folder: Path

    def job(self, **how: Any) -> Job:
        """A job of it on a model with batch norm and dropout."""
        return make_job(make_model(lively=True), method=self.method, **{"epochs": 2, **NEGLECTED, **how})

    def trained(self, name: str, **how: Any) -> Trained:
        """A job of it, trained in a folder of that name."""
        return self.train(self.job(**how), kept_in(self.folder / name))

    def train(self, job: Job, kept: Snapshots) -> Trained:
        """Train a job of it to the end."""
        curves = loop.train(registry.get_repair(self.method).stages(job), job, self.method, kept, Progress())
        stages = [curve.epochs for curve in curves]
        return Trained(job, state(job), _json(curves), stages, inserted_in(job.adapter.model), _json(job.findings))

    @cached_property
    def plain(self) -> Trained:
        """The job trained once, from start to end."""
        return self.trained("plain")

    @cached_property
    def repaired(self) -> Repaired:
        """From a checkpoint to a folder, once."""
        project = deaf(self.folder / "project")
        before, drawn = digests_in(project), _generators()
        with joint_trained_briefly():
            report = mend(
                project,
                self.folder / "out",
                method=self.method,
                options={k: v for k, v in OPTIONS.items() if k == self.method},
                training={"epochs": 2, "rate": 0.01},
                control=False,
                keep=True,
            )
        return Repaired(report, self.folder / "out", before, digests_in(project), drawn, _generators())


@dataclass(frozen=True)
class Repaired:
    """A repair's report and folder; the project's files and the random generators before and after."""

    report: RepairReport
    output: Path
    files: dict[str, str]
    files_after: dict[str, str]
    generators: list[Any]
    generators_after: list[Any]


def _generators() -> list[Any]:
    """States of all generators of random numbers that a caller may use."""
    return [torch.get_rng_state().tolist(), random.getstate(), [str(part) for part in np.random.get_state()]]


@pytest.fixture(scope="module", params=METHODS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp(request.param))


# ---- training


def test_the_same_seed_trains_the_same_bits_whatever_was_drawn_before(case: Case) -> None:
    torch.rand(7), random.random(), np.random.rand(2)
    again = case.trained("again")
    assert differing(again.state, case.plain.state) == set()
    assert again.curves == case.plain.curves
    assert again.findings == case.plain.findings
    assert again.structure == case.plain.structure


def test_another_seed_trains_other_weights(case: Case) -> None:
    other = case.trained("other", seed=1)
    if case.method in AT_ONCE:
        parts = [{k: v for k, v in made.state.items() if ".readout." not in k} for made in (other, case.plain)]
        assert not {k for k in differing(*parts) if not k.endswith((".keep", ".offset"))}
        return
    assert other.state.keys() == case.plain.state.keys()
    assert differing(other.state, case.plain.state)


class Stopping(Snapshots):
    """Interrupts behind the first one that is written."""

    def save(self, *args: Any) -> None:
        super().save(*args)
        raise KeyboardInterrupt


def test_training_that_is_interrupted_behind_every_snapshot_ends_in_the_same_bits(case: Case) -> None:
    stages = case.plain.stages
    for _ in range(sum(max(epochs) + 2 for epochs in stages)):  # with the one before the first epoch, and the last
        with pytest.raises(KeyboardInterrupt):
            case.train(case.job(), Stopping(case.folder / "interrupted", {}))
    last = case.train(case.job(), Snapshots(case.folder / "interrupted", {}))
    assert differing(last.state, case.plain.state) == set()
    assert last.curves == case.plain.curves
    assert last.findings == case.plain.findings


@pytest.mark.parametrize("part", PARTS)
def test_a_frozen_submodule_stays_as_it_is(case: Case, part: str) -> None:
    """Batch norm's statistics included; the seed is none under which a part built anew is the same."""
    job = case.job(freeze=(part,), seed=4)
    frozen = job.adapter.model.get_submodule(part)
    before = {k: v.clone() for k, v in frozen.state_dict().items()}
    refusal = None
    try:
        case.train(job, kept_in(case.folder / f"frozen {part}"))
    except ConfigError as e:
        refusal = str(e)
    assert refusal is None or (part == "encoders.audio" and "'audio'" in refusal)  # which the repair cannot do without
    assert differing(before, frozen.state_dict()) == set()


def test_weights_that_take_no_gradient_stay_and_flags_are_as_they_were(case: Case) -> None:
    model = make_model(lively=True)
    model.encoders["image"][0].bias.requires_grad_(False)  # type: ignore[index,union-attr]
    own = dict(model.named_parameters())
    bias = own["encoders.image.0.bias"].clone()
    job = make_job(model, method=case.method, epochs=2)
    run(job, case.folder / "flags", method=case.method)
    assert torch.equal(own["encoders.image.0.bias"], bias)
    assert {k for k, p in own.items() if not p.requires_grad} == {"encoders.image.0.bias"}


def test_nothing_is_left_on_the_model_but_what_is_inserted(case: Case) -> None:
    """Modules and hooks are those of a model of the same class with the same records; the mode is eval."""
    twin = insert(make_model(lively=True), case.plain.structure)
    assert _described(case.plain.job.adapter.model) == _described(twin)
    assert not any(part.training for part in case.plain.job.adapter.model.modules())


def _described(model: nn.Module) -> list[Any]:
    return [
        (name, type(part), sorted(vars(part)), len(part._forward_hooks), len(part._forward_pre_hooks))
        for name, part in model.named_modules()
    ]


def test_curves_are_finite_and_say_what_was_kept(case: Case) -> None:
    curves = case.repaired.report.losses
    assert curves
    assert {curve.method for curve in curves} == {case.method}
    assert len({curve.stage for curve in curves}) == len(curves)
    for curve in curves:
        assert curve.epochs == tuple(range(len(curve.epochs)))
        assert all(math.isfinite(x) for x in curve.held)
        assert curve.training[0] is None
        assert all(x is not None and math.isfinite(x) for x in curve.training[1:])
        assert curve.kept in curve.epochs
        assert curve.held[curve.kept] <= curve.held[0]


@pytest.mark.parametrize(("task", "outputs"), [("multilabel", 3), ("regression", 2), ("classification", 1)])
def test_it_trains_for_every_task(case: Case, task: str, outputs: int, tmp_path: Path) -> None:
    problem = make_problem(tmp_path, task=task, outputs=outputs, steps=20)
    factory = {"factory": "tests.problems:Late", "kwargs": {"widths": {"image": 5, "audio": 4}, "outputs": outputs}}
    adapter = adapt(problem.model, problem.config | {"model": factory}, by_split(problem.arrays, tmp_path))
    train, val = extract(adapter, "train"), extract(adapter, "val")
    width = adapter.task.expect(val.outputs[:1])[0].numel()
    at = FitSplit(train, torch.arange(len(train)), val, torch.arange(len(val)), width)
    spec = registry.get_repair(case.method)
    how = Training(epochs=3, rate=0.01, amp=task == "multilabel")
    job = Job(adapter, at, ("audio",), {"image": 1.0, "audio": 0.1}, how, 0, spec.options())
    curves = loop.train(spec.stages(job), job, case.method, Snapshots(tmp_path / "kept", {}), Progress())
    assert min(curves[-1].held) < curves[-1].held[0]
    assert torch.isfinite(adapter.run_live(job.batch(at.fit)).outputs).all()


# ---- from a checkpoint to a folder


def test_the_user_s_files_and_generators_are_left_as_they_were(case: Case) -> None:
    made = case.repaired
    assert made.files.keys() == {"ckpt.pt", "data.safetensors", "collapsekit.yaml"}
    assert made.files_after == made.files
    assert made.generators_after == made.generators


def test_the_report_is_read_back_as_it_was_written(case: Case) -> None:
    report, output = case.repaired.report, case.repaired.output
    assert RepairReport.load(output / "repair.json") == report
    assert sorted(p.name for p in output.iterdir()) == ["model.safetensors", "repair.json"]
    spec = registry.get_repair(case.method)
    assert report.definitions[case.method] == f"{spec.define(spec.options())} ({spec.source})"
    assert report.settings["options"][case.method].keys() == spec.options.model_fields.keys()


def test_exported_weights_and_records_load_into_the_user_s_own_class(case: Case) -> None:
    """The records that are read off the loaded model are those of the report, and give the same model once more."""
    report, output = case.repaired.report, case.repaired.output
    model = load_repaired(output, Late(WIDTHS))
    assert [dict(r) for r in structure_of(output)] == [r.model_dump() for r in report.structure]
    twin = insert(Late(WIDTHS), inserted_in(model)).eval()
    twin.load_state_dict(model.state_dict())
    x = {m: torch.randn(5, d, generator=torch.Generator().manual_seed(0)) for m, d in WIDTHS.items()}
    with torch.no_grad():
        assert torch.equal(twin(**x), model(**x))
    assert len(inserted_in(model)) == len(report.structure)
    adapter = adapt(model, report.settings["config"] | {"model": {}}, {})
    assert weights_digest(adapter) == report.after.subject.sha256 != report.before.subject.sha256


# ---- what it says and takes


def test_options_have_a_sentence_each_and_wrong_ones_are_refused_by_name(case: Case) -> None:
    fields = registry.get_repair(case.method).options.model_fields
    for option, field in fields.items():
        assert field.description, option
        assert not field.description.endswith("."), option  # as the others in a list
        with pytest.raises(ConfigError, match=rf"option {case.method}\.{option}: .*found") as e:
            check_method_options({case.method: {option: {"no": "value"}}})
        assert "\n" not in str(e.value)
    with pytest.raises(ConfigError, match=f"repair {case.method!r} has no option 'nonesuch'"):
        check_method_options({case.method: {"nonesuch": 1}})


def test_it_says_what_it_trains_and_whence_that_is(case: Case) -> None:
    spec = registry.get_repair(case.method)
    assert spec.name == case.method
    assert 10 < len(spec.summary) < 120
    assert not spec.summary.endswith(".")
    assert spec.define(spec.options()).strip().endswith(".")
    assert spec.source.strip()
