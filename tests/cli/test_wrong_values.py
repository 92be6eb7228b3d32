"""Every option of every command, given what it cannot take: one sentence, at once, and nothing is begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.main import get_command

from collapsekit.cli import app
from collapsekit.gating.baseline import make_baseline
from collapsekit.report.baseline import Run as EarlierRun
from tests.answers.making import make_manifest
from tests.cli.conftest import Run
from tests.gating.making import make_report
from tests.problems import make_problem

CONFIG = """\
model: {factory: "tests.problems:Late", kwargs: {widths: {image: 5, audio: 4}, ignored: [audio]}, checkpoint: ckpt.pt}
modalities: {image: encoders.image, audio: encoders.audio}
fusion: fusion
data: {path: data.safetensors}
"""
DIGEST = ["sha256:12", "md5:" + "0" * 64]
SEED = ["-5", str(2**70), "1.5", "x"]
LIMIT = ["0", "-1", "2.5", "x"]
DEVICE = ["quantum", "cuda:99", "meta", "cpu:3", "privateuseone", "mps", "cuda"]
# Places that cannot be written: a file in a folder's place, a folder in a file's, a name too long, and no file system.
FOLDER = ["data.safetensors", "data.safetensors/in", "n" * 300, "/proc/nothing"]
FILE = ["folder", "data.safetensors/in", "n" * 300, "/proc/nothing"]
COMMON = {
    "--config": ["none.yaml", "data.safetensors"],
    "--split": ["tset", ""],
    "--profile": ["slow"],
    "--device": DEVICE,
    "--seed": SEED,
    "--limit": LIMIT,
    "--plugin": ["none.py", "folder", "wrong.py"],
    "--trust-pickle": DIGEST,
    "--output": FOLDER,
}
DIAGNOSIS = {**COMMON, "--training-seed": ["-1", str(2**70), "x"]}
NUMBER = ["nan", "inf", "-1", "x"]
WRONG: dict[str, dict[str, list[str]]] = {
    "diagnose": {
        **DIAGNOSIS,
        "<checkpoint>": [],  # it is read
        "--probe": ["viff", ""],
        "--skip": ["spectrom"],
        "--set": [
            *["vif", "vif=", "=3", "viff.x=1", "spectrum.rtoll=1", "spectrum.rtol=2", "spectrum.rtol=nan"],
            *["rank_sweep.modality=imag", "rank_sweep.betas=1", "rank_sweep.rate=inf", "growing.order=image,vidoe"],
            *["growing.order=image", "missing.fills=zero", "missing.rates=2", "prefix_gap.budget=inf"],
            *["prefix_gap.budget=nan", "reliance.draws=-1", "noise.levels=-1", "vif.=3"],
        ],
        "--memory": NUMBER,
        "--format": ["pdf"],
        "--figures": FOLDER,
        "--fail-on": ["bad"],
        "--log": FILE,
    },
    "plan": {
        **{name: COMMON[name] for name in ("--config", "--split", "--seed", "--limit", "--output")},
        "--budget": ["0", "-1", "2.5", "x"],
        "--format": ["plian"],
        "--set": ["vif", "viff.x=1", "reliance.drws=1", "reliance.draws=-1"],
        "--next": ["none.jsonl"],
        "--log": FILE,
    },
    "score": {
        "<questions>": ["none"],
        "<answers>": ["none.jsonl"],
        "--config": COMMON["--config"],
        "--missing": FILE,
        "--output": FOLDER,
        "--format": ["pdf"],
        "--fail-on": ["bad"],
        "--log": FILE,
    },
    "repair": {
        **{k: v for k, v in COMMON.items() if k != "--split"},
        "<checkpoint>": [],
        "--method": ["dropuot", "kd,kd", ""],
        "--modality": ["imag", ""],
        "--set": [
            "kd.weigth=1",
            "dropout.rate=1.5",
            "kd.weight=inf",
            "rtf.giver=vidoe",
            "rtf",
            "vif.x=1",
            "kd.width=nan",
        ],
        "--epochs": ["0", "-3", "1.5", "nan"],
        "--steps": ["0", "x"],
        "--optimizer": ["adam"],
        "--lr": ["0", *NUMBER],
        "--batch-size": ["1", "0", "x"],
        "--accumulate": ["0", "x"],
        "--clip": ["0", *NUMBER],
        "--weight-decay": NUMBER,
        "--schedule": ["linear"],
        "--patience": ["0", "x"],
        "--freeze": ["encoders.imge", "encoders.image:input", ""],
        "--tensorboard": FOLDER,
        "--log": FILE,
    },
    "gate": {
        **DIAGNOSIS,
        "<subject>": [],
        "--require": [
            "verdict =",
            "score < ",
            ")",
            "modalities.imag.score < 1",
            "results[reliance.shapley, vidoe] > 0",
        ],
        "--baseline": ["none.json"],
        "--format": ["texts", "json=", *(f"json={f}" for f in FILE)],
        "--situation": ["same", "paired", "retrained"],
        "--watch": ["metrics"],
        "--alpha": ["nan", "0", "0.7", "-1", "x"],
        "--margin": ["use", "use=nan", "use=-1", "use=inf", "usage=0.1", "use=x"],
        "--effect": ["use", "use=nan", "use=-1", "use=inf", "usage=0.1", "use=0.01"],
    },
    "demo": {"<folder>": FOLDER, "--seed": SEED, "--log": FILE},
    "init": {
        "<checkpoint>": [],
        "--factory": ["nothing", "none:build", "wrong:build", "tests.problems:nothing"],
        "--data": ["none.safetensors", "none:loaders", "folder"],
        "--kwargs": ["[1]", "{", "3"],
        "--output": FILE,
        "--trust-pickle": DIGEST,
    },
    "report": {"<path>": ["none.json"], "--format": ["pdf"], "--output": FILE, "--figures": FOLDER},
    "compare": {
        "<reports>": ["none.json", "a="],
        "--against": ["other"],
        "--base": ["other"],
        "--only": ["nothing.*"],
        "--format": ["pdf"],
        "--output": FILE,
    },
    "baseline create": {"<reports>": ["none.json"], "--output": FILE},
    "baseline update": {"<baseline>": ["none.json"], "<reports>": ["none.json"]},
    "baseline show": {"<baseline>": ["none.json"]},
    "reproduce": {
        "<items>": ["s1.tabel7", "s1.figure1", ""],
        "--output": FOLDER[1:],
        "--log": FILE,
        "--seeds": ["0", "-1", "1001", "x"],
    },
    "list": {"<kind>": ["probe"], "--plugin": ["none.py", "wrong.py"]},
    "schema": {"<kind>": ["reports"]},
    "inspect": {"<path>": ["none.pt"]},
    "doctor": {},
}
# What stands in the other places of the command line.
PLAIN: dict[str, list[str]] = {
    "init": ["ckpt.pt", "-o", "other.yaml", "--factory", "tests.problems:Late", "--data", "data.safetensors"],
    "plan": ["--config", "elsewhere.yaml", "-o", "new"],
    "score": ["questions", "answers.jsonl", "--config", "elsewhere.yaml"],
    "report": ["report.json"],
    "compare": ["a=report.json", "b=other.json"],
    "baseline create": ["report.json", "--force"],
    "baseline update": ["baseline.json", "other.json"],
    "repair": ["-o", "repaired"],
    "reproduce": ["s1.table7"],
}
# Checked by the model, once it is built: that is no pass over the data yet.
BUILT = {("repair", "--freeze")}
MESSAGES = {  # where the value is not what is wrong with it
    ("repair", "--method", "kd,kd"): ["--method names 'kd' twice"],
    ("diagnose", "--set", "vif="): ["vif="],
    ("diagnose", "--set", "=3"): ["=3"],
    ("diagnose", "--set", "vif.=3"): ["vif.=3"],
    ("diagnose", "--set", "viff.x=1"): ["viff", "did you mean 'vif'"],
    ("diagnose", "--set", "growing.order=image"): ["growing.order is image", "name each"],
    ("diagnose", "--set", "growing.order=image,vidoe"): ["growing.order names 'vidoe'"],
    ("gate", "--require", "modalities.imag.score < 1"): ["names the modality", "'imag'", "'image'"],
    ("gate", "--require", "results[reliance.shapley, vidoe] > 0"): ["names the modality", "vidoe"],
    ("plan", "--set", "viff.x=1"): ["viff", "did you mean 'vif'"],
    ("plan", "--next", "none.jsonl"): ["new has no manifest.json"],  # the folder is looked at first
    ("repair", "--set", "vif.x=1"): ["no repair 'vif'"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with everything in it, which no test changes."""
    place = tmp_path_factory.mktemp("wrong") / "project"
    problem = make_problem(place, ignored=["audio"], steps=0)
    torch.save(problem.model.state_dict(), place / "ckpt.pt")
    (place / "collapsekit.yaml").write_text(CONFIG)
    (place / "elsewhere.yaml").write_text("modalities: {image: , audio: }\ndata: {path: data.safetensors}\n")
    make_manifest(0).save(place / "questions")
    (place / "answers.jsonl").write_text("")
    (place / "report.json").write_text(make_report().to_json())
    (place / "other.json").write_text(make_report({"audio": 0.5, "image": 0.9}, sha="b", training_seed=2).to_json())
    (place / "baseline.json").write_text(make_baseline([EarlierRun(report=make_report())]).to_json())
    (place / "wrong.py").write_text("raise ValueError('no')\n")
    (place / "folder").mkdir()
    return place


@pytest.fixture(autouse=True)
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was begun that takes long; it is not done."""
    seen: list[str] = []
    expensive = {
        "read": ["session.opening.read_checkpoint", "checkpoint.read.read_checkpoint"],
        "build": ["adapters.base.build_model"],
        "pass": ["session.opening.OpenModel.measuring"],
        "train": ["repairs.chain.train", "demo.make.train_demo"],
    }

    def instead(what: str) -> Any:
        def stop(*args: Any, **kwargs: Any) -> None:
            seen.append(what)
            raise AssertionError(f"it began to {what}")

        return stop

    for what, places in expensive.items():
        for place in places:
            monkeypatch.setattr(f"collapsekit.{place}", instead(what))
    monkeypatch.setattr("collapsekit.repairs.request.summary_writer", lambda: None)  # TensorBoard may not be there
    return seen


def table() -> list[Any]:
    return [
        pytest.param(command, option, value, id=f"{command} {option}={value if len(value) < 40 else 'long'}")
        for command, options in WRONG.items()
        for option, values in options.items()
        for value in values
    ]


def line(command: str, option: str, value: str) -> list[str]:
    """The command line with that value in its place."""
    if not option.startswith("<"):
        return [*command.split(), *PLAIN.get(command, []), option, value]  # of an option given twice the last counts
    plain = PLAIN.get(command, [])
    if option in ("<reports>", "<answers>"):
        return [*command.split(), *plain, value]
    return [*command.split(), value, *plain[1:]]


@pytest.mark.parametrize(("command", "option", "value"), table())
def test_a_wrong_value_is_one_sentence_and_nothing_is_begun(
    command: str,
    option: str,
    value: str,
    folder: Path,
    cli: Run,
    begun: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if (command, option) in BUILT:
        monkeypatch.undo()
        monkeypatch.setattr("collapsekit.session.opening.OpenModel.measuring", None)
    if (value, True) in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())):
        pytest.skip(f"{value} is there")
    before = sorted(folder.rglob("*"))
    done = cli(*line(command, option, value), cwd=folder)
    assert done.returncode == 2, done.stderr
    assert begun == []
    assert done.stdout == ""
    said = " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in said
    told = said.replace(" ", "").lower()
    if "Usage:" in said:  # typer's
        assert f"'{option}'" in said or option.startswith("<"), said
        return
    for part in MESSAGES.get((command, option, value), parts_of(option, value)):
        assert part[:40].replace(" ", "").lower() in told, said
    *before_it, last = done.stderr.splitlines()  # which config is used is said first
    assert last.startswith("error: ")
    assert all(line.startswith("Config: ") for line in before_it)
    assert len(before_it) <= 1
    assert NAMED.get(option, option.strip("-<>").split("-")[0]) in said.replace("_", "-").lower(), said
    assert sorted(folder.rglob("*")) == before


# By what words an option is named, where not by itself.
NAMED = {
    "--set": "",  # PROBE.OPTION, which the value is
    "<items>": "",
    "--skip": "probe",
    "--method": "re",  # repair, or --method
    "--require": "rule",
    "--lr": "--lr",
    "--trust-pickle": "--trust-pickle",
    "--watch": "watch",
    "--memory": "memory",
    "--against": "column",
    "--only": "",
    "--next": "manifest",
    "<questions>": "",
    "<answers>": "",
    "<subject>": "",
    "<path>": "",
    "<reports>": "",
    "<folder>": "folder",
    "<baseline>": "",
}


def parts_of(option: str, value: str) -> list[str]:
    """What the sentence has to hold of a value: all of it, or the names and the number around an equals sign."""
    if option == "--set" and "=" in value:
        name, _, given = value.partition("=")
        name = name if given not in ("1",) or "." not in name else name.partition(".")[2]
        return [name.rpartition(".")[2], given if given != "1" else ""]
    if option in ("--margin", "--effect"):
        return value.split("=")[:1]
    return [value]


def test_the_table_has_every_option_that_takes_a_value() -> None:
    found: dict[str, set[str]] = {}

    def walk(command: Any, name: str) -> None:
        if hasattr(command, "commands"):
            for part, sub in command.commands.items():
                walk(sub, f"{name} {part}".strip())
            return
        found[name] = {
            p.opts[0] if p.param_type_name == "option" else f"<{p.name}>"
            for p in command.params
            if not getattr(p, "is_flag", False)
        }

    walk(get_command(app), "")
    assert found == {command: set(options) for command, options in WRONG.items()}
