"""The functions say what the commands say, and their examples are true."""

from __future__ import annotations

import doctest
import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import collapsekit
from collapsekit import Baseline, ext
from tests.cli.conftest import Run, cli  # noqa: F401
from tests.comparison.making import make
from tests.conftest import joint_trained_briefly
from tests.gating.making import make_records, make_report
from tests.gating.test_baseline import write
from tests.repairs.test_repairing import deaf

USES = {"audio": 0.9, "image": 0.9}
DEAF = {"audio": 0.05, "image": 0.9}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with reports of one training run before and after a fall, and of other seeds."""
    here = tmp_path / "work"
    for name, uses, accuracy in (("before", USES, 0.9), ("after", DEAF, 0.7)):
        write(here / name, make_report(uses, records=make_records(uses, accuracy), sha=name, training_seed=3))
    for seed in range(4):
        at = 0.88 + seed / 100
        write(here / "seeds" / str(seed), make_report(USES, records=make_records(USES, at, seed=seed), sha=str(seed)))
    return here


GATES = {
    "no rule": ((), {}),
    "a rule": (("-r", "modalities.*.score <= 0.5"), {"require": "modalities.*.score <= 0.5"}),
    "a baseline": (("-b", "one.json"), {"baseline": "one.json"}),
    "numbers": (
        ("-b", "one.json", "--watch", "use", "--alpha", "0.01", "--margin", "use=0.3", "--effect", "use=0.5"),
        {"baseline": "one.json", "watch": "use", "alpha": 0.01, "margins": {"use": 0.3}, "effects": {"use": 0.5}},
    ),
    "another run": (
        ("-b", "seeds.json", "--situation", "retrained", "-r", "verdict != collapsed"),
        {"baseline": "seeds.json", "situation": "retrained", "require": ["verdict != collapsed"]},
    ),
}


@pytest.mark.parametrize("what", GATES)
def test_gate_says_what_the_command_says(what: str, folder: Path, cli: Run) -> None:  # noqa: F811
    arguments, keywords = GATES[what]
    (folder / "one.json").write_text(collapsekit.baseline(folder / "before").to_json())
    (folder / "seeds.json").write_text(collapsekit.baseline(sorted((folder / "seeds").iterdir())).to_json())
    printed = cli("gate", "after/report.json", *arguments, "-f", "json", cwd=folder)
    for report in ("after", Path("after/report.json"), collapsekit_report(folder / "after")):
        answer = collapsekit.gate(report, **keywords)  # type: ignore[arg-type]
        assert (answer.to_json(), answer.exit_code) == (printed.stdout, printed.returncode)


def collapsekit_report(folder: Path) -> collapsekit.Report:
    """The report as an object, with what it says of each example."""
    report = collapsekit.Report.load(folder / "report.json")
    return report.with_records((folder / "records.safetensors").read_bytes())


def test_baseline_makes_what_the_commands_write(folder: Path, cli: Run) -> None:  # noqa: F811
    seeds = [f"seeds/{i}" for i in range(3)]
    assert cli("baseline", "create", *seeds, cwd=folder).returncode == 0
    file = folder / "baseline.json"
    kept_runs = collapsekit.baseline(seeds)
    assert kept_runs.to_json() == file.read_text()
    assert cli("baseline", "create", *seeds, "--no-records", "-o", "bare.json", cwd=folder).returncode == 0
    assert collapsekit.baseline(seeds, records=False).to_json() == (folder / "bare.json").read_text()

    assert cli("baseline", "update", "baseline.json", "seeds/3", "seeds/1/report.json", cwd=folder).returncode == 0
    last = collapsekit_report(folder / "seeds" / "3")
    for earlier in (kept_runs, Baseline.from_json(kept_runs.to_json())):
        assert collapsekit.baseline([last, "seeds/1"], earlier=earlier).to_json() == file.read_text()


def test_compare_says_what_the_command_says(tmp_path: Path, cli: Run) -> None:  # noqa: F811
    for group, shift in (("old", 0.0), ("new", 0.05)):
        for seed in range(7):
            write(tmp_path / "runs" / group / f"seed{seed}", make(accuracy=0.8 + shift + seed / 200, seed=seed))
    pair = ["runs/old/seed1", "runs/new/seed1/report.json"]
    printed = cli("compare", *pair, "--all", "-f", "json", cwd=tmp_path)
    assert collapsekit.compare(pair, every=True).to_json() == printed.stdout
    printed = cli(
        "compare", "o=runs/old", "n=runs/new", "--against", "n", "--only", "score", "-f", "json", cwd=tmp_path
    )
    answer = collapsekit.compare({"o": "runs/old", "n": [Path("runs/new")]}, against="n", only="score")
    assert answer.to_json() == printed.stdout
    objects = {
        name: [collapsekit.Report.load(f"runs/{folder}/seed{i}/report.json") for i in range(7)]
        for name, folder in (("o", "old"), ("n", "new"))
    }
    alike = json.loads(collapsekit.compare(objects, against="n", only="score").to_json())
    assert alike["rows"] == json.loads(printed.stdout)["rows"]


def test_columns_of_objects_and_paths_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reports = [make(0.2), make(0.5), make(0.9)]
    for name, report in zip("abc", reports, strict=True):
        write(tmp_path / name, report)
    answer = collapsekit.compare([reports[0], "b", reports[2]], only="score")
    assert [c.name for c in answer.columns] == ["report 1", "b", "report 3"]
    mixed = collapsekit.compare({"x": [reports[0], "b/report.json"], "y": "c"}, only="score")
    assert [[run.path for run in c.runs] for c in mixed.columns] == [["x 1", "b/report.json"], ["c/report.json"]]
    scores = next(row for row in mixed.rows if row.name == "score")
    first, second = (next(r for r in collapsekit.compare([one, "c"]).rows if r.name == "score") for one in "ab")
    assert scores.cells[0].value == pytest.approx((first.cells[0].value + second.cells[0].value) / 2)  # type: ignore[operator]


WRONG = {
    "no report": lambda: collapsekit.gate(3),  # type: ignore[arg-type]
    "a checkpoint": lambda: collapsekit.gate("ckpt.pt"),
    "a file that is not there": lambda: collapsekit.gate("no/report.json"),
    "no baseline": lambda: collapsekit.gate("before", baseline=[1]),  # type: ignore[arg-type]
    "a situation": lambda: collapsekit.gate("before", situation="pairs"),  # type: ignore[arg-type]
    "a level in words": lambda: collapsekit.gate("before", alpha="low"),  # type: ignore[arg-type]
    "margins that are a number": lambda: collapsekit.gate("before", margins=0.1),  # type: ignore[arg-type]
    "a margin in words": lambda: collapsekit.gate("before", margins={"use": "0.1"}),  # type: ignore[dict-item]
    "a rule": lambda: collapsekit.gate("before", require="verdict !"),
    "a baseline of nothing": lambda: collapsekit.baseline([]),
    "a baseline of numbers": lambda: collapsekit.baseline([1]),  # type: ignore[list-item]
    "an earlier one that is none": lambda: collapsekit.baseline("before", earlier=2),  # type: ignore[arg-type]
    "one run twice": lambda: collapsekit.baseline(["before", "before"]),
    "one column": lambda: collapsekit.compare(["before"]),
    "one path": lambda: collapsekit.compare("before"),
    "columns of numbers": lambda: collapsekit.compare({"a": 1, "b": 2}),  # type: ignore[dict-item]
    "no columns": lambda: collapsekit.compare(4),  # type: ignore[arg-type]
    "an empty column": lambda: collapsekit.compare({"a": [], "b": "before"}),
    "one file twice in a column": lambda: collapsekit.compare({"a": ["before", "before"], "b": "after"}),
    "a folder of runs without a name": lambda: collapsekit.compare(["seeds", "before"]),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_a_caller_can_mend_is_one_sentence(what: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(ext.ConfigError) as e:
        WRONG[what]()
    assert "\n" not in str(e.value)
    assert str(e.value).endswith(".")


def test_a_repaired_model_is_judged_by_its_report_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.sound_files import sound

    monkeypatch.chdir(tmp_path)
    (tmp_path / "repair.json").write_text(sound("repair"))
    repair = collapsekit.RepairReport.load("repair.json")
    if repair.exported:
        assert collapsekit.gate(repair).subject == collapsekit.gate("repair.json").subject == repair.after.subject
    rejected = repair.model_copy(update={"exported": False, "accepted": False})
    with pytest.raises(ext.ConfigError, match="rejected"):
        collapsekit.gate(rejected)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the examples name: a model that ignores audio, its data, config and report, and another report."""
    with joint_trained_briefly():
        yield deaf(tmp_path_factory.mktemp("examples") / "project")


@pytest.mark.parametrize(
    "name", ["baseline", "compare", "diagnose", "gate", pytest.param("repair", marks=pytest.mark.slow)]
)
def test_the_example_of_a_docstring_is_true(name: str, beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(beside)
    monkeypatch.setenv("COLLAPSEKIT_CACHE", str(beside / "cache"))
    write(beside, make_report(DEAF, records=make_records(DEAF, 0.9), sha="deaf"))
    write(beside / "other", make_report(USES, records=make_records(USES, 0.9), sha="other"))
    text = inspect.getdoc(getattr(collapsekit, name)) or ""
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert test.examples
    lines: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=lines.append)
    assert runner.failures == 0, "".join(lines)
