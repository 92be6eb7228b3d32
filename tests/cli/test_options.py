"""The command line is made of the models: what is typed becomes the model, and what a report repeats is typed again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from collapsekit import registry
from collapsekit.cli import app as cli
from collapsekit.cli.commands.diagnose import FailOn, Format
from collapsekit.cli.completion import probe_names
from collapsekit.cli.options import with_options
from collapsekit.cli.terminal import Ended
from collapsekit.config.options import (
    BaselineOptions,
    CommandOptions,
    CompareOptions,
    DiagnoseOptions,
    GateOptions,
    RepairOptions,
)
from collapsekit.context import Profile
from collapsekit.render import formats_of
from collapsekit.report.parts import ModalityState
from collapsekit.session.command_line import words_of
from tests.problems import make_problem


def typed(model: type[CommandOptions], command: str, words: list[str]) -> CommandOptions:
    """What a command of that name makes of the words."""
    seen: list[CommandOptions] = []

    def run(*, options: CommandOptions) -> Ended:
        seen.append(options)
        return Ended()

    run.__name__ = command
    run.__annotations__["options"] = model
    app = typer.Typer()
    app.command(command)(with_options()(run))
    get_command(app).main(args=words, standalone_mode=False)
    return seen[0]


@pytest.mark.parametrize(
    ("model", "command"),
    [
        (DiagnoseOptions, "diagnose"),
        (DiagnoseOptions, "gate"),
        (RepairOptions, "repair"),
        (GateOptions, "gate"),
        (CompareOptions, "compare"),
        (BaselineOptions, "create"),
    ],
)
def test_where_nothing_is_typed_the_model_says_what_is_done(model: type[CommandOptions], command: str) -> None:
    assert typed(model, command, []) == model()


def test_what_is_typed_becomes_the_model() -> None:
    words = "-p vif -p spectrum --skip cka --memory 2 --training-seed 7 --subsets --set vif.option=3 --profile quick"
    assert typed(DiagnoseOptions, "diagnose", words.split()) == DiagnoseOptions(
        probes=("vif", "spectrum"),
        skip=("cka",),
        memory=2 * 2**30,
        training_seed=7,
        subsets=True,
        options={"vif": {"option": 3}},
        profile="quick",
    )
    words = (
        "-m kd,dropout --modality a --lr 0.01 --schedule paper --amp --freeze x.y --freeze z --no-control --plugin p.py"
    )
    made = typed(RepairOptions, "repair", words.split())
    assert made == RepairOptions.make(
        method="kd,dropout",
        modalities=["a"],
        training={"rate": 0.01, "schedule": "paper", "amp": True, "freeze": ["x.y", "z"]},
        control=False,
        plugins=[Path("p.py")],
    )
    words = "-r score<1 -b old.json --margin use=0.2 --effect use=0.5 --alpha 0.1 --situation paired --watch use"
    assert typed(GateOptions, "gate", words.split()) == GateOptions(
        require=("score<1",),
        baseline=Path("old.json"),
        margins={"use": 0.2},
        effects={"use": 0.5},
        alpha=0.1,
        situation="paired",
        watch=("use",),
    )
    assert typed(CompareOptions, "compare", ["--all", "--only", "vif.*"]) == CompareOptions(only=("vif.*",), every=True)
    assert typed(BaselineOptions, "create", ["--no-records"]) == BaselineOptions(records=False)


def test_a_gate_of_a_checkpoint_takes_what_says_something_there() -> None:
    made = typed(DiagnoseOptions, "gate", ["--split", "val", "--training-seed", "3", "--plugin", "p.py"])
    assert made == DiagnoseOptions(split="val", training_seed=3, plugins=(Path("p.py"),))
    with pytest.raises(Exception, match="--memory"):  # click's own, or that of the click within typer
        typed(DiagnoseOptions, "gate", ["--memory", "2"])


NAMES = st.from_regex(r"\A[a-z][a-z0-9_. '+é-]{0,9}\Z").map(str.strip)
NUMBERS = st.integers(-9, 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
OPTIONS = st.builds(
    DiagnoseOptions,
    split=NAMES,
    probes=st.lists(NAMES, max_size=3).map(lambda v: tuple(v) or None),
    skip=st.lists(NAMES, max_size=2).map(tuple),
    options=st.dictionaries(
        st.from_regex(r"\A[a-z]{1,6}\Z"),
        st.dictionaries(
            st.from_regex(r"\A[a-z]{1,6}\Z"), NUMBERS | st.lists(NUMBERS, max_size=2), min_size=1, max_size=2
        ),
        max_size=2,
    ).map(lambda v: v or None),
    profile=st.sampled_from(get_args(Profile)),
    device=NAMES,
    seed=st.integers(0, 2**63 - 1),
    limit=st.none() | st.integers(1, 2**63 - 1),
    plugins=st.lists(NAMES.map(lambda n: Path(f"{n}.py")), max_size=2).map(tuple),
    trust_pickle=st.none() | NAMES,
    training_seed=st.none() | st.integers(0, 2**63 - 1),
    subsets=st.booleans(),
)


@given(OPTIONS)
def test_what_a_report_repeats_is_what_was_asked_for(options: DiagnoseOptions) -> None:
    assert typed(DiagnoseOptions, "diagnose", words_of(options)) == options


def test_what_changes_no_result_is_not_repeated(tmp_path: Path) -> None:
    assert words_of(DiagnoseOptions(memory=1.0, cache=tmp_path)) == words_of(DiagnoseOptions())


TOY = """\
import json, sys
from typing import Annotated, Literal
from pydantic import Field
from collapsekit.config import options
from collapsekit.config.flags import Flag

class Toy(options.DiagnoseOptions):
    toys: Annotated[int, Field(ge=1), Flag("How many toys (default {default}).", gate="CKPT: toys.")] = 3

options.DiagnoseOptions = Toy
from collapsekit import diagnose
from collapsekit.cli import run
from collapsekit.errors import ConfigError

codes = [run(["diagnose", "--help"]), run(["gate", "--help"])]
cheap = ["diagnose", "ckpt.pt", "-p", "spectrum", "-o", "out", "-f", "json", "-q"]
codes += [run([*cheap, "--toys", "7", "--split", "val"]), run([*cheap, "--toys", "0"])]
try:
    diagnose("ckpt.pt", toys=0)
except ConfigError as e:
    print(e, file=sys.stderr)
print("\\n" + json.dumps([codes, diagnose("ckpt.pt", probes=["spectrum"], toys=4).settings["command"]]))
"""


def test_a_new_option_is_one_line(tmp_path: Path) -> None:
    """A field of the model is an option of the command, of the gate and of Python, checked, and repeated by reports."""
    problem = make_problem(tmp_path, ignored=["audio"], steps=0)
    torch.save(problem.model.state_dict(), tmp_path / "ckpt.pt")
    (tmp_path / "collapsekit.yaml").write_text(
        'model: {factory: "tests.problems:Late", kwargs: {widths: {image: 5, audio: 4}, ignored: [audio]}}\n'
        "modalities: {image: encoders.image, audio: encoders.audio}\n"
        "fusion: fusion\ndata: {path: data.safetensors}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", TOY],
        cwd=tmp_path,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *shown, last = done.stdout.splitlines()
    codes, command = json.loads(last)
    assert codes == [0, 0, 0, 2], done.stderr
    said = " ".join(" ".join(shown).replace("│", " ").split())
    assert "How many toys (default 3)." in said
    assert "CKPT: toys." in said
    assert command.endswith("--toys 4 --probe spectrum")
    written = json.loads((tmp_path / "out" / "report.json").read_text())["settings"]["command"]
    assert written.endswith("--split val --seed 0 --profile standard --toys 7 --probe spectrum")
    assert done.stderr.count("toys is 0, expected a whole number (int), at least 1.") == 2


def _environment() -> dict[str, str]:
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "120"}


def test_completion_offers_the_probes_that_are_registered() -> None:
    registry.load_builtins()
    assert set(probe_names("")) == {
        n for n, s in registry.PROBES.items() if s.run.__module__.startswith("collapsekit.")
    }
    assert probe_names("vi") == ["vif"]


@pytest.mark.parametrize(
    ("command", "option", "begun", "offered"),
    [
        ("diagnose", "--probe", "vi", ["vif"]),
        ("diagnose", "--skip", "vi", ["vif"]),
        ("repair", "--method", "k", ["kd"]),
    ],
)
def test_an_option_completes_its_names(command: str, option: str, begun: str, offered: list[str]) -> None:
    made = get_command(cli).commands[command]  # type: ignore[attr-defined]
    (parameter,) = [p for p in made.params if option in p.opts]
    context = made.make_context(command, [], resilient_parsing=True)
    assert [item.value for item in parameter.shell_complete(context, begun)] == offered


def test_choices_of_the_command_line_are_all_that_there_are() -> None:
    names = {"md": "markdown"}  # what the command line calls it
    assert {names.get(f.value, f.value) for f in Format} == set(formats_of("diagnosis"))
    assert {f.value for f in FailOn} == set(get_args(ModalityState)) - {"used"}
