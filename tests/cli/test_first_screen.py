"""What diagnose, repair and compare print: one screen, whose commands can be pasted, and do what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from collapsekit.cli.next_steps import Request, next_steps
from collapsekit.cli.terminal import MESSAGES, NOTES, _Room
from collapsekit.config.options import DiagnoseOptions
from collapsekit.render.first_screen import LINES
from collapsekit.repairs.decision import decide_repair
from collapsekit.report.diagnosis import Judged, Report
from tests.cli.conftest import Run
from tests.problems import make_problem

SMALL = """\
model: {factory: "tests.problems:Late", kwargs: {widths: {image: 5, audio: 4}, ignored: [audio]}, checkpoint: ckpt.pt}
modalities: {image: encoders.image, audio: encoders.audio}
fusion: fusion
data: {path: data.safetensors}
"""
CHECKPOINT, CONFIG = Path("my runs/ckpt.pt"), Path("conf/c.yaml")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a small model that ignores audio."""
    folder = tmp_path_factory.mktemp("screen")
    problem = make_problem(folder, ignored=["audio"])
    torch.save(problem.model.state_dict(), folder / "ckpt.pt")
    (folder / "collapsekit.yaml").write_text(SMALL)
    return folder


@pytest.fixture(scope="module")
def report(made: Path) -> Report:
    return Report.load(made / "out" / "report.json")


def typed(**options: object) -> Request[DiagnoseOptions]:
    return Request(DiagnoseOptions.make(**options), CHECKPOINT, CONFIG)


def commands_of(text: str) -> list[list[str]]:
    """The words of each command that a screen shows."""
    joined = text.replace("\\\n", "")
    return [shlex.split(line) for line in joined.splitlines() if line.startswith("  collapsekit ")]


def test_the_screen_says_which_repair_comes_next_and_its_commands_run(small: Path, cli: Run) -> None:
    done = cli("diagnose", "--profile", "quick", "-p", "reliance", "-p", "utilisation", cwd=small)
    assert done.returncode == 0, done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    assert len(lines) <= 35
    assert max(map(cell_len, lines)) <= 80
    assert lines[0].startswith("✗ COLLAPSED  The model ignores audio")
    assert "In collapsekit-report: report.html" in done.stdout
    first, *others = commands_of(done.stdout)
    assert first[:2] == ["collapsekit", "repair"]
    said = cli(*first[1:], "--dry-run", cwd=small)
    assert said.returncode == 0, said.stderr
    assert f"Method: {first[first.index('--method') + 1]}" in said.stdout
    for words in others:
        again = cli(*words[1:], *["--dry-run"] * (words[1] == "diagnose"), cwd=small)
        assert again.returncode in (0, 1), again.stderr
    everything = cli("report", "collapsekit-report", cwd=small).stdout
    assert everything.count("\n") > 35
    verbose = cli("diagnose", "--profile", "quick", "-p", "reliance", "-p", "utilisation", "-v", cwd=small)
    assert verbose.stdout == everything
    assert "Written: " in verbose.stderr


@pytest.mark.slow
def test_the_demo_prints_one_screen(tmp_path: Path, cli: Run) -> None:
    done = cli("demo", "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = [
        line for line in done.stderr.splitlines() if " % · " not in line
    ]  # how far it is: a line that a terminal replaces
    lines = [*done.stdout.splitlines(), *said]
    assert len(lines) <= 35
    assert max(map(cell_len, lines)) <= 80
    assert lines[0].startswith("✗ COLLAPSED  The model ignores kar")
    assert [words[1] for words in commands_of(done.stdout)] == ["repair", "gate"]


def test_quiet_json_is_json_alone(small: Path, cli: Run) -> None:
    done = cli("diagnose", "--json", "-q", "-p", "vif", cwd=small)
    assert Report.from_json(done.stdout).verdict == "inconclusive"


def test_the_method_is_the_one_that_repair_would_choose(report: Report) -> None:
    decision = decide_repair(report, None, None)
    first = next_steps(report, typed(device="cpu", seed=3, plugins=["my probes.py"]), None)[0]
    assert first.about == decision.why
    assert first.command[:5] == ("collapsekit", "repair", "my runs/ckpt.pt", "--config", "conf/c.yaml")
    assert first.command[first.command.index("--method") + 1] == ",".join(decision.methods)
    assert first.command[first.command.index("--seed") + 1] == "3"
    assert first.command[first.command.index("--plugin") + 1] == "my probes.py"
    assert "--profile" not in first.command


@pytest.mark.slow
def test_a_repair_prints_one_screen_and_its_commands_run(small: Path, cli: Run) -> None:
    words = ("repair", "--profile", "quick", "-m", "dropout", "--epochs", "4", "-o", "mended", "--keep")
    done = cli(*words, cwd=small)
    assert done.returncode in (0, 1), done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    assert len(lines) <= 35
    assert max(map(cell_len, lines)) <= 80
    assert "In mended: repair.html, model.safetensors" in done.stdout
    for step in commands_of(done.stdout):
        again = cli(*step[1:], *["--dry-run"] * (step[1] == "repair"), cwd=small)
        assert again.returncode in (0, 1, 5), again.stderr
        assert again.stdout.count("\n") <= 35
    everything = cli("report", "mended", cwd=small).stdout
    assert everything.count("\n") > 35
    assert cli(*words, "--force", "-v", cwd=small).stdout == everything
    quiet = cli(*words, "--force", "-q", cwd=small)
    assert quiet.stdout.count("\n") == 1
    assert quiet.stdout.split()[1] in ("ACCEPTED", "REJECTED")


def partly(report: Report, why: str) -> Report:
    return report.model_copy(update={"judged": Judged(extent="partly", missing=(f"zer: {why}",))})


@pytest.mark.parametrize(
    ("why", "options", "words"),
    [
        ("profile quick trains no encoders", {"profile": "quick"}, ""),
        ("over the budget of 120 s: raise it", {}, "--profile full"),
        (
            "it still got better when its 60 epochs were over",
            {},
            "--set prefix_gap.epochs=120 --set prefix_gap.budget=240.0",
        ),
        ("few examples", {"limit": 100, "seed": 4}, "--seed 4"),
    ],
)
def test_what_is_open_names_the_command_that_would_judge_more(
    report: Report, why: str, options: dict[str, object], words: str
) -> None:
    step = next_steps(partly(report, why), typed(**options), None)[1]
    assert shlex.join(step.command) == f"collapsekit diagnose 'my runs/ckpt.pt' --config conf/c.yaml {words}".rstrip()


def test_a_verdict_whose_probes_did_not_run_is_asked_for(report: Report) -> None:
    bare = report.model_copy(update={"settings": {**report.settings, "probes": {"vif": {}}}, "verdict": "inconclusive"})
    step = next_steps(bare, typed(probes=["vif"], skip=["noise", "reliance"]), None)[-1]
    assert "reliance and utilisation" in step.about
    assert step.command[-2:] == ("--skip", "noise")
    assert "--probe" not in step.command


def test_where_nothing_would_judge_more_no_command_is_named(report: Report) -> None:
    step = next_steps(partly(report, "no raw inputs"), typed(profile="full"), None)[-1]
    assert step.command == ()
    assert "no option" in step.about


def judged_fully(report: Report, **changes: object) -> Report:
    return report.model_copy(update={"judged": Judged(extent="fully"), **changes})


def test_the_gate_is_named_with_its_outcome(report: Report, made: Path, cli: Run) -> None:
    place = made / "out" / "report.json"
    step = next_steps(judged_fully(report), typed(), place)[1]
    assert step.command == ("collapsekit", "gate", str(place))
    code = int(re.findall(r"exits with (\d)", step.about)[0])
    assert cli(*step.command[1:], cwd=made).returncode == code
    assert next_steps(judged_fully(report), typed(), None)[1].command[2:] == (
        "my runs/ckpt.pt",
        "--config",
        "conf/c.yaml",
    )
    again = next_steps(judged_fully(report), typed(seed=3, limit=9, probes=["vif"], plugins=["p.py"]), None)[1]
    assert shlex.join(again.command[5:]) == "--seed 3 --limit 9 --plugin p.py"
    rules = {**report.settings, "config": {"gate": {"require": ["results[vif.mean] <= 1e9"]}}}
    step = next_steps(judged_fully(report, settings=rules), typed(), place)[1]
    assert "passes" in step.about
    assert step.command[-2:] == ("--config", "conf/c.yaml")


def test_a_healthy_model_gets_a_baseline(report: Report, made: Path, cli: Run, tmp_path: Path) -> None:
    used = {m: v.model_copy(update={"verdict": "used", "at_most": None}) for m, v in report.modalities.items()}
    healthy = judged_fully(report, modalities=used, verdict="healthy")
    steps = next_steps(healthy, typed(), made / "out" / "report.json")
    assert [s.command[1:3] for s in steps] == [("baseline", "create"), ("gate", str(made / "out" / "report.json"))]
    assert cli(*steps[0].command[1:], cwd=tmp_path).returncode == 0
    assert cli(*steps[1].command[1:], "--allow-partial", cwd=tmp_path).returncode in (0, 5)


@given(st.lists(st.text(max_size=300), max_size=8))
def test_notes_keep_to_their_lines(notes: list[str]) -> None:
    room = _Room(NOTES)
    lines = [line for note in notes for line in room.take(note)]
    assert len(lines) <= NOTES
    assert all(cell_len(line) <= 80 for line in lines)
    assert [line for note in notes for line in _Room(None).take(note)] == notes


def test_a_screen_with_all_that_is_said_beside_it_has_35_lines() -> None:
    assert LINES + NOTES + MESSAGES + 1 == 35  # 1: which config is used
