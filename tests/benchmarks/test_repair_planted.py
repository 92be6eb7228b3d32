"""What the planted benchmark of repairs counts, and that a step's cost is measured of every stage."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from statsmodels.stats.proportion import proportion_confint

from benchmarks.planted.subjects import Subject
from benchmarks.repair import cost, planted
from benchmarks.repair.planted import KINDS, attempt, candidates, main, plant, prepare
from benchmarks.repair.planted_table import able, by, explained, judged, table, wilson
from collapsekit import registry
from collapsekit.repairs.request import check_method_options
from collapsekit.repairs.training.job import Training


def record(**changed: Any) -> dict[str, Any]:
    """A subject that a method repaired: 0.5 before, 0.9 after, the reference at 0.9."""
    made: dict[str, Any] = {
        "subject": "000",
        "kind": "fusion",
        "world": "complementary",
        "task": "classification",
        "fusion": "concat",
        "method": "m",
        "planted": ["b"],
        "repaired": ["b"],
        "refused": None,
        "accepted": True,
        "verdicts": {"a": ["used", "used"], "b": ["collapsed", "used"]},
        "metric_before": 0.5,
        "metric_after": 0.9,
        "metric_reference": 0.9,
        "metric_constant": 0.25,
        "metric_healthy": 0.9,
        "difference": 0.4,
        "interval": [0.35, 0.45],
    }
    return made | changed


def moved(after: float, half: float = 0.05, **changed: Any) -> dict[str, Any]:
    """The same with another metric after, and a paired interval of this half-width."""
    apart = after - changed.get("metric_before", 0.5)
    return record(metric_after=after, difference=apart, interval=[apart - half, apart + half], **changed)


def test_a_repaired_subject_is_counted_so() -> None:
    found = judged(record())
    assert {k for k, v in found.items() if v} == {"accepted", "used", "reached", "of_prior", "repaired"}


@pytest.mark.parametrize(("after", "reached"), [(0.859, False), (0.861, True), (0.95, True)])
def test_the_gain_is_reached_from_nine_tenths_of_the_reference_s(after: float, reached: bool) -> None:
    assert judged(moved(after))["reached"] is reached
    assert judged(moved(after))["repaired"] is reached


def test_of_prior_gain_is_the_weaker_reading() -> None:
    found = judged(moved(0.84))  # 0.34 of 0.40 over the model as it was; 0.59 of 0.65 over the constant
    assert not found["reached"]
    assert found["of_prior"]


@pytest.mark.parametrize(
    ("after", "half", "reached"), [(0.895, 0.02, True), (0.895, 0.002, False), (0.87, 0.05, False)]
)
def test_where_nothing_is_to_be_gained_the_metric_must_not_be_worse(after: float, half: float, reached: bool) -> None:
    assert judged(moved(after, half, metric_before=0.9, metric_reference=0.91))["reached"] is reached


def test_what_was_rejected_is_not_repaired_and_makes_nothing_worse() -> None:
    found = judged(moved(0.3, accepted=False))
    assert (found["repaired"], found["worse"], found["worse_if_kept"]) == (False, False, True)
    assert not judged(record(accepted=False))["repaired"]
    assert judged(record(accepted=False))["used"]


@pytest.mark.parametrize(
    "changed",
    [
        {"interval": [-0.2, -0.01]},
        {"verdicts": {"a": ["used", "underused"], "b": ["collapsed", "used"]}},
        {"verdicts": {"a": ["underused", "collapsed"], "b": ["collapsed", "used"]}},
    ],
)
def test_a_subject_made_worse_is_counted(changed: dict[str, Any]) -> None:
    assert judged(record(**changed))["worse"]
    assert table([record(), record(**changed)]).splitlines()[-1].endswith("| 1 | 1 | 2 of 2 |")
    assert not judged(record(interval=[-0.01, 0.1]))["worse"]


def test_every_repaired_modality_has_to_be_used() -> None:
    both = {"a": ["collapsed", "underused"], "b": ["collapsed", "used"]}
    assert not judged(record(repaired=["a", "b"], verdicts=both))["used"]
    assert judged(record(repaired=["b"], verdicts=both))["used"]


@pytest.mark.parametrize("after", ["used", "underused", "collapsed", "inconclusive"])
@pytest.mark.parametrize("other", ["used", "underused", "collapsed"])
def test_names_of_modalities_do_not_matter(after: str, other: str) -> None:
    one = record(verdicts={"a": ["underused", other], "b": ["collapsed", after]})
    two = record(verdicts={"b": ["underused", other], "a": ["collapsed", after]}, repaired=["a"], planted=["a"])
    assert judged(one) == judged(two)


def test_a_refused_repair_is_neither_repaired_nor_worse() -> None:
    about = {
        k: v for k, v in record().items() if k not in ("verdicts", "interval", "difference", "metric_after", "repaired")
    }
    refused = about | {"refused": "kd needs a teacher.", "accepted": False}
    assert not any(judged(refused).values())
    assert explained(refused).endswith("m: kd needs a teacher.")
    assert "| m | 2 | 50% |" in table([refused, record()])


@pytest.mark.parametrize(("count", "of"), [(0, 20), (7, 20), (18, 20), (20, 20)])
def test_the_interval_is_wilson_s_of_statsmodels(count: int, of: int) -> None:
    assert wilson(count, of) == pytest.approx(proportion_confint(count, of, 0.05, method="wilson"), abs=1e-9)


def test_tables_count_each_method_and_kind_by_itself() -> None:
    records = [
        record(method=m, kind=k, accepted=(m, k) != ("n", "late")) for m in ("m", "n") for k in ("fusion", "late")
    ]
    rows = [line.split(" | ") for line in table(records).splitlines()[2:]]
    assert [row[0] for row in rows] == ["| m", "| n"]
    assert [row[7] for row in rows] == ["100%", "50%"]
    assert by(records, "kind").splitlines()[2:] == ["| fusion | 1 of 1 | 1 of 1 |", "| late | 1 of 1 | 0 of 1 |"]


def test_of_the_able_are_counted_those_whose_architecture_reaches_the_gain() -> None:
    rows = [record(metric_healthy=h, accepted=a) for h, a in ((0.87, True), (0.87, False), (0.85, True), (0.85, True))]
    assert table(rows).splitlines()[-1].endswith(" 1 of 2 |")
    assert "| 75% |" in table(rows)  # the share of all stays that of all
    assert table(rows[2:]).endswith(" 0 of 0 |")


def test_what_the_architecture_can_reach_is_counted_once_a_subject() -> None:
    made = [record(subject=s, method=m, metric_healthy=h) for s, h in (("0", 0.87), ("1", 0.85)) for m in "mn"]
    assert able(made) == "1 of 2"
    little = record(metric_before=0.89, metric_healthy=0.88)
    assert able([little]) == "1 of 1"
    assert able([little | {"metric_healthy": 0.86}]) == "0 of 1"


def test_candidates_are_the_same_twice_and_of_every_kind() -> None:
    one, two, other = (candidates(seed) for seed in (0, 0, 1))
    drawn = [next(one) for _ in range(25)]
    assert drawn == [next(two) for _ in range(25)]
    assert drawn != [next(other) for _ in range(25)]
    assert [s.kind for s in drawn[:5]] == list(KINDS)
    assert all(len(s.ignores(s.make_world())) == 1 for s in drawn)


def test_a_step_of_every_stage_is_timed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "EXAMPLES", {"train": 60, "val": 40})
    monkeypatch.setattr(cost, "INPUTS", 6)
    registry.load_builtins()
    training, options = Training(batch=8), check_method_options({})
    every = [one for m in ("finetune", "kd") for one in cost.timed(m, 4, 8, training, options)]
    assert [(one.method, one.stage.name) for one in every] == [
        ("finetune", "fine-tuning"),
        ("kd", "distilling a into b"),
        ("kd", "training the fusion"),
    ]
    before = [p.detach().clone() for p in every[1].stage.parameters]
    cost.measure(every, rounds=2, warm=1)
    assert all(len(one.seconds) == 2 and min(one.seconds) > 0 for one in every)
    assert any(not torch.equal(p, b) for p, b in zip(every[1].stage.parameters, before, strict=True))
    every[0].seconds, every[1].seconds, every[2].seconds = [1.0, 3.0, 1.0], [2.0, 2.0, 5.0], [1.0, 1.0, 1.0]
    rows = cost.table(every).splitlines()
    assert "| 1000.0 | 1.000 |" in rows[2]
    assert "| 2000.0 | 2.000 |" in rows[3]


def test_the_encoders_have_at_least_five_million_weights_each() -> None:
    with torch.device("meta"):
        model = cost.build()
    assert all(sum(p.numel() for p in e.parameters()) >= 5e6 for e in model.encoders.values())  # type: ignore[operator]


class Work:
    """In place of training: each third candidate is left out, and what was asked for is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prepared, self.attempted = list[str](), list[tuple[str, str]]()
        self.ends_after = 1000
        monkeypatch.setattr(planted, "plant", lambda subject: subject)
        monkeypatch.setattr(planted, "prepare", self.prepare)
        monkeypatch.setattr(planted, "attempt", self.attempt)

    def prepare(self, subject: Subject, folder: Path, profile: str) -> Subject | str:
        self.prepared.append(subject.name)
        return f"b, planted, is used on val ({profile})" if int(subject.name) % 3 == 0 else subject

    def attempt(self, subject: Subject, method: str, training: dict[str, Any], options: dict[str, Any]) -> Any:
        self.attempted.append((subject.name, method))
        if len(self.attempted) > self.ends_after:
            raise KeyboardInterrupt
        return record(subject=subject.name, kind=subject.kind, method=method, accepted=method != "kd")


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, without the seconds."""
    return re.sub(r"\d+ s\n", "", capsys.readouterr().out)


def test_a_run_goes_on_from_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "r.jsonl"
    asked = ["--count", "3", "--methods", "kd", "dropout"]
    Work(monkeypatch)
    main([*asked, "--records", str(tmp_path / "whole")])
    whole = shown(capsys)
    assert "000 fusion" in whole.partition("left out, the diagnosis")[2]

    ended = Work(monkeypatch)
    ended.ends_after = 3
    with pytest.raises(KeyboardInterrupt):
        main([*asked, "--records", str(file)])
    with file.open("a") as f:
        f.write('{"subject": "002", "meth')  # a line that was cut off
    rest = Work(monkeypatch)
    main([*asked, "--records", str(file)])
    assert shown(capsys) == whole
    assert file.read_text() == (tmp_path / "whole").read_text()
    assert ended.prepared == ["000", "001", "002"]
    assert rest.prepared == ["002", "003", "004"]
    assert rest.attempted == [("002", "dropout"), ("004", "kd"), ("004", "dropout")]

    again = Work(monkeypatch)
    main([*asked, "--records", str(file)])
    assert shown(capsys) == whole
    assert again.prepared == []


def test_further_methods_and_subjects_are_added_and_other_settings_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--records", str(tmp_path / "r.jsonl"), "--methods"]
    Work(monkeypatch)
    main([*asked, "kd", "--count", "1"])
    more = Work(monkeypatch)
    main([*asked, "dropout", "kd", "--count", "2"])
    assert more.attempted == [("001", "dropout"), ("002", "dropout"), ("002", "kd")]
    assert more.prepared == ["001", "002"]
    rows = shown(capsys).splitlines()
    assert any(row.startswith("| dropout | 2 | 100%") for row in rows)
    assert any(row.startswith("| kd | 2 | 0%") for row in rows)
    for other in (
        ["--seed", "1"],
        ["--profile", "quick"],
        ["--training", '{"epochs": 1}'],
        ["--set", "kd.sequence=null"],
    ):
        anew = Work(monkeypatch)
        main([*asked, "kd", "--count", "1", *other])
        assert anew.prepared == ["000", "001"]
        assert anew.attempted == [("001", "kd")]


@pytest.mark.slow
def test_one_subject_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = plant(next(s for s in candidates(0) if s.kind == "noise"))
    (tmp_path / "one").mkdir()
    case = prepare(made, tmp_path / "one", "quick")
    assert not isinstance(case, str)
    assert case.constant < float(case.metric[0]) < case.reference <= case.possible + 0.02
    assert float(case.metric[0]) < case.healthy <= case.possible + 0.02
    found = attempt(case, "finetune", {"epochs": 1, "rate": 1e-9})  # changes nothing: rejected, and not worse
    assert (found["accepted"], judged(found)["worse_if_kept"]) == (False, False)
    assert found["difference"] == pytest.approx(0, abs=0.01)
    wanted = ["--count", "1", "--kinds", "noise", "--methods", "finetune", "dropout", "--profile", "quick"]
    main([*wanted, "--records", str(tmp_path / "r")])
    kept = [json.loads(line) for line in (tmp_path / "r").read_text().splitlines()]
    assert [r["method"] for r in kept] == ["finetune", "dropout"]
    assert kept[0]["subject"] == made.subject.name
    assert kept[0]["metric_before"] == pytest.approx(float(case.metric[0]))
    assert judged(kept[1])["used"]
    assert "| dropout | 1 |" in capsys.readouterr().out
