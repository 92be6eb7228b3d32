"""Which config a command uses, that it says so, and that a stranger's code does not run."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pytest

from collapsekit import diagnose
from collapsekit.report.diagnosis import Report
from tests.cli.conftest import Run
from tests.cli.test_commands import SMALL, small  # noqa: F401
from tests.gating.making import make_report
from tests.gating.test_baseline import write

ONE = ("-p", "vif", "--profile", "quick")
EVIL = SMALL.replace("tests.problems:Late", "stranger_model:build")


@pytest.fixture
def stranger(small: Path) -> Path:  # noqa: F811
    """A folder with a checkpoint and a config whose code leaves a mark when it is imported."""
    folder = small.parent / "stranger"
    shutil.copytree(small, folder)
    (folder / "collapsekit.yaml").write_text(EVIL)
    mark = folder / "ran"
    (folder / "stranger_model.py").write_text(
        f"import pathlib; pathlib.Path({str(mark)!r}).touch()\nfrom tests.problems import Late as build\n"
    )
    return folder


def test_the_user_s_config_goes_before_one_beside_a_stranger_s_checkpoint(
    small: Path,  # noqa: F811
    stranger: Path,
    cli: Run,
) -> None:
    (small / "mine.pt").symlink_to(stranger / "ckpt.pt")
    for checkpoint in ("../stranger/ckpt.pt", "mine.pt"):
        done = cli("diagnose", checkpoint, *ONE, "--json", cwd=small)
        assert done.returncode == 0, done.stderr
        assert Report.from_json(done.stdout).config == "collapsekit.yaml"
        assert done.stderr.startswith(
            "Config: collapsekit.yaml (../stranger/collapsekit.yaml, beside the checkpoint, is not"
        )
    assert not (stranger / "ran").exists()


@pytest.mark.parametrize("command", ["diagnose", "repair", "gate"])
def test_without_a_config_of_one_s_own_nothing_of_a_stranger_s_runs(command: str, stranger: Path, cli: Run) -> None:
    elsewhere = stranger.parent / "elsewhere"
    elsewhere.mkdir()
    done = cli(command, "../stranger/ckpt.pt", cwd=elsewhere)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (stranger / "ran").exists()
    line = done.stderr.split("`")[1]
    assert shlex.split(line)[:2] == ["collapsekit", command]
    if command == "diagnose":
        assert cli(*shlex.split(line)[1:], *ONE, cwd=elsewhere).returncode == 0
        assert (stranger / "ran").exists()  # named, and so trusted


def test_what_is_typed_in_a_folder_below_finds_the_config_and_the_command_makes_the_report_again(
    small: Path,  # noqa: F811
    cli: Run,
) -> None:
    (small / ".git").touch()
    below = small / "a" / "b"
    below.mkdir(parents=True)
    done = cli("diagnose", *ONE, "--json", cwd=below)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == "Config: ../../collapsekit.yaml"
    report = Report.from_json(done.stdout)
    assert report.config == "../../collapsekit.yaml"
    words = shlex.split(report.settings["command"])
    assert words[:3] == ["collapsekit", "diagnose", "../../ckpt.pt"]
    assert "--config" not in words
    assert cli(*words[1:], "--json", cwd=below).stdout == done.stdout


@pytest.mark.parametrize("name", ["other.yaml", "collapsekit.yaml", "pyproject.toml"])
def test_a_config_that_is_named_stands_in_the_command_where_it_must(name: str, small: Path, cli: Run) -> None:  # noqa: F811
    if name == "other.yaml":
        (small / name).write_text(SMALL)
    if name == "pyproject.toml":
        (small / name).write_text(
            "[tool.collapsekit]\nfusion = 'fusion'\nmodel = {factory = 'tests.problems:Late', checkpoint = 'ckpt.pt', "
            "kwargs = {widths = {image = 5, audio = 4}, ignored = ['audio']}}\nmodalities = {image = 'encoders.image', "
            "audio = 'encoders.audio'}\ndata = {path = 'data.safetensors'}\n"
        )
    done = cli("diagnose", *ONE, "--json", "--quiet", "-c", name, cwd=small)
    assert (done.returncode, done.stderr) == (0, f"Config: {name}\n")
    report = Report.from_json(done.stdout)
    assert report.config == name
    words = shlex.split(report.settings["command"])
    assert ("--config" in words) == (name != "collapsekit.yaml")
    assert cli(*words[1:], "--json", cwd=small).stdout == done.stdout


def test_reports_from_python_name_the_file_only_where_there_is_one(
    small: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from collapsekit.config.load import load_config

    monkeypatch.chdir(small.parent)
    config = load_config(small / "collapsekit.yaml")
    asked = {"probes": ["vif"], "profile": "quick", "cache": small / "cache"}
    found = diagnose(config=small / "collapsekit.yaml", **asked)  # type: ignore[arg-type]
    assert found.config == "small/collapsekit.yaml"
    assert shlex.split(found.settings["command"])[:5] == [
        *("collapsekit", "diagnose", "small/ckpt.pt", "--config", "small/collapsekit.yaml"),
    ]
    assert diagnose(config=config, **asked).to_json() == found.to_json()  # type: ignore[arg-type]
    plain = config.model_dump(exclude_unset=True, exclude={"base", "origin", "file"})
    monkeypatch.chdir(small)
    made = diagnose(config=plain, **asked)  # type: ignore[arg-type]
    assert (made.config, made.settings["command"]) == (None, None)


def test_the_gate_says_which_config_its_rules_are_of(tmp_path: Path, cli: Run) -> None:
    write(tmp_path / "r", make_report({"audio": 0.9, "image": 0.9}))
    (tmp_path / "r" / "collapsekit.yaml").write_text("gate: {require: ['modalities.*.score <= 9']}\n")
    assert "Config" not in cli("gate", "r", cwd=tmp_path).stderr  # it lies beside the report: not used
    (tmp_path / "collapsekit.yaml").write_text("gate: {require: ['modalities.*.score <= 0.01']}\n")
    done = cli("gate", "r", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "Config: collapsekit.yaml\n")
    assert cli("gate", "r", "-q", cwd=tmp_path).stderr == "Config: collapsekit.yaml\n"  # whose rules they are, always
    if hasattr(os, "geteuid"):
        (tmp_path / "collapsekit.yaml").chmod(0o666)
        done = cli("gate", "r", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert "everybody may write to it" in done.stderr


def test_init_says_to_name_a_config_that_is_not_found_by_itself(small: Path, cli: Run) -> None:  # noqa: F811
    for output, named in (("collapsekit.yaml", False), ("sub/collapsekit.yaml", True), ("other.yaml", True)):
        done = cli("init", "ckpt.pt", "-o", output, "--force", cwd=small)
        assert done.returncode == 0, done.stderr
        assert (f"--config {output}" in done.stderr) == named
