"""Ways to be let through by the Python API, by a plugin, or by a file that changes while it is read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import ValidationError

from collapsekit import cli
from collapsekit.cli.commands.diagnose import FailOn, judge_exit
from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.gating.baseline import make_baseline, make_run
from collapsekit.gating.criteria import Limits
from collapsekit.gating.decide import gate
from collapsekit.probes.runner import ContractError, check_result
from collapsekit.report.baseline import Baseline
from collapsekit.report.diagnosis import Report
from collapsekit.report.gate import GateReport
from collapsekit.report.per_example import NAME
from tests.factories import make_result
from tests.gating.making import make_records, make_report
from tests.sound_files import records, sound

BAD, GOOD = make_report({"audio": 0.0, "image": 0.9}), make_report()
HEALTHY = "verdict == healthy"


def baseline_of(*reports: Report) -> Baseline:
    return make_baseline([make_run(r, r.records) for r in reports])


RUNS = {"audio": 0.9, "image": 0.9}
RECORDED = make_report(records=make_records(RUNS, 0.9), sha="a")
# What is asked, and the outcome that is none of a pass.
ASKED: dict[str, tuple[Callable[[], GateReport], str]] = {
    "no rules": (lambda: gate(GOOD, require=[]), "inconclusive"),
    "no rules, in a tuple": (lambda: gate(GOOD, require=()), "inconclusive"),
    "a rule in the place of rules": (lambda: gate(BAD, require=HEALTHY), "failed"),
    "the default": (lambda: gate(BAD), "failed"),
    "one of two": (lambda: gate(BAD, require=["subject.examples > 0", HEALTHY]), "failed"),
    "the same rule twice": (lambda: gate(BAD, require=[HEALTHY, f" {HEALTHY} "]), "failed"),
    "nothing to watch": (lambda: gate(GOOD, baseline=baseline_of(GOOD), watch=()), "inconclusive"),
    "one run to compare with": (lambda: gate(make_report(sha="z"), baseline=baseline_of(GOOD)), "inconclusive"),
    "no records to pair": (lambda: gate(GOOD, baseline=baseline_of(RECORDED)), "inconclusive"),
    "a collapse since the baseline": (
        lambda: gate(
            make_report(records=make_records({"audio": 0.0, "image": 0.9}, 0.9), sha="a"),
            baseline=baseline_of(RECORDED),
        ),
        "failed",
    ),
    "a fall since the baseline": (
        lambda: gate(make_report(records=make_records(RUNS, 0.5), sha="a"), baseline=baseline_of(RECORDED)),
        "failed",
    ),
    "a level of next to nothing": (
        lambda: gate(
            make_report(records=make_records(RUNS, 0.5), sha="a"),
            baseline=baseline_of(RECORDED),
            alpha=1e-300,
        ),
        "inconclusive",
    ),
    "nothing that was measured": (
        lambda: gate(make_report(scores={"audio": None, "image": None}), require=["modalities.*.score <= 1"]),
        "inconclusive",
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_no_argument_of_gate_makes_a_failing_report_pass(name: str) -> None:
    ask, expected = ASKED[name]
    found = ask()
    assert found.outcome == expected
    assert found.exit_code != 0
    assert not found  # so that `assert gate(report)` fails


def test_a_gate_that_passed_is_true() -> None:
    assert gate(GOOD, require=HEALTHY)


WRONG: dict[str, Callable[[], object]] = {
    "an empty rule": lambda: gate(GOOD, require=[""]),
    "a rule of nothing": lambda: gate(GOOD, require=""),
    "a value beside itself": lambda: gate(BAD, require=["results[vif.mean] == results[vif.mean]"]),
    "watching letters": lambda: Limits(watch=cast(Any, "metric")),
    "watching what there is not": lambda: Limits(watch=("use", "nothing")),
    "a level that is none": lambda: Limits(alpha=float("nan")),
    "a margin below 0": lambda: Limits(margins={"use": -1.0}),
    "a margin of NaN": lambda: Limits(margins={"use": float("nan")}),
    "an effect under the margin": lambda: Limits(margins={"use": 0.5}, effects={"use": 0.4}),
    "a pair without a baseline": lambda: gate(GOOD, situation="paired"),
    "a pair that is none": lambda: gate(make_report(sha="z"), baseline=baseline_of(GOOD), situation="paired"),
    "other modalities": lambda: gate(make_report({"audio": 0.9, "depth": 0.9}), baseline=baseline_of(GOOD)),
    "other examples": lambda: gate(make_report(content="others"), baseline=baseline_of(GOOD)),
    "fewer examples": lambda: gate(make_report(examples=100), baseline=baseline_of(GOOD)),
    "one run twice": lambda: baseline_of(GOOD, GOOD),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_of_gate_are_refused(name: str) -> None:
    with pytest.raises(CollapsekitError):
        WRONG[name]()


@pytest.mark.parametrize("outcome", ["passed", "inconclusive"])
def test_an_outcome_is_what_its_checks_give(outcome: str) -> None:
    with pytest.raises(ValidationError, match="does not follow"):
        GateReport.model_validate({**gate(BAD).model_dump(), "outcome": outcome})


@pytest.mark.parametrize(
    ("asked", "uses", "code"),
    [
        (["collapsed"], {"audio": 0.0}, 1),
        (["underused"], {"audio": 0.0}, 1),  # worse than what may not be
        (["underused"], {"audio": 0.25}, 1),
        (["collapsed"], {"audio": 0.25}, 0),
        (["uninformative"], {"audio": 0.0}, 0),
        (["uninformative", "underused"], {"audio": 0.0}, 1),
        ([], {"audio": 0.0}, 0),
    ],
)
def test_a_diagnosis_fails_by_the_verdicts_that_fail_on_names(
    asked: list[str], uses: dict[str, float], code: int
) -> None:
    assert judge_exit(make_report({**uses, "image": 0.9}), [FailOn(f) for f in asked])[0] == code


@pytest.mark.parametrize(
    ("name", "modality"), [("utilisation.ratio", None), ("utilisation.ratio", "audio"), ("reliance", None)]
)
def test_a_plugin_does_not_answer_for_another_probe(name: str, modality: str | None) -> None:
    """Verdicts are read from what is called so."""
    spec, features = cast(Any, SimpleNamespace(name="mine")), cast(Any, SimpleNamespace(modalities=("audio", "image")))
    given = make_result(name, 1.0, modality).model_copy(update={"probe": "mine"})
    with pytest.raises(ContractError, match="is a name of the probe"):
        check_result(spec, given, features, [])


def test_what_is_said_of_the_whole_never_takes_the_place_of_ones_own() -> None:
    from collapsekit.report.verdicts import judge

    whole = make_result("utilisation.ratio", 1.0)
    for found in ((*BAD.results, whole), (whole, *BAD.results)):
        assert judge(found, ("audio", "image"), "accuracy")[2]["audio"].verdict == "collapsed"


def test_a_report_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written over in place, as no tool should: it is the collapsed report, or none."""
    monkeypatch.chdir(tmp_path)
    whole, done = sound("report").encode(), threading.Event()
    (tmp_path / "report.json").write_bytes(whole)
    (tmp_path / NAME).write_bytes(records())

    def write() -> None:
        while not done.is_set():
            for part in (b"", whole[:2000], whole, whole.replace(b'"collapsed"', b'"healthy"')):
                (tmp_path / "report.json").write_bytes(part)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        codes = {cli.run(["gate", "report.json", "-q"]) for _ in range(25)}
    finally:
        done.set()
        writer.join()
    assert codes <= {1, 3}


def test_a_report_of_nothing_is_no_config() -> None:
    with pytest.raises(ConfigError):
        gate(GOOD, require=["results"])


RULES = [
    *("not modalities.audio.score > 0.5", "modalities.*.score <= 0.5", "0.5 >= modalities.audio.score"),
    *(
        "verdict == healthy",
        "not verdict == collapsed",
        "(verdict == healthy)",
        "modalities.audio.score < 1 and results[vif.mean] < 5",
    ),
    *("results[vif.mean] < 5", "modalities.audio.score<=+0.5", "not not modalities.audio.score < 0.5"),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("report", [GOOD, BAD], ids=["good", "bad"])
def test_what_a_gate_writes_loads(rule: str, report: Report) -> None:
    found = gate(report, require=rule)
    assert GateReport.from_json(found.to_json()) == found
