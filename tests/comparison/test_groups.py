"""Arguments -> groups of reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from collapsekit.comparison.inputs import MOST_RUNS, read_groups
from collapsekit.errors import ConfigError, RefusedError
from tests.comparison.making import make, write


def names(*arguments: str | Path) -> list[str]:
    return [g.name for g in read_groups([str(a) for a in arguments])]


def test_plain_reports_are_called_by_what_differs_in_their_paths(tmp_path: Path) -> None:
    for place in ("a", "b", "a/out", "b/out", "x/a/out"):
        write(tmp_path / place, make())
    write(tmp_path, make(), "one.json")
    assert names(tmp_path / "a", tmp_path / "b" / "report.json") == ["a", "b"]
    assert names(tmp_path / "a/out", tmp_path / "b/out") == ["a", "b"]
    assert names(tmp_path / "a/out", tmp_path / "x/a/out") == [tmp_path.name, "x"]
    assert names(tmp_path / "a/out", tmp_path / "x/a/out", tmp_path / "b") == [
        f"{tmp_path.name}/a/out",
        "x/a/out",
        "b",
    ]
    assert names(tmp_path / "one.json", tmp_path / "a") == ["one", "a"]
    assert names(tmp_path / "a", tmp_path / "a") == ["a", "a (2)"]
    assert names(f"a={tmp_path / 'b'}", tmp_path / "a") == ["a", "a (2)"]


def test_a_report_in_the_working_directory_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "here", make())
    write(tmp_path / "there", make())
    monkeypatch.chdir(tmp_path / "here")
    assert names("report.json", "../there") == ["here", "there"]
    assert names(".", "../there") == ["here", "there"]


def test_groups_are_lists_or_folders(tmp_path: Path) -> None:
    for seed in (10, 2, 1):
        write(tmp_path / "runs" / f"seed{seed}", make(seed=seed))
        write(tmp_path / "flat", make(seed=seed), f"seed{seed}.json")
        write(tmp_path / "deep" / f"seed{seed}" / "out", make(seed=seed))
    deep = [str(tmp_path / "deep" / f"seed{s}" / "out") for s in (1, 2, 10)]
    groups = read_groups([f"a={tmp_path}/runs", f"b={tmp_path}/flat", f"c={','.join(deep)}"])
    assert [g.name for g in groups] == ["a", "b", "c"]
    for group in groups:
        assert [r.name for r in group.runs] == ["seed1", "seed2", "seed10"]
        assert [r.training_seed for r in group.runs] == [1, 2, 10]


def test_an_existing_file_with_an_equals_sign_in_its_name_is_a_path(tmp_path: Path) -> None:
    odd = write(tmp_path / "lr=0.1,wd=0", make())
    assert names(odd, odd.parent) == ["lr=0.1,wd=0", "lr=0.1,wd=0 (2)"]
    assert [len(g.runs) for g in read_groups([f"x={odd}"])] == [1]
    with pytest.raises(ConfigError, match=r"runs/lr=0\.2/report\.json is not a file"):
        read_groups(["runs/lr=0.2/report.json"])


def test_curves_are_not_kept(tmp_path: Path) -> None:
    from collapsekit.report.diagnosis import Curve
    from tests.factories import make_result

    line = Curve(x=(1.0,), y=(2.0,), x_label="x", y_label="y")
    report = make(results=[make_result("spectrum.eigenvalues", None, curve=line, skipped=None)])
    (group,) = read_groups([str(write(tmp_path / "a", report))])
    assert all(r.curve is None for r in group.runs[0].report.results)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{0}/none"], "is not a file: give a report.json"),
        (["{0}"], "holds neither report.json nor repair.json: name one, or write NAME="),
        (["x={0}/empty"], "holds neither report.json, nor folders with one"),
        (["x="], "is not of the form NAME=PATH"),
        (["={0}/a"], "is not of the form NAME=PATH"),
        (["x={0}/a", "x={0}/b"], "two groups are called 'x'"),
        (["x={0}/a,{0}/b,{0}/a/report.json"], "is given twice"),
        (["x={0}/a,{0}/none"], "none is not a file"),
    ],
)
def test_what_names_no_report_is_said(arguments: list[str], said: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, make())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as caught:
        read_groups([a.replace("{0}", str(tmp_path)) for a in arguments])
    assert said in str(caught.value)


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "repair.json").write_text('{"schema_version": 1, "kind": "gate"}')
    with pytest.raises(RefusedError, match="is not JSON"):
        read_groups([str(tmp_path / "bad.json")])
    with pytest.raises(RefusedError, match=r"of kind 'gate': give a report\.json"):
        read_groups([str(tmp_path / "repair.json")])


def test_runs_are_bounded(tmp_path: Path) -> None:
    for i in range(MOST_RUNS + 1):
        (tmp_path / f"{i}.json").touch()
    with pytest.raises(ConfigError, match=r"1,001 reports are more than the 1,000"):
        read_groups([f"x={tmp_path}"])
