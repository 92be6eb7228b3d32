"""When a repair begins with a new fusion, and how one that took modalities away ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from collapsekit import registry
from collapsekit.repairs.ingredients import masking as missing
from collapsekit.repairs.training.job import Job, Stage, Step
from tests.repairs.making import differing, make_job, make_model, options_of, plain_loss, run, state

METHODS = ("dropout", "ebr", "rtf")
Name = pytest.mark.parametrize("method", METHODS)


def begun(job: Job, method: str) -> dict[str, Tensor]:
    """The model's own weights when its first stage is there, by the names they had."""
    next(iter(registry.get_repair(method).stages(job)))
    return {k.replace(".encoder.", "."): v for k, v in state(job).items() if ".insert." not in k}


def renewed(method: str, **how: Any) -> set[str]:
    """Names of the weights that a method changes before it trains."""
    job = make_job(make_model(seed=7), method=method, **how)
    return differing(state(job), begun(job, method))


@Name
def test_the_fusion_is_new_where_the_model_ignores_and_only_there(method: str) -> None:
    rest = {k for k in state(make_job()) if not k.startswith("encoders.")}
    assert rest
    assert renewed(method, ignored=("audio",)) == rest
    assert renewed(method) == set()
    # Used too little, it is new for rtf alone, which else does nothing about it.
    assert renewed(method, underused=("audio",)) == (rest if method == "rtf" else set())
    for wanted in (True, False):  # said outright, the diagnosis plays no part
        for ignored in ((), ("audio",)):
            assert renewed(method, ignored=ignored, options={"fresh_fusion": wanted}) == (rest if wanted else set())


@Name
def test_a_fusion_that_cannot_be_built_or_is_frozen_stays(method: str) -> None:
    assert renewed(method, ignored=("audio",), factory=False) == set()
    assert renewed(method, ignored=("audio",), freeze=("fusion",)) == set()


@Name
def test_a_new_fusion_is_the_factory_s_under_the_job_s_seed(method: str) -> None:
    job = make_job(make_model(seed=7), method=method, ignored=("audio",), seed=4)
    twin = job.adapter.fresh(4)
    assert twin is not None
    assert torch.equal(begun(job, method)["head.weight"], twin.model.state_dict()["head.weight"])


def test_only_the_first_of_a_chain_is_told_what_is_ignored() -> None:
    job, options = make_job(ignored=("audio",), underused=("image",)), options_of("dropout")
    assert [job.at_place(i, options).ignored for i in range(3)] == [("audio",), (), ()]
    assert [job.at_place(i, options).underused for i in range(3)] == [("image",), (), ()]
    assert job.at_place(1, options).options is options
    assert job.at_place(1, options).findings is job.findings


# ---- what a new fusion is trained on

NEW: dict[str, dict[str, Any]] = {"kd": {}, "rtf": {"ignored": ("audio",)}, "ebr": {"ignored": ("audio",)}}
TRAINS = ("training the fusion", "channel exchange", "settling the fusion", "basis reallocation")


def fusion_stage(job: Job, method: str) -> Stage:
    """The first stage that trains the fusion, none before it trained."""
    return next(stage for stage in registry.get_repair(method).stages(job) if stage.name in TRAINS)


@pytest.mark.parametrize("method", NEW)
def test_a_new_fusion_sees_modalities_missing(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Zeros in the place of what the encoders give, where it is drawn; every other example is as it was."""
    job = make_job(make_model(seed=7), method=method, options={"drop": 0.35}, **NEW[method])
    stage, rows = fusion_stage(job, method), torch.tensor([3, 8, 1, 20, 11])
    gone = torch.tensor([[1, 0], [0, 1], [0, 0], [1, 0], [0, 1]]).bool()
    asked: list[list[float]] = []
    monkeypatch.setattr(missing, "drawn", lambda rates, n: (asked.append(rates.tolist()), gone[:n])[1])
    found = stage.loss(Step(rows, 1))
    assert asked == [pytest.approx([0.35, 0.35])]
    change = {m: lambda x, i=i: torch.where(gone[:, i : i + 1], 0.0, x) for i, m in enumerate(job.adapter.modalities)}
    assert torch.equal(found, job.task_loss(job.run(Step(rows, 1), change).outputs, Step(rows, 1)))
    assert not torch.equal(found, plain_loss(job)(Step(rows, 1)))
    monkeypatch.setattr(missing, "drawn", lambda rates, n: torch.zeros(n, len(rates), dtype=torch.bool))
    assert torch.equal(stage.loss(Step(rows, 1)), plain_loss(job)(Step(rows, 1)))


@pytest.mark.parametrize("method", NEW)
def test_which_epoch_is_kept_is_decided_with_everything_there(method: str) -> None:
    job = make_job(make_model(seed=7), method=method, options={"drop": 0.8}, **NEW[method])
    stage = fusion_stage(job, method)
    assert stage.held() == job.held_loss()


@pytest.mark.parametrize("method", NEW)
def test_a_fusion_that_stays_sees_everything(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(missing, "drawn", lambda *_: pytest.fail("something was taken away"))
    for options in ({"drop": 0.0}, {"fresh_fusion": False, "drop": 0.5}):
        if method == "ebr" and options["drop"]:  # where the fusion stays, it does not settle
            continue
        job = make_job(make_model(seed=7), method=method, options=options, **NEW[method])
        assert torch.equal(
            fusion_stage(job, method).loss(Step(torch.arange(9), 1)), plain_loss(job)(Step(torch.arange(9), 1))
        )


# ---- the last stage


def stages(job: Job, method: str) -> list[Stage]:
    return list(registry.get_repair(method).stages(job))


@pytest.mark.parametrize("method", ["dropout", "ebr"])
def test_it_ends_in_plain_training_with_everything_there(method: str) -> None:
    job = make_job(make_model(seed=7), method=method)
    taken, last = stages(job, method)
    assert {id(p) for p in last.parameters} == {id(p) for p in taken.parameters}
    step = Step(torch.arange(9), 1)
    torch.manual_seed(0)
    assert torch.equal(last.loss(step), plain_loss(job)(step))
    assert not torch.equal(taken.loss(step), last.loss(step))
    assert last.held() == job.held_loss()
    assert len(stages(make_job(method=method, options={"finish": False}), method)) == 1


def test_where_nothing_was_substituted_there_is_nothing_to_finish() -> None:
    for options in ({"substitution": 0.0}, {"preset": "paper"}):
        assert len(stages(make_job(method="ebr", options=options), "ebr")) == 1


@pytest.mark.parametrize("method", ["dropout", "ebr"])
def test_finishing_never_raises_the_held_out_loss(tmp_path: Path, method: str) -> None:
    unfinished = make_job(make_model(seed=7), method=method, options={"finish": False})
    run(unfinished, tmp_path / "a", method=method)
    job = make_job(make_model(seed=7), method=method)
    first, last = run(job, tmp_path / "b", method=method)
    assert last.held[0] == pytest.approx(unfinished.held_loss())
    assert job.held_loss() == pytest.approx(min(last.held), abs=1e-4)
    assert job.held_loss() < unfinished.held_loss()
    assert first.stage != last.stage
