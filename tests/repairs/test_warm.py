"""Encoders that never learned what their modality says, trained alone before a method begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit import registry
from collapsekit.config.options import RepairOptions
from collapsekit.context import Progress
from collapsekit.errors import ConfigError
from collapsekit.repairs import request as asking
from collapsekit.repairs.ingredients.channels import features_of
from collapsekit.repairs.ingredients.reinit import renew_encoder
from collapsekit.repairs.methods import rtf
from collapsekit.repairs.training import loop
from collapsekit.repairs.training.estimate import estimate_cost
from collapsekit.repairs.training.job import Job, Stage, Step
from tests.repairs.making import differing, kept_in, make_job, make_model, options_of, run, state

METHODS = ("dropout", "ebr", "rtf", "kd")
Name = pytest.mark.parametrize("method", METHODS)
LOST: dict[str, Any] = {"ignored": ("audio",), "kept": {"audio": 0.5}}


def begins(method: str, **how: Any) -> tuple[list[str], Job]:
    """Names of a method's stages, none of them trained."""
    job = make_job(make_model(seed=7), method=method, **how)
    return [stage.name for stage in registry.get_repair(method).stages(job)], job


def warmed(method: str, **how: Any) -> list[str]:
    return [name for name in begins(method, **how)[0] if "warming" in name]


@Name
def test_on_auto_where_the_diagnosis_found_it_lost_in_the_encoder_and_only_there(method: str) -> None:
    names, _ = begins(method, **LOST)
    assert names[0] == "warming up audio"
    assert sum("warming" in name for name in names) == 1
    for kept in ({}, {"audio": 0.9}, {"audio": 1.2}):  # not known, or nothing to catch up on
        assert warmed(method, ignored=("audio",), kept=kept) == []
    assert warmed(method, kept={"audio": 0.5}) == []  # underused, say
    assert warmed(method, **LOST, options={"warm_up": False}) == []
    assert warmed(method, options={"warm_up": True}) == ["warming up audio"]
    if method != "kd":  # which cannot do without either
        assert warmed(method, **LOST, freeze=("encoders.audio",)) == []
        assert warmed(method, **LOST, factory=False) == ["warming up audio"]


@Name
def test_several_encoders_are_warmed_up_in_turn(method: str) -> None:
    widths = {"image": 5, "audio": 4, "text": 3}
    lost = {"ignored": ("audio", "text"), "kept": {"audio": 0.1, "text": 0.8}}
    job = make_job(make_model(widths), widths=widths, weak=("audio", "text"), method=method, **lost)
    names = [stage.name for stage in registry.get_repair(method).stages(job)]
    assert names[:2] == ["warming up audio", "warming up text"]


def test_the_papers_ebr_does_not() -> None:
    assert begins("ebr", **LOST, options={"preset": "paper"})[0] == ["basis reallocation"]


def test_only_the_first_of_a_chain_knows_what_encoders_hold() -> None:
    job, options = make_job(**LOST), options_of("dropout")
    assert [job.at_place(i, options).kept for i in range(3)] == [{"audio": 0.5}, {}, {}]


@Name
def test_a_warm_up_of_a_frozen_encoder_is_refused(method: str) -> None:
    with pytest.raises(ConfigError, match=rf"{method}.warm_up is true, but 'audio' has not an encoder of its own"):
        begins(method, options={"warm_up": True}, freeze=("encoders.audio",))


def first(job: Job, method: str = "dropout") -> Stage:
    return next(iter(registry.get_repair(method).stages(job)))


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_the_encoder_learns_alone(tmp_path: Path, task: str) -> None:
    """By the task's loss of a linear head on its pooled features; nothing else of the model changes."""
    job = make_job(make_model(lively=True), method="dropout", task=task, **LOST, options={"fresh_fusion": False})
    torch.manual_seed(99)
    stage, before = first(job), state(job)
    head = stage.module[1]  # type: ignore[index]
    assert isinstance(head, nn.Linear)
    with torch.random.fork_rng():
        torch.manual_seed(job.seed)
        assert torch.equal(head.weight, nn.Linear(head.in_features, head.out_features).weight)
    rows = torch.tensor([4, 1, 7])
    found = stage.loss(Step(rows, 1))
    features = job.adapter.model.encoders["audio"](job.at.train.inputs["audio"][rows])  # type: ignore[index]
    targets = job.at.train.targets[rows]
    assert torch.allclose(found, job.adapter.task.training_loss(head(features), targets))
    (curve,) = run(job, tmp_path, [stage], method="dropout")
    assert min(curve.held) < curve.held[0] - 0.05
    assert stage.held() == pytest.approx(curve.held[curve.kept])
    changed = differing(before, state(job))
    assert changed
    assert all(name.startswith("encoders.audio.") for name in changed)


@pytest.mark.parametrize(("steps", "epochs"), [(None, 6), (10, 4)])  # three steps an epoch
def test_a_warm_up_takes_at_most_three_times_the_epochs_and_no_more_steps(
    tmp_path: Path, steps: int | None, epochs: int
) -> None:
    job = make_job(method="dropout", **LOST, epochs=2, steps=steps, patience=99)
    curves = run(job, tmp_path, method="dropout")
    assert [c.epochs[-1] for c in curves] == [epochs, 2, 2]


@pytest.mark.parametrize(("lost", "epochs"), [(LOST, 12), ({}, 4)])
def test_a_dry_run_says_how_many_epochs_that_is(lost: dict[str, Any], epochs: int) -> None:
    job = make_job(method="dropout", **lost, epochs=4)
    stage = first(job)
    said = "; ".join(estimate_cost(stage, job, "dropout", frozenset())).split("; ")
    assert any(part.startswith(f"at most {epochs} epochs of this") for part in said)


def test_an_encoder_that_holds_next_to_nothing_begins_anew() -> None:
    for kept, options, new in [
        (0.2, {}, True),
        (0.4, {}, False),
        (0.2, {"warm_up": False}, False),
    ]:
        job = make_job(
            make_model(seed=7),
            method="dropout",
            ignored=("audio",),
            kept={"audio": kept},
            seed=4,
            options={"fresh_fusion": False, **options},
        )
        before = state(job)
        first(job)
        changed = differing(before, state(job))
        assert changed == ({k for k in before if k.startswith("encoders.audio.")} if new else set())
        twin = job.adapter.fresh(4)
        assert twin is not None
        assert all(torch.equal(state(job)[k], twin.model.state_dict()[k]) for k in changed)


def test_what_an_encoder_shares_with_the_rest_stays() -> None:
    job = make_job(make_model(seed=7))
    encoders: Any = job.adapter.model.encoders
    shared = nn.Parameter(torch.ones_like(encoders["audio"].bias))
    encoders["audio"].bias = encoders["image"].bias = shared
    before = state(job)
    renew_encoder(job, "audio")
    assert differing(before, state(job)) == {"encoders.audio.weight"}


def test_ebr_settles_a_new_fusion_before_anything_is_inserted() -> None:
    names, job = begins("ebr", **LOST)
    assert names == ["warming up audio", "settling the fusion", "basis reallocation", "finishing"]
    made = make_job(method="ebr", ignored=("audio",))
    settling = first(made, "ebr")
    assert {id(p) for p in settling.parameters} == {id(p) for p in made.adapter.model.parameters()}
    assert not made.adapter.config.structure
    assert job.adapter.config.structure
    for how in ({}, {"ignored": ("audio",), "options": {"settle": False}}, {**LOST, "freeze": ("head",)}):
        assert "settling the fusion" not in begins("ebr", **how)[0]  # type: ignore[arg-type]


def test_rtf_chooses_channels_of_the_encoder_that_has_learned(tmp_path: Path) -> None:
    job = make_job(make_model(seed=7), method="rtf", **LOST, epochs=10, rate=0.1)
    given = rtf.givers_of(job, job.own(rtf.RtfOptions))
    early = rtf.records(job, job.own(rtf.RtfOptions), given, features_of(job))
    made = iter(registry.get_repair("rtf").stages(job))
    run(job, tmp_path, [next(made)], method="rtf")
    late = rtf.records(job, job.own(rtf.RtfOptions), given, features_of(job))
    assert early != late
    next(made)
    assert [dict(r) for r in job.adapter.config.structure] == late


def test_rtf_says_that_a_fusion_cannot_be_built_before_it_trains() -> None:
    job = make_job(method="rtf", **LOST, factory=False, options={"fresh_fusion": True})
    with pytest.raises(ConfigError, match=r"model\.factory"):
        first(job, "rtf")


@pytest.mark.parametrize("place", ["", "later"])
def test_ebr_refuses_a_latent_width_before_it_trains(place: str, tmp_path: Path) -> None:
    job = make_job(method="ebr", options={"latent": 3})
    if place:
        made = make_job(method="ebr", epochs=1)
        run(made, tmp_path, method="ebr")
        job = replace(made, options=options_of("ebr", {"latent": 99}), ignored=("audio",), kept={"audio": 0.5})
    with pytest.raises(
        ConfigError, match=r"ebr.latent is 99, but the model has" if place else r"ebr.latent is 3, narr"
    ):
        first(job, "ebr")


@pytest.mark.parametrize(
    ("verdict", "share", "ignored", "underused"),
    [
        ("collapsed", 0.4, True, False),
        ("collapsed", 0.95, True, False),
        ("underused", 0.4, True, False),  # its encoder lags behind
        ("underused", 0.9, False, True),
        ("underused", None, False, True),
        ("used", 0.4, False, False),
    ],
)
def test_what_the_diagnosis_says_of_encoders_and_of_their_use(
    monkeypatch: pytest.MonkeyPatch, verdict: str, share: float | None, ignored: bool, underused: bool
) -> None:
    made = make_job()
    monkeypatch.setattr(asking, "_fold", lambda *_: (made.at, "digest"))
    monkeypatch.setattr(asking, "_credit", lambda *_: 0.0)
    monkeypatch.setattr(asking, "kept_by", lambda _report, m, least: {("audio", 0.05): share}.get((m, least)))
    asked: Any = SimpleNamespace(options=RepairOptions.make(training=made.training))
    subject: Any = None
    subject_of: Any = SimpleNamespace(modalities=("image", "audio"))
    states = {m: SimpleNamespace(verdict=verdict) for m in ("image", "audio")}
    before: Any = SimpleNamespace(modalities=states, subject=subject_of, find=lambda *_: None)
    job, _ = asking.make_job(asked, subject, made.adapter, before, ("audio",))
    assert job.kept == ({} if share is None else {"audio": share})
    assert job.ignored == (("audio",) if ignored else ())
    assert job.underused == (("audio",) if underused else ())


# ---- resuming


class _Stopping(Progress):
    """Interrupts at the k-th epoch's end, counted over stages."""

    def __init__(self, stop: int | None) -> None:
        self.left = stop

    def step(self, what: str, done: int, total: int | None, said: str = "") -> None:
        if self.left is not None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt


def attempt(folder: Path, method: str, stop: int | None) -> dict[str, Tensor]:
    job = make_job(
        make_model(lively=True), method=method, epochs=2, ignored=("audio",), kept={"audio": 0.1}, patience=9
    )
    stages: Iterator[Stage] = iter(registry.get_repair(method).stages(job))
    loop.train(stages, job, method, kept_in(folder), _Stopping(stop))
    return state(job)


@Name
def test_interrupted_in_any_stage_it_goes_on_to_the_same_weights(tmp_path: Path, method: str) -> None:
    expected = attempt(tmp_path / "whole", method, None)
    for stop in (1, 2, 3, 5):
        try:
            attempt(tmp_path / str(stop), method, stop)
        except KeyboardInterrupt:
            assert not differing(attempt(tmp_path / str(stop), method, None), expected)
        else:
            assert stop > 4
