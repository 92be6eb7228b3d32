"""Files that were edited by someone who made the digests again, and files that are none: no gate passes by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from collapsekit.cli import app
from collapsekit.errors import RefusedError
from collapsekit.report.base import sealed
from collapsekit.report.gate import GateReport
from collapsekit.report.per_example import NAME
from tests.report.test_invariants import Change, Raw, both, judged_again, put, result
from tests.sound_files import KINDS, records, sound

RULE = "subject.examples > 0"  # which every report meets: so nothing but what is wrong with the file fails


def of_b(**changes: Any) -> Change:
    return put(lambda v: {**v, **changes}, "modalities", "b")


def appended(**fields: Any) -> Change:
    """One more result."""
    plain = {"modality": None, "versus": None, "interval": None, "unit": None, "definition": "d", "source": "s"}

    def change(raw: Raw) -> None:
        raw["results"].append({**raw["results"][0], **plain, **fields})

    return change


def again(change: Change) -> Change:
    return both(change, judged_again)


FAILED = {
    "skipped": "a fault of collapsekit ended the probe",
    "error": "ValueError in collapsekit/probes/reliance.py line 1",
}
# Edits after which everything else was made again to fit: only numbers that hang together tell.
REPORT: dict[str, Change] = {
    "a ratio that its credits do not give": again(result("utilisation.ratio", "b", value=1.0, interval=[0.9, 1.1])),
    "a score that its credits do not give": again(result("utilisation.score", "b", value=0.1, interval=[0.0, 0.2])),
    "a credit that was raised": again(
        both(
            result("utilisation.credit", "b", value=0.07, interval=[0.06, 0.08]),
            result("utilisation.ratio", "b", value=1.0, interval=[0.9, 1.1]),
        )
    ),
    "what is due lowered": again(result("utilisation.reference_credit", "b", value=0.002, interval=[0.0, 0.004])),
    "a share that its credits do not give": again(result("utilisation.share", "b", value=0.5, interval=[0.4, 0.6])),
    "credits that do not add up": again(result("reliance.shapley", "b", value=0.5, interval=[0.4, 0.6])),
    "credits in the metric that do not add up": again(
        result("reliance.shapley_metric", "b", value=0.5, interval=[0.4, 0.6])
    ),
    "a ratio of everyone's": again(
        appended(name="utilisation.ratio", probe="utilisation", value=1.0, interval=[0.9, 1.1])
    ),
    "a ratio of everyone's, from another probe": again(
        appended(name="utilisation.ratio", probe="mine", value=1.0, interval=[0.9, 1.1])
    ),
    "credit of everyone's": again(appended(name="utilisation.credit", probe="utilisation", value=0.5)),
    "a prior of one modality's": again(
        appended(name="utilisation.prior_loss", probe="utilisation", modality="b", value=100.0)
    ),
    "a result under a deciding probe's name": again(result("vif.max", probe="reliance")),
    "an error under another probe's name": again(
        appended(name="reliance", probe="mine", value=None, curve=None, **FAILED)
    ),
    "an accuracy over 1": again(result("reliance.full_metric", value=1.5, interval=[1.4, 1.6])),
    "an accuracy under 0": again(result("reliance.full_metric", value=-0.5, interval=[-0.6, -0.4])),
    "a curve of other numbers than the results": again(
        lambda raw: next(r for r in raw["results"] if r["name"] == "reliance.subsets_metric")["curve"].update(
            y=[0.1] * len(next(r for r in raw["results"] if r["name"] == "reliance.subsets_metric")["curve"]["y"])
        )
    ),
    "a curve outside of its own bounds": lambda raw: next(r for r in raw["results"] if r["name"] == "reliance.subsets")[
        "curve"
    ].update(lower=[9.0] * 4, upper=[8.0] * 4),
    "a level that is none": put(7, "settings", "level"),
    "a modality that looks like another": both(
        put(["a", "b", "b "], "subject", "modalities"),
        lambda raw: raw["modalities"].update({"b ": raw["modalities"]["a"]}),
    ),
    "a metric without a name": put("", "subject", "metric"),
    "a split without a name": both(put("", "subject", "split"), put("", "settings", "split")),
    "a checkpoint without a name": put("", "subject", "checkpoint"),
    "examples past all bounds": put(10**60, "subject", "examples"),
    "examples with a fraction": put(150.0, "subject", "examples"),
    "a version that is a fraction": put(2.0, "schema_version"),
    "a version that is true": put(True, "schema_version"),
    "a version as text": put("2", "schema_version"),
    "no version": lambda raw: raw.pop("schema_version"),
    "a version to come": put(3, "schema_version"),
    "NaN as text": result("vif.max", value="NaN"),
    "a null for a truth": result("vif.max", value=None),
    "a value and a reason": result("vif.max", skipped="no"),
    "a verdict in capitals": of_b(verdict="Used"),
    "a verdict with a space": of_b(verdict="used "),
    "a verdict of look-alike letters": of_b(verdict="us\u0435d"),
    "modalities as a list": put([], "modalities"),
    "results as an object": put({}, "results"),
    "a key that is none": lambda raw: raw.update(verdicts="healthy"),
    "a kind of another file": lambda raw: raw.update(kind="gate"),
    "a warning of a failed probe, and no failed probe": lambda raw: raw.update(
        warnings=[{"name": "probe_failed", "sentence": "The probe reliance measured nothing."}]
    ),
    "records of nobody": put("0" * 64, "settings", "records"),
    "version 1 with a field of version 2": both(put(1, "schema_version"), lambda raw: raw.update(config="x.yaml")),
}


def text_of(raw: Raw) -> str:
    return json.dumps(sealed(KINDS["report"], raw) if raw.get("schema_version") == 2 else raw)


def gated(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["gate", *arguments])
    return done.exit_code, done.stdout + done.stderr


@pytest.mark.parametrize("name", REPORT)
def test_an_edited_report_does_not_load(name: str, tmp_path: Path) -> None:
    raw = json.loads(sound("report"))
    REPORT[name](raw)
    (tmp_path / "report.json").write_text(text_of(raw))
    (tmp_path / NAME).write_bytes(records())
    code, said = gated(str(tmp_path / "report.json"), "--require", RULE)
    assert code == 3, said
    assert "Traceback" not in said


def of_rules(verdict: str = "collapsed", **found: Any) -> dict[str, Any]:
    """A gate's file of two rules that the report met, with that found instead."""
    raw = json.loads(sound("gate"))
    rules = ["verdict == collapsed", "modalities.a.score <= 0.5"]
    checks = [{**c, **(found if c["name"] == rules[1] else {})} for c in raw["checks"] if c["name"] in rules]
    states = {"a": "used", "b": "used" if verdict == "healthy" else "collapsed"}
    raw |= {"checks": checks, "outcome": "passed", "summary": "All 2 checks passed.", "against": None}
    return {**raw, "verdict": verdict, "modalities": states, "settings": {**raw["settings"], "require": rules}}


@pytest.mark.parametrize("changes", [{"verdict": "healthy"}, {"found": 0.9}, {"found": 0.500001}])
def test_a_rule_passes_by_what_was_found(changes: dict[str, Any]) -> None:
    GateReport.from_data(sealed(GateReport, of_rules()))
    with pytest.raises(RefusedError, match="which what was found does not give"):
        GateReport.from_data(sealed(GateReport, of_rules(**changes)))
