"""An error that nobody foresaw ends one probe, never a report; and nothing passes for it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from collapsekit import Report
from collapsekit.errors import ConfigError, DataError, FaultError
from collapsekit.games.coalitions import CoalitionGame
from collapsekit.gating.baseline import make_baseline, make_run
from collapsekit.gating.decide import gate
from collapsekit.probes.runner import FAILED, RAISE, fault_code
from collapsekit.report.per_example import PerExample
from tests.faulty import fail, mine, swallowed
from tests.problems import Problem, make_problem

__all__ = ["fail", "mine", "swallowed"]  # fixtures


def quick(problem: Problem, *probes: str, **how: Any) -> Report:
    return problem.diagnose(probes=probes, **how)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat2 is on cpu"),
        MemoryError(),
        torch.OutOfMemoryError("out of memory"),
        RecursionError(),
        KeyError("x"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_one_probe_fails_and_the_rest_is_as_it_would_have_been(
    problem: Problem, swallowed: None, fail: Callable[..., None], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    sound = quick(problem, "vif", "spectrum")
    fail("gradient_rank", error)
    report = quick(problem, "vif", "spectrum", "gradient_rank")
    (odd,) = [r for r in report.results if r.probe == "gradient_rank"]
    assert [r for r in report.results if r.probe != "gradient_rank"] == list(sound.results)
    assert odd.skipped == "a fault of collapsekit ended the probe"
    assert re.fullmatch(
        rf"{type(error).__name__} in collapsekit/probes/neurons/gradient_rank\.py line \d+", str(odd.error)
    )
    (warning,) = report.warnings
    assert warning.name == FAILED
    assert "gradient_rank" in warning.sentence
    assert str(odd.error) in warning.sentence
    assert fault_code(report) == FaultError.exit_code == 4
    assert fault_code(sound, None) == 0
    assert "Traceback" in caplog.text  # of a library: through logging, which writes to stderr where nobody set it up
    assert Report.from_json(report.to_json()) == report
    assert quick(problem, "vif", "spectrum", "gradient_rank").to_json() == report.to_json()


def test_what_is_no_fault_goes_through(problem: Problem, swallowed: None, fail: Callable[..., None]) -> None:
    # A KeyboardInterrupt that nobody pressed is an exit, which no function may make.
    for error, raised in ((KeyboardInterrupt(), ConfigError), (DataError("the split is gone"), DataError)):
        fail("gradient_rank", error)
        with pytest.raises(raised):
            quick(problem, "vif", "gradient_rank")


def test_tests_let_errors_through(problem: Problem, fail: Callable[..., None]) -> None:
    assert os.environ[RAISE]
    fail("gradient_rank")
    with pytest.raises(RuntimeError, match="same device"):
        quick(problem, "vif", "gradient_rank")


def test_half_of_a_probe_is_dropped_and_a_report_of_faults_alone_is_a_report(
    problem: Problem, swallowed: None, mine: Callable[[str], Path]
) -> None:
    report = quick(problem, "mine", plugins=[mine("features.targetz")])
    (result,) = report.results
    assert (result.name, result.value, result.error) == ("mine", None, "AttributeError in mine.py line 7")
    assert fault_code(report) == ConfigError.exit_code == 2
    assert gate(report, require=["results[mine.half] <= 2"]).outcome == "inconclusive"


@pytest.mark.parametrize(
    "line", ["yield 3", "yield Result(name='mine.x', probe='other', definition='', source='', value=0)"]
)
def test_what_breaks_the_contract_is_an_error_too(
    problem: Problem, swallowed: None, mine: Callable[[str], Path], line: str
) -> None:
    report = quick(problem, "mine", "vif", plugins=[mine(line)])
    assert {r.error for r in report.results} == {None, "ContractError in mine.py"}
    assert fault_code(report) == 2


def test_errors_of_both_kinds_are_a_fault(
    problem: Problem, swallowed: None, mine: Callable[[str], Path], fail: Callable[..., None]
) -> None:
    fail("gradient_rank")
    report = quick(problem, "gradient_rank", "mine", "vif", plugins=[mine("1 / 0")])
    assert len(report.warnings) == 2
    assert fault_code(report) == 4


@pytest.mark.parametrize("ended", [("reliance",), ("utilisation",), ("reliance", "utilisation")], ids="+".join)
@pytest.mark.parametrize("ignored", [[], ["audio"]], ids=["healthy", "collapsed"])
def test_nothing_passes_where_a_deciding_probe_failed(
    tmp_path: Path, swallowed: None, fail: Callable[..., None], ended: tuple[str, ...], ignored: list[str]
) -> None:
    problem = make_problem(tmp_path, ignored=ignored)
    sound = quick(problem, "reliance", "utilisation", "vif")
    for probe in ended:
        fail(probe)
    report = quick(problem, "reliance", "utilisation", "vif")
    still = "collapsed" if ignored and ended == ("reliance",) else "inconclusive"
    assert report.verdict == still  # what utilisation saw by itself still fails a gate, and nothing else does
    assert {v.verdict for v in report.modalities.values()} <= {still, "inconclusive"}
    assert all(" and ".join(ended) in v.reason for v in report.modalities.values() if v.verdict == "inconclusive")
    rules = [
        "verdict != collapsed",
        "modalities.*.verdict != collapsed",
        "verdict == healthy or modalities.*.verdict == used",
        *(["modalities.*.score <= 1", "results[utilisation.score, audio] <= 1"] if "utilisation" in ended else []),
        *(["results[reliance.full_loss] >= 0"] if "reliance" in ended else []),
    ]
    for rule in rules:
        assert gate(report, require=[rule], allow_partial=True).outcome != "passed", rule
    assert (
        gate(report, require=["results[vif.mean] >= 0"], allow_partial=True).outcome == "passed"
    )  # which needs neither
    baseline = make_baseline([make_run(sound, sound.records)])
    assert gate(report, baseline=baseline, allow_partial=True).outcome != "passed"
    assert gate(sound, baseline=baseline, allow_partial=True).outcome == "passed"


def test_records_are_made_without_what_failed(
    problem: Problem, swallowed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object) -> None:
        raise RuntimeError("no kernel for it")

    monkeypatch.setattr(
        CoalitionGame, "_learn", broken
    )  # which the records of reliance and utilisation are made of too
    report = quick(problem, "reliance", "utilisation", "vif")
    assert len(report.warnings) == 2
    assert report.records is not None
    assert set(PerExample.from_bytes(report.records, "records").columns) == {"loss", "metric"}


def test_the_pytest_plugin_does_not_take_a_fault_for_a_close_call(
    problem: Problem, swallowed: None, fail: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "plugins" / "pytest" / "src")
    from collapsekit_pytest.check import assert_not_collapsed

    how: dict[str, Any] = {"config": problem.config, "cache": problem.folder / "cache", "allow_inconclusive": True}
    fail("utilisation")
    with pytest.raises(FaultError, match="utilisation"):
        assert_not_collapsed(problem.model, **how, probes=["reliance", "utilisation"])
    assert_not_collapsed(problem.model, **how, probes=["reliance", "vif"])
