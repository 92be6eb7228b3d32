"""collapsekit gate and baseline, as typed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collapsekit.report.diagnosis import Report
from collapsekit.report.gate import EXIT_CODES, GateReport
from tests.cli.conftest import Run
from tests.cli.test_commands import small  # noqa: F401
from tests.gating.making import make_records, make_report
from tests.gating.test_baseline import write

USES = {"audio": 0.9, "image": 0.9}
HEALTHY = make_report(USES, records=make_records(USES, 0.9), training_seed=3)
DEAF = make_report(
    {"audio": 0.05, "image": 0.9}, records=make_records({"audio": 0.05, "image": 0.9}, 0.9), sha="deaf", training_seed=3
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with two reports."""
    here = tmp_path / "work"
    write(here / "healthy", HEALTHY)
    write(here / "deaf", DEAF)
    return here


def test_without_rules_a_collapse_fails(folder: Path, cli: Run) -> None:
    assert cli("gate", "healthy/report.json", cwd=folder).returncode == 0
    done = cli("gate", "deaf", cwd=folder)  # the folder will do
    assert done.returncode == 1
    assert done.stdout.startswith("✗ FAILED")
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_rules_of_the_command_line_go_before_those_of_the_config(folder: Path, cli: Run) -> None:
    (folder / "collapsekit.yaml").write_text("gate: {require: ['modalities.*.score <= 0.01']}\n")
    assert cli("gate", "healthy", cwd=folder).returncode == 1
    assert cli("gate", "healthy", "--require", "modalities.*.score <= 0.5", cwd=folder).returncode == 0
    assert cli("gate", "healthy", "-r", "results[nothing] <= 0.5", cwd=folder).returncode == 5
    assert cli("gate", "healthy", "-r", "results[nothing <= 0.5", cwd=folder).returncode == 2


def test_pyproject_has_a_gate_too(folder: Path, cli: Run) -> None:
    (folder / "pyproject.toml").write_text('[tool.collapsekit.gate]\nrequire = ["modalities.audio.score <= 0.05"]\n')
    done = cli("gate", "healthy", cwd=folder)
    assert done.returncode == 1
    assert "modalities.audio.score is 0.1" in " ".join(done.stdout.split())


def test_a_baseline_from_nothing_to_a_red_build(folder: Path, cli: Run) -> None:
    assert cli("baseline", "create", "healthy", "-o", "baseline.json", cwd=folder).returncode == 0
    assert cli("gate", "healthy", "-b", "baseline.json", cwd=folder).returncode == 0
    done = cli("gate", "deaf", "-b", "baseline.json", "-f", "json", cwd=folder)
    assert done.returncode == 1
    found = GateReport.model_validate_json(done.stdout)
    assert [c.name for c in found.checks if c.state == "failed"] == ["use of audio"]
    (folder / "collapsekit.yaml").write_text("gate: {baseline: baseline.json, margins: {use: 2}}\n")
    assert cli("gate", "deaf", cwd=folder).returncode == 0
    assert cli("gate", "deaf", "--margin", "use=0.2", cwd=folder).returncode == 1
    assert cli("gate", "deaf", "--watch", "metric", cwd=folder).returncode == 0


def test_updating_shows_what_changes(folder: Path, cli: Run) -> None:
    cli("baseline", "create", "healthy", cwd=folder)
    before = (folder / "baseline.json").read_bytes()
    again = cli("baseline", "create", "deaf", cwd=folder)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    tried = cli("baseline", "update", "baseline.json", "deaf", "--dry-run", cwd=folder)
    assert "use of audio: 0.900 -> 0.0500" in tried.stdout
    assert "deaf.pt is collapsed" in tried.stderr
    assert (folder / "baseline.json").read_bytes() == before
    assert cli("baseline", "update", "baseline.json", "deaf", cwd=folder).stdout == tried.stdout
    assert "deaf.pt" in cli("baseline", "show", "baseline.json", cwd=folder).stdout
    assert "a.pt" not in cli("baseline", "show", "baseline.json", cwd=folder).stdout  # of the same training seed
    assert cli("baseline", "create", "healthy", "--force", "--no-records", cwd=folder).returncode == 0
    assert cli("gate", "healthy", "-b", "baseline.json", cwd=folder).returncode == 5


def test_formats_go_where_they_are_sent(folder: Path, cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    (folder / "summary.md").write_text("before\n")
    done = cli(
        "gate",
        "deaf",
        "-f",
        "github",
        "-f",
        "junit=out/gate.xml",
        "-f",
        "sarif=gate.sarif",
        "-f",
        "markdown=g.md",
        cwd=folder,
    )
    assert done.returncode == 1
    assert done.stdout.startswith("::error title=gate failed")
    assert (folder / "summary.md").read_text() == "before\n" + (folder / "g.md").read_text()
    assert "<testsuites" in (folder / "out" / "gate.xml").read_text()
    assert json.loads((folder / "gate.sarif").read_text())["version"] == "2.1.0"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere.json"], 2, "is not a file"),
        (["healthy", "-f", "xml"], 2, "there is no format 'xml'"),
        (["healthy", "-f", "text", "-f", "json"], 2, "both go to stdout"),
        (["healthy", "-f", "junit="], 2, "names no file"),
        (["healthy", "-b", "nothing.json"], 2, "collapsekit baseline create"),
        (["healthy", "--margin", "use"], 2, "KIND=NUMBER"),
        (["healthy", "--margin", "uses=0.1"], 2, "did you mean 'use'"),
        (["healthy", "--alpha", "2"], 2, "alpha"),
        (["healthy", "--situation", "paired"], 2, "needs a baseline"),
        (["healthy", "--split", "val"], 2, "--split is of a diagnosis"),
        (["healthy", "-o", "x"], 2, "--output is of a diagnosis"),
        (["healthy", "--trust-pickle", "sha256:0"], 2, "--trust-pickle is of a diagnosis"),
        (["healthy/records.safetensors"], 2, "no collapsekit.yaml"),
        (["bad.json"], 3, "not JSON"),
        (["healthy", "-c", "bad.yaml"], 2, "unknown key"),
    ],
)
def test_what_is_typed_wrong_is_said_in_a_sentence(
    folder: Path, cli: Run, arguments: list[str], code: int, said: str
) -> None:
    (folder / "bad.json").write_text("{")
    (folder / "bad.yaml").write_text("gate: {requires: []}")
    done = cli("gate", *arguments, cwd=folder)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_report_whose_records_were_changed_is_refused(folder: Path, cli: Run) -> None:
    (folder / "healthy" / "records.safetensors").write_bytes(b"x")
    assert cli("gate", "healthy", cwd=folder).returncode == 3
    assert cli("baseline", "create", "healthy", cwd=folder).returncode == 3


def test_a_checkpoint_is_diagnosed_first(small: Path, cli: Run, brief_joint_here: None) -> None:  # noqa: F811
    done = cli("gate", "ckpt.pt", "--profile", "quick", "--training-seed", "5", cwd=small)
    assert done.returncode == 1, done.stderr
    report = Report.load(small / "collapsekit-report" / "report.json")
    assert report.modalities["audio"].verdict == "collapsed"
    assert report.settings["training_seed"] == 5
    assert cli("baseline", "create", "collapsekit-report", cwd=small).returncode == 0
    again = cli("gate", "ckpt.pt", "--profile", "quick", "--seed", "1", "-b", "baseline.json", "-q", cwd=small)
    assert again.returncode == 0, again.stdout  # another seed of the diagnosis is no regression
    assert "the weights are the same" in " ".join(again.stdout.split())


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.sampled_from(["verdict != collapsed", "modalities.*.score <= 0.3", "results[x] < 1", "verdict = x"]),
        max_size=2,
    ),
    st.sampled_from(["healthy", "deaf"]),
    st.booleans(),
)
def test_printed_outcome_and_exit_code_never_disagree(
    folder: Path, cli: Run, rules: list[str], which: str, compared: bool
) -> None:
    if compared and not os.path.exists(folder / "baseline.json"):  # noqa: PTH110
        cli("baseline", "create", "healthy", cwd=folder)
    more = ["-b", "baseline.json"] if compared else []
    done = cli("gate", which, *more, *(a for r in rules for a in ("-r", r)), cwd=folder)
    if done.returncode == 2:
        assert "verdict = x" in rules
        return
    word = done.stdout.split()[1].lower()
    assert EXIT_CODES[word] == done.returncode


def test_what_is_written_fits_the_schemas(folder: Path, cli: Run) -> None:
    from jsonschema import Draft202012Validator

    cli("baseline", "create", "healthy", cwd=folder)
    cli("gate", "deaf", "-b", "baseline.json", "-f", "json=gate.json", cwd=folder)
    cli("compare", "healthy", "deaf", "-f", "json", "-o", "compare.json", cwd=folder)
    made = {
        "report": "healthy/report.json",
        "gate": "gate.json",
        "baseline": "baseline.json",
        "compare": "compare.json",
    }
    for kind, file in made.items():
        schema = json.loads(cli("schema", kind, cwd=folder).stdout)
        Draft202012Validator.check_schema(schema)
        Draft202012Validator(schema).validate(json.loads((folder / file).read_text()))
    assert json.loads(cli("schema", "repair", cwd=folder).stdout)["title"] == "RepairReport"
