"""Files of which a part contradicts another, with their digests made again: none loads, and no gate passes by one."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from collapsekit.cli import app
from collapsekit.errors import RefusedError
from collapsekit.report.base import sealed
from collapsekit.report.diagnosis import Result
from collapsekit.report.per_example import NAME, PerExample
from collapsekit.report.verdicts import judge
from tests.sound_files import KINDS, records, sound

Raw = dict[str, Any]
Change = Callable[[Raw], object]


def at(*path: Any) -> Callable[[Raw], Any]:
    def get(raw: Any) -> Any:
        for key in path:
            raw = raw[key]
        return raw

    return get


def put(value: Any, *path: Any) -> Change:
    """The value at a place replaced, or made of what is there."""

    def change(raw: Raw) -> None:
        holder = at(*path[:-1])(raw)
        holder[path[-1]] = value(holder[path[-1]]) if callable(value) else value

    return change


def result(name: str, modality: str | None = None, /, **changes: Any) -> Change:
    """Fields of a result replaced."""

    def change(raw: Raw) -> None:
        found = next(r for r in raw["results"] if (r["name"], r["modality"]) == (name, modality))
        found.update({k: v(found[k]) if callable(v) else v for k, v in changes.items()})

    return change


def curve(name: str, /, **changes: Any) -> Change:
    """Fields of the curve of a result replaced."""

    def change(raw: Raw) -> None:
        found = next(r for r in raw["results"] if r["name"] == name)["curve"]
        found.update({k: v(found[k]) if callable(v) else v for k, v in changes.items()})

    return change


def check(name: str, /, **changes: Any) -> Change:
    """Fields of a check replaced."""

    def change(raw: Raw) -> None:
        found = next(c for c in raw["checks"] if c["name"] == name)
        found.update({k: v(found[k]) if callable(v) else v for k, v in changes.items()})

    return change


def both(*changes: Change) -> Change:
    def change(raw: Raw) -> None:
        for one in changes:
            one(raw)

    return change


def without(*path: Any) -> Change:
    def change(raw: Raw) -> None:
        del at(*path[:-1])(raw)[path[-1]]

    return change


def again(*path: Any) -> Change:
    """An entry of a list there twice."""

    def change(raw: Raw) -> None:
        at(*path[:-1])(raw).append(json.loads(json.dumps(at(*path)(raw))))

    return change


def extra_modality(raw: Raw) -> None:
    raw["modalities"]["c"] = raw["modalities"]["a"]


def renamed_modality(raw: Raw) -> None:
    raw["modalities"]["c"] = raw["modalities"].pop("b")


def row(name: str, /, **changes: Any) -> Change:
    def change(raw: Raw) -> None:
        found = next(r for r in raw["rows"] if r["name"] == name)
        found.update({k: v(found[k]) if callable(v) else v for k, v in changes.items()})

    return change


def cell(name: str, column: int, /, **changes: Any) -> Change:
    def change(raw: Raw) -> None:
        found = next(r for r in raw["rows"] if r["name"] == name)["cells"][column]
        found.update({k: v(found[k]) if callable(v) else v for k, v in changes.items()})

    return change


def test_of(**changes: Any) -> Change:
    def change(raw: Raw) -> None:
        tests = [c["test"] for r in raw["rows"] for c in r["cells"] if c["test"] is not None]
        tests[0].update({k: v(tests[0][k]) if callable(v) else v for k, v in changes.items()})

    return change


test_of.__test__ = False  # type: ignore[attr-defined]

REPORT: dict[str, Change] = {
    "the whole is healthy while a modality is collapsed": put("healthy", "verdict"),
    "the whole is inconclusive while none is": put("inconclusive", "verdict"),
    "no verdicts": put({}, "modalities"),
    "a verdict left out": without("modalities", "b"),
    "a verdict of one that is not there": extra_modality,
    "a verdict under another name": renamed_modality,
    "a modality hidden": put(["a"], "subject", "modalities"),
    "a modality twice": put(["a", "b", "b"], "subject", "modalities"),
    "no modalities": both(put([], "subject", "modalities"), put({}, "modalities"), put("healthy", "verdict")),
    "an empty name": put(["a", " "], "subject", "modalities"),
    "a verdict flipped": both(put("used", "modalities", "b", "verdict"), put("healthy", "verdict")),
    "a verdict flipped, the whole and the summary too": both(
        put("used", "modalities", "b", "verdict"),
        put("healthy", "verdict"),
        put("The model uses every modality.", "summary"),
    ),
    "a score below 0": put(-5.0, "modalities", "b", "score"),
    "a score over 1": put(1.5, "modalities", "b", "score"),
    "a score outside of its interval": put(0.0, "modalities", "b", "score"),
    "a score that is not its result's": both(
        put(0.5, "modalities", "b", "score"), put([0.4, 0.6], "modalities", "b", "interval")
    ),
    "an interval that reaches over 1": put([0.8, 1.2], "modalities", "b", "interval"),
    "an interval without a score": put(None, "modalities", "b", "score"),
    "costs that are not their result's": put(0.001, "modalities", "b", "costs_now"),
    "costs below 0": put(-0.1, "modalities", "b", "costs_now"),
    "costs without another's": put(0.0, "modalities", "b", "costs_if_missing", "a"),
    "costs of an unknown one": put({"a": 0.1, "z": 0.1}, "modalities", "b", "costs_if_missing"),
    "costs of itself": put({"b": 0.1}, "modalities", "b", "costs_if_missing"),
    "evidence that is not there": put(["no.such"], "modalities", "b", "evidence"),
    "evidence twice": put(lambda e: [*e, e[0]], "modalities", "b", "evidence"),
    "the ratio of a collapsed one raised": result("utilisation.ratio", "b", value=1.0, interval=[0.9, 1.1]),
    "the score's result lowered": result("utilisation.score", "b", value=0.1, interval=[0.0, 0.2]),
    "the evidence of a collapse dropped": lambda raw: raw.update(
        results=[r for r in raw["results"] if r["modality"] != "b"]
    ),
    "no examples": put(0, "subject", "examples"),
    "fewer than no examples": put(-7, "subject", "examples"),
    "a result twice": again("results", 3),
    "two results of one name": lambda raw: raw["results"].append({**raw["results"][3], "value": 0.5, "interval": None}),
    "a result without a name": result("vif.max", name=""),
    "a probe without a name": result("vif.max", probe=" "),
    "a result of an unknown modality": result("reliance.shapley", "a", modality="z"),
    "a result beside an unknown modality": result("reliance.shapley", "a", versus="z"),
    "a value outside of its interval": result("reliance.full_metric", value=0.1),
    "an interval with its ends swapped": result("reliance.full_metric", interval=lambda i: i[::-1]),
    "an interval over its upper bound": result("reliance.full_metric", interval=[0.0, 1.01], bounds=[0, 1]),
    "an interval under its lower bound": result("reliance.full_loss", interval=[-0.1, 9.0], bounds=[0, None]),
    "a value over its upper bound": result("vif.max", value=40.0, interval=None, bounds=[1, 39.5]),
    "a value over the only bound": result("vif.max", value=40.0, interval=None, bounds=[None, 39.5]),
    "bounds with their ends swapped": result("vif.max", bounds=[1e9, 1]),
    "bounds that are none": result("vif.max", bounds=[None, None, 1]),
    "a bound as text": result("vif.max", bounds=["1", None]),
    "a curve that goes beyond its bounds": curve("reliance.subsets_metric", bounds=[0, 0.2]),
    "a curve whose band goes beyond its bounds": curve(
        "reliance.subsets_metric", bounds=[0, 1], upper=lambda u: [1.2] * len(u)
    ),
    "a number as text": result("reliance.full_metric", value="0.9"),
    "a number as truth": result("reliance.full_metric", value=True),
    "an end as truth": result("reliance.full_metric", interval=[False, True]),
    "examples as text": put("150", "subject", "examples"),
    "a seed as truth": put(True, "subject", "seed"),
    "a score as text": put("0.9", "modalities", "b", "score"),
    "a sha256 of 63 digits": put("0" * 63, "subject", "sha256"),
    "a sha256 of no digits": put("g" * 64, "subject", "sha256"),
    "a summary of another verdict": put("The model uses every modality.", "summary"),
    "a summary of another modality": put("The model ignores a, which carries label information.", "summary"),
    "a summary that decides nothing": put("The evidence does not decide about b: see.", "summary"),
    "another split in its settings": put("val", "settings", "split"),
    "another seed in its settings": put(7, "settings", "seed"),
    "a seed in its settings that is a truth": put(False, "settings", "seed"),
    "a limit under its examples": put(10, "settings", "limit"),
    "a training seed as text": put("1", "settings", "training_seed"),
    "a digest of records that is none": put("1", "settings", "records"),
    "probes in its settings that are no mapping": put(5, "settings", "probes"),
    "a config that is no mapping": put([1], "settings", "config"),
    "modalities of a config that are none": put({"modalities": 5}, "settings", "config"),
    "a modality of a config that is a number": put({"modalities": {"b": 7}}, "settings", "config"),
    "a gate of a config that is no mapping": put({"gate": 7}, "settings", "config"),
    "a rule of the gate that is a number": put({"gate": {"require": [7]}}, "settings", "config"),
    "rules of the gate that are a text": put({"gate": {"require": "x"}}, "settings", "config"),
    "judged fully, and something missing": lambda raw: raw.update(judged={"extent": "fully", "missing": ["x"]}),
    "judged partly, and nothing missing": lambda raw: raw.update(judged={"extent": "partly", "missing": []}),
    "a warning that says nothing": lambda raw: raw.update(warnings=[{"name": "x", "sentence": ""}]),
    "an engine without a name": put("", "subject", "engine"),
    "an error of what was not skipped": result("vif.max", error="ValueError at x.py"),
}
REPAIR: dict[str, Change] = {
    "accepted by failing checks": both(put(True, "accepted"), put(True, "exported")),
    "a failing check left out": lambda raw: raw.update(
        checks=[c for c in raw["checks"] if c["passed"]], accepted=False, exported=False
    ),
    "no checks": lambda raw: raw.update(checks=[], accepted=True, exported=True, summary="s"),
    "a failing check left out, and accepted": lambda raw: raw.update(
        checks=[c for c in raw["checks"] if c["passed"]], accepted=True, exported=True, summary="s"
    ),
    "a check turned": both(
        check("score.b", passed=True), lambda raw: raw.update(accepted=True, exported=True, summary="s")
    ),
    "a difference of other numbers": check("metric", after=0.1),
    "a difference that passes of scores that do not": both(
        check("score.b", passed=True, difference=-0.5),
        lambda raw: raw.update(accepted=True, exported=True, summary="s"),
    ),
    "a difference outside of its interval": check("metric", interval=[0.5, 0.6]),
    "a loss that passed": check("metric", after=lambda v: v - 0.5, difference=-0.5, interval=[-0.6, -0.4]),
    "a score over 1": check("still_used.a", before=1.5, difference=-1.5),
    "a check twice": again("checks", 0),
    "a check of an unknown modality": check("still_used.a", name="still_used.z"),
    "a check of one that was not repaired": check("score.b", name="score.a"),
    "passed as a number": check("metric", passed=1),
    "accepted and not exported": lambda raw: raw.update(
        accepted=True,
        exported=False,
        summary="s",
        checks=[{**c, "passed": True, "before": 0.8, "after": 0.2, "difference": 0.2 - 0.8} for c in raw["checks"][1:]],
    ),
    "a summary of another end": put(lambda s: s.replace("was rejected", "was accepted"), "summary"),
    "another split after": both(put("val", "after", "subject", "split"), put("val", "after", "settings", "split")),
    "fewer examples after": put(20, "after", "subject", "examples"),
    "another metric after": put("auroc", "after", "subject", "metric"),
    "another task after": put("regression", "after", "subject", "task"),
    "a verdict after turned": both(
        put("used", "after", "modalities", "b", "verdict"), put("healthy", "after", "verdict")
    ),
    "a modality after hidden": put(["a"], "after", "subject", "modalities"),
    "other examples after": put("0" * 64, "after", "settings", "examples"),
    "another checkpoint before": put("0" * 64, "base_sha256"),
    "another name of the checkpoint": put("other.pt", "base"),
    "an unknown one repaired": put(["z"], "repaired"),
    "nobody repaired": put([], "repaired"),
    "one repaired twice": put(["b", "b"], "repaired"),
    "no method": put([], "method"),
    "an epoch kept that was not": put(9, "losses", 0, "kept"),
    "epochs out of order": put([0, 2, 1], "losses", 0, "epochs"),
    "a finding of an unknown modality": lambda raw: raw.update(
        findings=[{"name": "x", "probe": "x", "modality": "z", "value": 1.0, "definition": "d", "source": "s"}]
    ),
}
GATE: dict[str, Change] = {
    "an outcome that does not follow": put("passed", "outcome"),
    "what decided nothing left out": lambda raw: raw.update(
        outcome="passed", checks=[c for c in raw["checks"] if c["state"] == "passed"]
    ),
    "a watched number left out": lambda raw: raw.update(
        checks=[c for c in raw["checks"] if c["kind"] == "rule" or c["modality"] is not None]
    ),
    "a check twice": again("checks", 0),
    "a rule that was not asked for": check("verdict == collapsed", name="verdict == healthy"),
    "a rule with a p": check("verdict == collapsed", p=0.5),
    "a comparison without numbers that passed": check("accuracy", found=None),
    "a comparison that fails by no number": both(check("accuracy", state="failed"), put("failed", "outcome")),
    "a fall that passed": check("accuracy", difference=0.5, interval=[0.4, 0.6], p=0.001, p_holm=0.001),
    "a p over 1": check("accuracy", p=1.5),
    "a corrected p under the p": check("accuracy", p=0.9, p_holm=0.1),
    "a p as truth": check("accuracy", p=True),
    "a difference outside of its interval": check("accuracy", difference=0.5),
    "a comparison of another situation": check("accuracy", kind="retrained"),
    "a passed one that needs more": check("accuracy", needed=3),
    "one that could have seen nothing passed": check("accuracy", detectable=None),
    "an unknown modality": check("use of a", modality="z"),
    "against no runs": put(0, "against", "runs"),
    "paired with several": put(2, "against", "runs"),
    "no baseline for its comparisons": put(None, "against"),
    "a verdict of the whole": put("healthy", "verdict"),
    "a modality hidden": without("modalities", "b"),
    "no examples": put(0, "subject", "examples"),
    "a summary of another outcome": put("All 6 checks passed.", "summary"),
    "an alpha of 1": put(1.0, "settings", "alpha"),
}
COMPARISON: dict[str, Change] = {
    "one column": lambda raw: raw.update(
        columns=raw["columns"][:1], rows=[{**r, "cells": r["cells"][:1]} for r in raw["rows"]], testing=None
    ),
    "a column twice": put("a", "columns", 1, "name"),
    "a column without runs": put([], "columns", 0, "runs"),
    "a cell left out": without("rows", 0, "cells", 0),
    "a row twice": again("rows", 2),
    "a row of an unknown modality": put("z", "rows", 1, "modality"),
    "more runs than the column has": cell("reliance.full_metric", 0, runs=9),
    "verdicts that are not as many": cell("verdict", 0, states={"collapsed": 2}),
    "an unknown verdict": cell("verdict", 0, states={"fine": 6}),
    "a verdict for a number": cell(
        "reliance.full_metric", 0, value=None, sd=None, best=False, states={"used": 6}, test=None
    ),
    "neither value nor reason": cell("reliance.full_metric", 0, value=None, sd=None, best=False),
    "another best": cell("reliance.full_metric", 0, best=True),
    "no best": cell("reliance.full_metric", 1, best=False),
    "a deviation below 0": cell("reliance.full_metric", 0, sd=-1.0),
    "an interval of several runs": cell("reliance.full_metric", 0, interval=[0.0, 1.0]),
    "a value as text": cell("reliance.full_metric", 0, value="0.9"),
    "a test that is not significant": test_of(significant=lambda s: not s),
    "a corrected p that Holm does not give": test_of(p_holm=lambda p: p / 2),
    "more pairs than there are": test_of(pairs=7, differing=7),
    "more pairs differ than there are": test_of(differing=99),
    "another number of tests": put(lambda n: n + 1, "testing", "tests"),
    "no reference": put("c", "testing", "reference"),
    "tests of nothing": put(None, "testing"),
    "no examples": put(0, "examples"),
    "a run of no sha256": put("x", "columns", 0, "runs", 0, "sha256"),
}


def one_run_thrice(raw: Raw) -> None:
    raw["runs"] = [json.loads(json.dumps(raw["runs"][0])) for _ in range(3)]


def of_a_run(change: Change) -> Change:
    return lambda raw: change(raw["runs"][1]["report"])


BASELINE: dict[str, Change] = {
    "one run three times": one_run_thrice,
    "the same weights under another seed": both(
        again("runs", 0), put(9, "runs", 2, "report", "settings", "training_seed"), put(None, "runs", 2, "records")
    ),
    "the same training seed": put(0, "runs", 1, "report", "settings", "training_seed"),
    "a training seed as text": put("1", "runs", 1, "report", "settings", "training_seed"),
    "no runs": put([], "runs"),
    "a run of another task": put("regression", "runs", 1, "report", "subject", "task"),
    "a run of another split": both(
        put("val", "runs", 1, "report", "subject", "split"), put("val", "runs", 1, "report", "settings", "split")
    ),
    "a run of other modalities": of_a_run(both(put(["a", "c"], "subject", "modalities"), renamed_modality)),
    "records of another run": lambda raw: raw["runs"][0].update(records=raw["runs"][1]["records"]),
    "records that are no base64": put("!", "runs", 0, "records"),
    "a number that is not that of its records": of_a_run(
        result("reliance.full_metric", value=lambda v: v - 0.1, interval=[0.0, 1.0])
    ),
    **{f"in a run, {name}": of_a_run(REPORT[name]) for name in list(REPORT)[::7]},
}
TABLE = {
    "report": REPORT,
    "repair": REPAIR,
    "gate": GATE,
    "comparison": COMPARISON,
    "baseline": BASELINE,
}
CASES = [(kind, name) for kind, changes in TABLE.items() for name in changes]


def changed(kind: str, name: str) -> Raw:
    raw: Raw = json.loads(sound(kind))
    before = json.dumps(raw)
    TABLE[kind][name](raw)
    assert json.dumps(raw) != before
    return sealed(KINDS[kind], raw)


def test_the_files_that_are_changed_are_sound() -> None:
    for kind, model in KINDS.items():
        assert model.from_json(json.dumps(sealed(model, json.loads(sound(kind))))).to_json() == sound(kind)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_what_contradicts_itself_neither_loads_nor_passes(kind: str, name: str, tmp_path: Path) -> None:
    raw = changed(kind, name)
    file = tmp_path / f"{kind}.json"
    file.write_text(json.dumps(raw))
    try:
        KINDS[kind].load(file)
    except RefusedError as e:
        said = str(e)
        assert "was changed after it was written" not in said  # the digest is right, so this is not what tells
        assert said.isprintable()
    else:
        pytest.fail("it loads")
    arguments = [str(file)]
    if kind == "baseline":
        (tmp_path / "sound.json").write_text(sound("report"))
        arguments = [str(tmp_path / "sound.json"), "--baseline", str(file)]
    done = CliRunner().invoke(app, ["gate", *arguments, "--require", "verdict != healthy"])
    assert done.exit_code == 3, done.output
    assert done.stdout == ""


RECORDED = [
    ("reliance.full_metric", None),
    ("reliance.full_loss", None),
    ("utilisation.credit", "a"),
    ("reliance.leave_one_out", "b"),
    ("reliance.leave_one_out_metric", "b"),
]


def alone(raw: Raw) -> None:
    """Without the results that say the same as those of RECORDED in other ways; verdicts follow from the rest."""
    gone = (
        "reliance.shapley",
        "reliance.subsets",
        "reliance.empty",
        "utilisation.reference_credit",
        "utilisation.share",
    )
    raw["results"] = [r for r in raw["results"] if not r["name"].startswith(gone)]
    judged_again(raw)


def judged_again(raw: Raw) -> None:
    """Verdicts, evidence and summary made anew from the results, as one who has the tool would."""
    found = [Result.model_validate(r) for r in raw["results"]]
    made = judge(found, raw["subject"]["modalities"], raw["subject"]["metric"])
    each = {m: v.model_dump(mode="json") for m, v in made.each.items()}
    raw |= {**made.fields, "judged": made.judged.model_dump(mode="json"), "modalities": each}


@pytest.mark.parametrize(("name", "modality"), RECORDED)
@pytest.mark.parametrize("command", ["gate", "report", "compare", "baseline"])
def test_a_number_that_is_not_that_of_its_records_is_refused(
    name: str, modality: str | None, command: str, tmp_path: Path
) -> None:
    raw = json.loads(sound("report"))
    alone(raw)
    result(name, modality, value=lambda v: v - 0.1, interval=lambda i: [i[0] - 1, i[1] + 1])(raw)
    judged_again(raw)  # so that only its records speak against it
    file = tmp_path / "report.json"
    file.write_text(json.dumps(sealed(KINDS["report"], raw)))
    line = {
        "gate": ["gate", str(file), "--require", "verdict == collapsed"],
        "report": ["report", str(file)],
        "compare": ["compare", str(file), str(file)],
        "baseline": ["baseline", "create", str(file), "-o", str(tmp_path / "b.json")],
    }[command]
    (tmp_path / NAME).write_bytes(records())
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 3, done.output
    assert "contradicts its records" in done.stderr.replace("\n", " ")


def test_records_of_more_examples_than_the_report_are_refused(tmp_path: Path) -> None:
    whole = PerExample.from_bytes(records(), "r")
    fewer = PerExample(whole.ids[:-1], None, {k: v[:-1] for k, v in whole.columns.items()}).to_bytes()
    raw = json.loads(sound("report"))
    raw["settings"]["records"] = hashlib.sha256(fewer).hexdigest()
    (tmp_path / "report.json").write_text(json.dumps(sealed(KINDS["report"], raw)))
    (tmp_path / NAME).write_bytes(fewer)
    done = CliRunner().invoke(app, ["gate", str(tmp_path / "report.json")])
    assert done.exit_code == 3
    assert "149 examples" in done.stderr


def test_means_are_those_of_numpy_and_what_is_no_file_of_records_is_said() -> None:
    from collapsekit.report.per_example import Means, means_of

    found = means_of(records())
    assert isinstance(found, Means)
    whole = PerExample.from_bytes(records(), "r")
    assert found.examples == len(whole.ids)
    assert {k: v[0] for k, v in found.columns.items()} == pytest.approx(
        {k: v.astype(np.float64).mean() for k, v in whole.columns.items()}, rel=1e-12
    )
    for data in (b"", b"x" * 7, b"\xff" * 100, records()[:-1], b"\x02" + bytes(7) + b"{}", b"\x02" + bytes(7) + b"[]"):
        assert isinstance(means_of(data), str)


def test_there_are_many_ways_and_each_kind_has_some() -> None:
    assert len(CASES) >= 140
    assert base64.b64decode(json.loads(sound("baseline"))["runs"][0]["records"])[:1]
