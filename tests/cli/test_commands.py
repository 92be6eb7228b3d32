from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from collapsekit.report.cost import CostReport
from collapsekit.report.diagnosis import Report
from tests.cli.conftest import Run
from tests.problems import make_problem

ROOT = Path(__file__).parents[2]
SMALL = """\
model: {factory: "tests.problems:Late", kwargs: {widths: {image: 5, audio: 4}, ignored: [audio]}, checkpoint: ckpt.pt}
modalities: {image: encoders.image, audio: encoders.audio}
fusion: fusion
data: {path: data.safetensors}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder like the demo's, of a small model that ignores audio: for what needs whole diagnoses of any kind."""
    folder = tmp_path / "small"
    problem = make_problem(folder, ignored=["audio"])
    torch.save(problem.model.state_dict(), folder / "ckpt.pt")
    (folder / "collapsekit.yaml").write_text(SMALL)
    return folder


def test_quick_diagnosis_names_the_ignored_view_and_writes_its_files(made: Path) -> None:
    report = Report.load(made / "out" / "report.json")
    assert report.verdict == "collapsed"
    assert report.modalities["kar"].verdict == "collapsed"
    assert report.modalities["pix"].verdict == "used"
    files = ["records.safetensors", "report.html", "report.json", "report.md"]
    assert sorted(p.name for p in (made / "out").iterdir()) == files


def test_json_on_stdout_is_the_report_and_nothing_is_written(project: Path, cli: Run) -> None:
    before = sorted(project.rglob("*.json"))
    done = cli("diagnose", "--json", "-p", "vif", "-p", "spectrum", cwd=project)
    assert done.returncode == 0, done.stderr
    report = Report.from_json(done.stdout)
    assert {r.probe for r in report.results} == {"vif", "spectrum"}
    assert sorted(project.rglob("*.json")) == before


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(small: Path, cli: Run) -> None:
    before = sorted(small.rglob("*"))
    done = cli("diagnose", "--dry-run", "--fail-on", "collapsed", "-o", "out", cwd=small)
    assert done.returncode == 0, done.stderr
    assert "Diagnosing split test of ckpt.pt, profile standard" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    for probe in ("utilisation", "polysemanticity", "gradient_rank"):  # whole, in one line
        assert re.search(rf"^{probe} ", done.stdout, re.MULTILINE)
    told = cli("diagnose", "--dry-run", "--json", "-p", "vif", "-p", "reliance", "--limit", "50", cwd=small)
    cost = CostReport.from_json(told.stdout)
    assert [(row.name, row.replays > 0) for row in cost.probes] == [("reliance", True), ("vif", False)]
    assert cost.examples == {"test": 50}
    assert cli("diagnose", "--dry-run", "-q", "-p", "vif", cwd=small).stdout == ""
    assert cli("diagnose", "--dry-run", "-p", "vof", cwd=small).returncode == 2
    assert cli("diagnose", "--dry-run", "-o", "ckpt.pt", cwd=small).returncode == 2
    assert sorted(small.rglob("*")) == before


@pytest.mark.slow
def test_same_command_in_two_processes_gives_the_same_bytes(small: Path, cli: Run, process: Run) -> None:
    # Of the fitted ones prefix_gap; how the joint network of utilisation is fitted again is for test_contract to say.
    command = ("diagnose", "--profile", "quick", "--json", "-p", "prefix_gap", "-p", "missing", "-p", "spectrum")
    here, there = cli(*command, cwd=small), process(*command, cwd=small, PYTHONPATH=str(ROOT))
    assert (here.returncode, there.returncode) == (0, 0), here.stderr + there.stderr
    assert {r.probe for r in Report.from_json(here.stdout).results} == {"prefix_gap", "missing", "spectrum"}
    assert there.stdout == here.stdout


def test_report_renders_again_without_torch(made: Path, process: Run, tmp_path: Path) -> None:
    path = made / "out" / "report.json"
    poison = tmp_path / "poison"
    poison.mkdir()
    (poison / "torch.py").write_text("raise RuntimeError('torch was imported')\n")
    for name in ("terminal", "md", "json"):
        done = process("report", path, "-f", name, cwd=tmp_path, PYTHONPATH=str(poison))
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(path.read_text())
    assert process("report", path, "-f", "md", cwd=tmp_path).stdout == (made / "out" / "report.md").read_text()


def test_help_and_schema_do_not_import_torch(process: Run, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')\n")
    (tmp_path / "numpy.py").write_text("raise RuntimeError('numpy was imported')\n")
    for args in (["--help"], ["--version"], ["diagnose", "--help"]):
        done = process(*args, cwd=tmp_path, PYTHONPATH=str(tmp_path))
        assert done.returncode == 0, done.stderr
    done = process("schema", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert json.loads(done.stdout)["title"] == "Report"


def test_terminal_report_fits_eighty_columns_and_has_no_escapes_when_piped(made: Path, cli: Run) -> None:
    text = cli("report", made / "out" / "report.json", cwd=made).stdout
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert "kar" in text.splitlines()[0]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["diagnose", "nothing.pt"], 2, ["nothing.pt"]),
        (["diagnose", "-p", "viff"], 2, ["viff", "'vif'"]),
        (["diagnose", "--skip", "spectrom"], 2, ["spectrom", "'spectrum'"]),
        (["diagnose", "--set", "spectrum.rtoll=1"], 2, ["rtoll", "'rtol'"]),
        (["diagnose", "--set", "spectrum.rtol=x"], 2, ["spectrum.rtol", "'x'"]),
        (["diagnose", "--set", "spectrum"], 2, ["probe.option=value"]),
        (["diagnose", "--split", "tset"], 2, ["tset", "'test'"]),
        (["diagnose", "--device", "quantum"], 2, ["quantum"]),
        (["diagnose", "--config", "none.yaml"], 2, ["none.yaml"]),
        (["diagnose", "--plugin", "none.py"], 2, ["none.py"]),
        (["diagnose", "--profile", "slow"], 2, ["slow"]),
        (["diagnose", "--subsets"], 2, ["collapsekit.yaml", "subsets: [{modalities: [pix, fou]", "pix_fou.pt"]),
        (["diagnose", "-p", "growing"], 2, ["subsets: [{modalities: [pix, fou]"]),
        (["report", "none.json"], 2, ["none.json"]),
        (["report", "model.py"], 3, ["model.py"]),
        (["init", "model.py", "-o", "other.yaml"], 3, ["model.py"]),
        (["init", "ckpt.pt"], 2, ["collapsekit.yaml", "--force"]),
        (["init", "ckpt.pt", "-o", "other.yaml", "--factory", "model:build"], 2, ["--data is not", "leave both out"]),
        (["init", "ckpt.pt", "-o", "other.yaml", "--data", "data.safetensors"], 2, ["--factory is not"]),
        (["demo", "."], 2, ["ckpt.pt", "--force"]),
        (["nonsense"], 2, ["nonsense"]),
    ],
)
def test_what_a_user_can_get_wrong_is_one_sentence(
    args: list[str], code: int, words: list[str], project: Path, cli: Run
) -> None:
    done = cli(*args, cwd=project)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("fusion: fusion", "fusoin: fusion", ["fusoin", "'fusion'"]),
        ("encoders.kar}", "encoders.karr}", ["encoders.karr", "encoders.kar"]),
        ("factory: model:build", "factory: model:buidl", ["buidl", "'build'"]),
        ("factory: model:build", "factory: modle:build", ["modle"]),
        ("  kar: {encoder: encoders.kar}", "  kar: {encoder: encoders.kar, input: karl}", ["karl", "'kar'"]),
        ("label: label", "label: lable", ["lable", "'label'"]),
        ("path: data.safetensors", "path: none.safetensors", ["none.safetensors"]),
        (
            "  pix: {encoder: encoders.pix}",
            "  pix: {encoder: encoders.kar}",
            ["'pix'", "no call changes", "encoders.kar"],
        ),
    ],
)
def test_what_a_config_can_get_wrong_is_one_sentence(
    old: str, new: str, words: list[str], project: Path, cli: Run
) -> None:
    config = project / "collapsekit.yaml"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    done = cli("diagnose", "-p", "vif", cwd=project)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_wrong_weights_are_listed(project: Path, cli: Run) -> None:
    state = torch.load(project / "ckpt.pt", weights_only=True)
    state["head.weight"] = torch.zeros(3, 64)
    state["extra.weight"] = state.pop("head.bias")
    torch.save(state, project / "ckpt.pt")
    done = cli("diagnose", cwd=project)
    assert done.returncode == 2
    for word in ("head.weight", "extra.weight", "head.bias", "(3, 64)", "(10, 64)"):
        assert word in done.stderr, done.stderr


def test_fail_on_sets_the_exit_code(small: Path, cli: Run) -> None:
    failed = cli("diagnose", "-q", "--profile", "quick", "-p", "utilisation", "--fail-on", "collapsed", cwd=small)
    assert failed.returncode == 1, failed.stderr
    assert "audio" in failed.stderr
    # Without the utilisation probe nothing decides, and that is no pass.
    undecided = cli("diagnose", "-q", "-p", "vif", "--fail-on", "collapsed", cwd=small)
    assert undecided.returncode == 5, undecided.stderr


def test_quiet_prints_the_headline_and_which_config_is_used(project: Path, cli: Run) -> None:
    done = cli("diagnose", "-q", "-p", "vif", "-o", "quiet", cwd=project)
    said = "? INCONCLUSIVE  No verdict was asked for: neither reliance nor utilisation ran.\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "Config: collapsekit.yaml\n")
    assert (project / "quiet" / "report.json").is_file()


def test_limit_and_figures(project: Path, cli: Run) -> None:
    done = cli("diagnose", "-p", "reliance", "--limit", "100", "--figures", "figs", "-f", "json", cwd=project)
    assert done.returncode == 0, done.stderr
    report = Report.load(project / "collapsekit-report" / "report.json")
    assert report.subject.examples == 100
    assert "--limit 100" in report.settings["command"]
    assert {p.suffix for p in (project / "figs").iterdir()} == {".svg", ".pdf", ".png"}


def test_the_command_in_the_report_makes_it_again(project: Path, cli: Run) -> None:
    done = cli("diagnose", "--json", "-p", "spectrum", "--set", "spectrum.rtol=0.01", "--seed", "3", cwd=project)
    report = Report.from_json(done.stdout)
    words = report.settings["command"].split()
    assert words[0] == "collapsekit"
    again = cli(*words[1:], "--json", cwd=project)
    assert again.stdout == done.stdout


SUBSETS = """\
model: {factory: "tests.problems:Late", kwargs: {widths: {image: 5, audio: 4, text: 4}}, checkpoint: all.pt}
modalities: {image: encoders.image, audio: encoders.audio, text: encoders.text}
fusion: fusion
data: {path: data.safetensors}
subsets:
  - {modalities: [audio, image], checkpoint: two.pt, kwargs: {widths: {image: 5, audio: 4}}}
"""


def test_subsets_adds_growing_and_stands_in_the_command(cli: Run, tmp_path: Path) -> None:
    from tests.problems import Late

    problem = make_problem(tmp_path, {"image": 5, "audio": 4, "text": 4}, noise=["text"], steps=20)
    torch.save(problem.model.state_dict(), tmp_path / "all.pt")
    torch.save(Late({"image": 5, "audio": 4}).state_dict(), tmp_path / "two.pt")
    (tmp_path / "collapsekit.yaml").write_text(SUBSETS)
    args = ("-p", "vif", "--set", "growing.order=image,audio,text", "--profile", "quick", "--limit", "100")
    done = cli("diagnose", "--subsets", "--json", "-o", "out", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = Report.from_json(done.stdout)
    assert {r.probe for r in report.results} == {"vif", "growing"}
    metric = report.find("growing.metric")
    assert metric is not None
    assert metric.curve is not None
    assert metric.curve.x == ("image+audio", "image+audio+text")
    assert "image+audio+text" in (tmp_path / "out" / "report.html").read_text()
    words = report.settings["command"].split()
    assert "--subsets" in words
    assert cli(*words[1:], "--json", cwd=tmp_path).stdout == done.stdout
    without = Report.from_json(cli("diagnose", "--json", "-p", "vif", cwd=tmp_path).stdout)
    assert "--subsets" not in without.settings["command"]


def test_a_probe_that_runs_only_when_asked_says_so_in_the_list(cli: Run, tmp_path: Path) -> None:
    from collapsekit import registry

    text = " ".join(cli("list", "probes", cwd=tmp_path).stdout.split())
    assert "(only when asked: -p growing)" in text
    assert "(only when asked: -p pathway, or where the task is tokens)" in text
    assert text.count("only when asked") == sum(not spec.default for spec in registry.PROBES.values())


def test_init_proposes_a_config_that_diagnose_takes(project: Path, cli: Run) -> None:
    config = project / "collapsekit.yaml"
    config.unlink()
    done = cli("init", "ckpt.pt", cwd=project)
    assert done.returncode == 0, done.stderr
    text = config.read_text()
    for encoder in ("encoders.pix", "encoders.fou", "encoders.zer", "encoders.kar"):
        assert encoder in text
    # What a user fills in: the factory and the data.
    import re

    text = re.sub(r"factory: \S+", "factory: model:build", text)
    text = re.sub(r"path: \S+", "path: data.safetensors", text)
    config.write_text(text)
    after = cli("diagnose", "--json", "-p", "vif", cwd=project)
    assert after.returncode == 0, after.stderr


def test_init_runs_a_batch_and_writes_a_config_that_diagnose_runs_as_it_is(project: Path, cli: Run) -> None:
    config = project / "collapsekit.yaml"
    config.unlink()
    done = cli("init", "ckpt.pt", "--factory", "model:build", "--data", "data.safetensors", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "modality zer: encoder encoders.zer" in done.stderr
    assert "Now: collapsekit diagnose ckpt.pt" in done.stderr
    text = config.read_text()
    assert "# Verified: this config was opened as diagnose opens it" in text
    assert "FILL IN" not in text
    after = cli("diagnose", "--json", "-p", "vif", cwd=project)
    assert after.returncode == 0, after.stderr


def test_init_writes_paths_relative_to_the_config_and_arguments_of_the_factory(project: Path, cli: Run) -> None:
    (project / "model.py").write_text(
        (project / "model.py").read_text() + "\n\ndef sized(width):\n    return build()\n"
    )
    (project / "deeper").mkdir()
    shutil.copy(project / "model.py", project / "deeper")
    options = ["--factory", "model:sized", "--kwargs", "{width: 3}", "--data", "data.safetensors"]
    done = cli("init", "ckpt.pt", *options, "-o", "deeper/collapsekit.yaml", cwd=project)
    assert done.returncode == 0, done.stderr
    text = (project / "deeper" / "collapsekit.yaml").read_text()
    for line in ("kwargs: {width: 3}", "checkpoint: ../ckpt.pt", "path: ../data.safetensors"):
        assert line.replace("../", "") in text.replace('"', "").replace("../", "")
    after = cli("diagnose", "--json", "-p", "vif", cwd=project / "deeper")
    assert after.returncode == 0, after.stderr


def test_init_names_what_it_could_not_tell(tmp_path: Path, cli: Run) -> None:
    torch.save({"layer1.weight": torch.zeros(4, 3), "layer2.weight": torch.zeros(2, 4)}, tmp_path / "odd.pt")
    done = cli("init", "odd.pt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "could not tell" in done.stderr


def test_list_names_every_probe_with_source(cli: Run, tmp_path: Path) -> None:
    from collapsekit import registry

    registry.load_builtins()
    text = " ".join(cli("list", "-v", cwd=tmp_path).stdout.split())
    for name in ("spectrum", "rank_sweep", "prefix_gap", "vif", "polysemanticity", "reliance", "utilisation"):
        spec = registry.PROBES[name]
        assert name in text
        assert spec.source.split(",")[0] in text
        for option in spec.options.model_fields:
            assert f"--set {name}.{option}=" in text
    for kind in ("probes", "adapters", "repairs", "tasks", "formats"):
        assert cli("list", kind, cwd=tmp_path).returncode == 0


def test_doctor_names_folders_of_plugins_which_no_index_has(monkeypatch: pytest.MonkeyPatch) -> None:
    from collapsekit.cli.commands import doctor as module

    needs = ['collapsekit-nothing; extra == "nothing"', 'no-such-package>=1; extra == "other"']
    monkeypatch.setattr(module, "requires", lambda name: needs)
    lines, missing = module._requirements()
    assert "pip install ./plugins/nothing, in a checkout" in lines[0]
    assert "collapsekit[nothing]" not in lines[0]
    assert "pip install 'collapsekit[other]'" in lines[1]
    assert missing == []


def test_doctor_shows_versions_and_devices(cli: Run, tmp_path: Path) -> None:
    done = cli("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert torch.__version__ in done.stdout
    assert "cpu" in done.stdout
    assert "GiB free" in done.stdout


def test_completion_offers_commands_and_probes(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "collapsekit"
    env = {**os.environ, "_COLLAPSEKIT_COMPLETE": "complete_bash"}
    for words, at, offered in (("collapsekit dia", "1", "diagnose"), ("collapsekit diagnose -p re", "3", "reliance")):
        done = subprocess.run(
            [script], env={**env, "COMP_WORDS": words, "COMP_CWORD": at}, capture_output=True, text=True, check=False
        )
        assert offered in done.stdout.split(), done


def _read(screen: int) -> str:
    """What came on a terminal; empty when nobody writes there any more."""
    try:
        return os.read(screen, 4096).decode(errors="replace")
    except OSError:
        return ""


def test_ctrl_c_stops_cleanly(project: Path, tmp_path: Path) -> None:
    env = {**os.environ, "COLLAPSEKIT_CACHE": str(tmp_path / "none"), "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    command = [sys.executable, "-m", "collapsekit", "diagnose", "-o", "stopped", "-p", "prefix_gap"]
    screen, terminal = os.openpty()

    def listening() -> None:
        """A run in a script's background has it ignore Ctrl-C, and so would its children."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    errors = ""
    with subprocess.Popen(command, cwd=project, env=env, stderr=terminal, preexec_fn=listening) as running:
        os.close(terminal)
        late = threading.Timer(120, running.kill)
        late.start()
        while text := _read(screen):
            errors += text
            if "prefix_gap" in errors and running.poll() is None:  # as the progress bar says: it fits and trains now
                running.send_signal(signal.SIGINT)
                break
        while text := _read(screen):
            errors += text
        running.wait(timeout=60)
        late.cancel()
    os.close(screen)
    assert running.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert not (project / "stopped" / "report.json").exists()
