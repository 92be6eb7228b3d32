"""A session measures once what several probes need, and an open model serves several diagnoses as if each stood alone."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from collapsekit import diagnose, registry
from collapsekit.adapters import base
from collapsekit.adapters.base import ForwardPass
from collapsekit.config.load import check_config
from collapsekit.config.options import DiagnoseOptions
from collapsekit.config.schema import Config
from collapsekit.diagnosis import check_options, choose_probes, report_on
from collapsekit.features.examples import Examples, SplitReader
from collapsekit.features.extraction import Extraction
from collapsekit.readouts.synergy import JointReadouts
from collapsekit.report.diagnosis import Report
from collapsekit.session import readouts
from collapsekit.session import session as module
from collapsekit.session.opening import OpenModel, open_model
from collapsekit.session.session import Session
from tests.problems import Problem, make_problem, weights_of

registry.load_builtins()

HOW: dict[str, Any] = {"probes": ("utilisation", "vif"), "options": {"reliance": {"draws": 6}}, "profile": "quick"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """A problem with its checkpoint beside it; no test changes it."""
    problem = make_problem(tmp_path_factory.mktemp("session"), ignored=["audio"], steps=5)
    torch.save(problem.model.state_dict(), problem.folder / "ckpt.pt")
    kwargs = {"widths": {"image": 5, "audio": 4}, "ignored": ["audio"]}
    problem.config["model"] = {"factory": "tests.problems:Late", "kwargs": kwargs}
    problem.config["data"]["batch_size"] = 50
    return problem


@pytest.fixture
def config(made: Problem) -> Config:
    return check_config(made.config, base=Path.cwd())


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often models were built, and each split read."""
    seen: Counter[str] = Counter()

    def counted(holder: Any, name: str, label: Callable[..., str]) -> None:
        real = getattr(holder, name)

        def call(*args: Any) -> Any:
            seen[label(*args)] += 1
            return real(*args)

        monkeypatch.setattr(holder, name, call)

    counted(base, "build_model", lambda *_: "built")
    counted(SplitReader, "_sorted", lambda _reader, split: split)
    return seen


@pytest.fixture
def session(made: Problem, config: Config) -> Iterator[Session]:
    with open_model(config, made.folder / "ckpt.pt", DiagnoseOptions.make(**HOW)) as subject, subject.measuring():
        options = check_options(HOW["options"])
        yield Session(subject.adapter, subject.extraction.features("test"), options=options, profile="quick")


def on(subject: OpenModel, split: str, cache: Path, *, typed: bool = True) -> Report:
    how = DiagnoseOptions.make(**HOW, split=split, cache=cache)
    return report_on(subject, how, choose_probes(how.probes, ()), check_options(how.options or {}), typed=typed)


def bytes_of(report: Report) -> tuple[Mapping[str, Any], bytes | None]:
    return json.loads(report.to_json()), report._records


# ---- an open model


def test_diagnoses_of_one_open_model_are_those_that_stand_alone(
    made: Problem, config: Config, tmp_path: Path, counts: Counter[str], brief_joint_here: None
) -> None:
    """On two splits, one of them twice, and of another model beside it, to the last digit and in every warning."""
    ckpt, other = made.folder / "ckpt.pt", copy.deepcopy(made.model)
    with torch.no_grad():
        other.head.weight.mul_(0.5)
    with open_model(config, ckpt, DiagnoseOptions.make(**HOW)) as subject:
        together = [on(subject, split, tmp_path) for split in ("val", "test", "val")]
        with subject.with_model(other, config) as beside:
            together += [on(beside, split, tmp_path, typed=False) for split in ("val", "test")]
    assert counts == {"built": 2, "train": 1, "val": 1, "test": 1}
    alone = [diagnose(ckpt, config=config, split=split, cache=tmp_path, **HOW) for split in ("val", "test", "val")]
    alone += [diagnose(model=other, config=config, split=s, cache=tmp_path, **HOW) for s in ("val", "test")]
    for one, same in zip(together, alone, strict=True):
        assert bytes_of(one) == bytes_of(same)
    assert together[1].results != together[4].results


def test_a_model_is_given_back_as_it_was_found(made: Problem, config: Config, tmp_path: Path) -> None:
    model = copy.deepcopy(made.model).train()
    before, state = weights_of(model), torch.get_rng_state()
    with open_model(config, None, DiagnoseOptions.make(**HOW), model=model) as subject:
        assert not subject.adapter.model.training
        subject.extraction.features("test")
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in weights_of(model).items())


def test_the_same_weights_need_no_second_pass_and_others_do(
    made: Problem, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by the second of four batches: the first and the last are also run to check."""
    passes, real = list[int](), Extraction._pass

    def watched(self: Extraction, examples: Examples, rows: torch.Tensor, check: bool) -> ForwardPass:
        passes.append(int(rows[0]))
        return real(self, examples, rows, check)

    monkeypatch.setattr(Extraction, "_pass", watched)

    def twin_of(model: nn.Module, part: str | None) -> nn.Module:
        made = copy.deepcopy(model)
        with torch.no_grad():
            for name, value in made.named_parameters():
                value.mul_(0.5 if part is not None and name.startswith(part) else 1.0)
        return made

    with open_model(config, made.folder / "ckpt.pt", DiagnoseOptions.make(**HOW)) as subject:
        ours = subject.extraction.features("test")
        model = subject.adapter.model
        for part, changed, whole in (
            (None, (), False),
            ("fusion", ("fusion.0.weight",), False),  # on what the encoders gave
            ("encoders.image", ("encoders.image.weight",), True),
            ("encoders.image", (), True),  # which is not so: bits have the last word
            ("encoders.image", ("fusion.0.weight",), True),
            (None, None, True),
            ("fusion", ("fusion.0.weight", "more"), True),  # of another architecture
        ):
            with subject.with_model(twin_of(model, part), config, changed=changed) as beside:
                passes.clear()
                theirs = beside.extraction.features("test")
            assert (50 in passes) is whole, (part, changed)
            with subject.with_model(twin_of(model, part), config) as alone:
                expected = alone.extraction.features("test")
            for one, same in ((theirs.outputs, expected.outputs), (theirs.fused, expected.fused)):
                assert torch.equal(one, same), (part, changed)
            assert torch.equal(theirs.pooled["image"], expected.pooled["image"])
        assert torch.equal(ours.outputs, subject.extraction.features("test").outputs)


def test_a_view_of_the_features_belongs_to_one_diagnosis(made: Problem, config: Config) -> None:
    """What one diagnosis read of other splits is not said of the next."""
    with open_model(config, made.folder / "ckpt.pt", DiagnoseOptions.make(**HOW)) as subject:
        first = subject.extraction.features("test")
        first.of("train")
        second = subject.extraction.features("test")
        assert (set(first.read), set(second.read)) == ({"test", "train"}, {"test"})
        assert second.outputs.data_ptr() == first.outputs.data_ptr()
        assert second.facts is not first.facts


# ---- what is measured once


OFFSET = {"train": torch.zeros(240, 3), "val": torch.zeros(120, 3)}


def test_each_measurement_is_made_once(
    session: Session, monkeypatch: pytest.MonkeyPatch, brief_joint_here: None
) -> None:
    seen: Counter[str] = Counter()

    def counted(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*args: Any) -> Any:
            seen[name] += 1
            return real(*args)

        monkeypatch.setattr(module, name, call)

    for name in ("fit_calibration", "CoalitionGame"):
        counted(module, name)
    counted(JointReadouts, "fit_on_recorded")
    counted(readouts, "choose_features")
    for _ in range(2):
        assert session.game.calibrated(1) is session.game.calibrated(1)
        assert session.prefixes.keys() == {"image", "audio"}
        session._joint.on_recorded(OFFSET, session.on(session.fit_split.train)._joint)
    assert seen == {"fit_calibration": 1, "choose_features": 2, "fit_on_recorded": 1, "CoalitionGame": 1}


def test_options_of_a_measurement_are_read_in_one_place(session: Session) -> None:
    adapter, features = session.adapter, session.features
    assert len(session.game.donors) == 6  # as the options under `reliance` say
    assert session.permutations == 64
    assert session.plan is None  # in the quick profile
    assert session.trained_alone is None
    options = check_options({"prefix_gap": {"epochs": 3, "budget": 5.0}})
    plans = {p: Session(adapter, features, options=options, profile=p).plan for p in ("standard", "full")}
    assert [(plan.epochs, plan.budget) for plan in plans.values() if plan] == [(3, 5.0), (3, float("inf"))]


def test_measurements_by_adapter_and_features_are_those_of_the_session(session: Session) -> None:
    pair = session.adapter, session.features
    assert Session.of(*pair) is session
    other = Session.of(*pair, replace(session.settings, level=0.9))
    assert (other.level, session.level) == (0.9, 0.95)
    assert other.game is session.game
    assert other.prefix("image") is session.prefix("image")
    fewer = Session.of(*pair, replace(session.settings, others=check_options({"reliance": {"draws": 3}})))
    assert [len(one.game.donors) for one in (fewer, session)] == [3, 6]


def test_what_is_fitted_on_training_examples_is_shared_by_diagnoses_of_others(session: Session) -> None:
    few = session.features.taken(torch.arange(40))
    there = session.on(few)
    assert there is not session
    assert session.on(few) is there
    assert there.prefix("image").l2 == session.prefix("image").l2
    assert there.prefix("image").validation is session.prefix("image").validation  # fitted once
    assert len(there.prefix("image").expected) == 40


def test_another_seed_is_another_session(session: Session) -> None:
    told = session.adapter, session.features
    assert Session.of(*told, session.settings) is session
    other = Session.of(*told, replace(session.settings, seed=1))
    assert other is not session
    assert not torch.equal(other.game.donors[0], session.game.donors[0])
    assert Session.of(*told, other.settings) is other


def test_a_copy_of_features_takes_no_facts_along(session: Session) -> None:
    features = session.features
    features.facts.unread = frozenset({"audio"})
    features.mean("image", 0)
    assert replace(features, batch=5).facts.unread is None
    assert features.taken(torch.arange(3)).facts.unread is None
    changed = features.changed({**features.recorded, "image": tuple(t + 1 for t in features.recorded["image"])})
    assert changed.facts.unread == frozenset({"audio"})  # the model's doing, whatever is recorded
    assert torch.equal(changed.mean("image", 0), (features.recorded["image"][0] + 1).double().mean(0, keepdim=True))
    assert changed.facts.session is None
