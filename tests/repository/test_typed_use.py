"""A user's own script, checked as ``mypy --strict`` checks it: the public names have their types."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

SOUND = """
from collections.abc import Iterator
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

import collapsekit
from collapsekit import Adapter, Features, Options, Report, Result, Settings, ext, probe
from collapsekit.ext import Job, NumericsError, Stage, jackknife_interval, marginal_samples, predict, repair_method


class MyOptions(Options):
    draws: int = 4


@probe("mine", summary="s", definition="d", source="s", cannot="c", options=MyOptions)
def run(adapter: Adapter, features: Features, *, settings: Settings) -> Iterator[Result]:
    draws: int = settings.own(MyOptions).draws
    for donor in marginal_samples(len(features), draws, settings.seed):
        outputs: torch.Tensor = predict(adapter, features, swap={features.modalities[0]: donor}).outputs
        if not outputs.isfinite().all():
            raise NumericsError("not finite")
    low, high = jackknife_interval(0.5, [0.4, 0.6], settings.level)
    yield Result(name="mine.value", probe="mine", value=0.5, interval=(low, high), definition="d", source="s")


@repair_method("mine", summary="s", definition="d", source="s")
def mend(job: Job) -> Iterator[Stage]:
    yield Stage("all", job.adapter.model, job.trainable(), lambda s: job.task_loss(job.run(s).outputs, s), job.held_loss)


def judge(model: nn.Module, data: dict[str, dict[str, torch.Tensor]]) -> bool:
    report: Report = collapsekit.diagnose(model=model, data=data, config={"task": "classification"}, profile="quick")
    repaired: collapsekit.RepairReport = collapsekit.repair("ckpt.pt", output=Path("out"), method=["kd"])
    kept: collapsekit.Baseline = collapsekit.baseline([report, "runs/1"], earlier="baseline.json")
    table: collapsekit.Comparison = collapsekit.compare({"a": report, "b": ["runs/1", Path("runs/2")]}, only=["score"])
    decided: collapsekit.GateReport = collapsekit.gate(repaired, baseline=kept, margins={"use": 0.1})
    found: Result = report["reliance.shapley", "image"]
    figure: Figure = report.plot("rank_sweep", wide=False)
    files: list[Path] = [*report.save("out"), *table.save(Path("table.html"))]
    print(found.value, figure, files, report.to_frame("pandas"), "vif.mean" in report, [*report.names()])
    collapsekit.diagnose("ckpt.pt", progress=False)
    for name, verdict in report.modalities.items():
        print(name.upper(), verdict.verdict, verdict.reason.title())
    try:
        return bool(decided) and len(table.rows) > 0
    except ext.ConfigError as e:
        return e.exit_code == 0
"""

# What a checker has to say of each line; where the names had no types it would say nothing.
WRONG = {
    "collapsekit.diagnos('ckpt.pt')": "has no attribute",
    "ext.predicts": "has no attribute",
    "collapsekit.diagnose('ckpt.pt', limits=3)": "Unexpected keyword",
    "collapsekit.diagnose('ckpt.pt', profile='quickest')": "incompatible type",
    "collapsekit.repair('ckpt.pt')": "Missing named argument",
    "collapsekit.gate(3)": "incompatible type",
    "collapsekit.gate('r.json').outcome.real": "has no attribute",
    "collapsekit.baseline(['r.json']).run": "has no attribute",
    "collapsekit.compare([1, 2])": "incompatible type",
    "ext.marginal_samples('10', 2, 0)": "incompatible type",
    "collapsekit.Report.load('r.json').find('vif.mean').value": "has no attribute",
    "collapsekit.Report.load('r.json')['vif.mean'].valeu": "has no attribute",
    "collapsekit.Report.load('r.json')[3]": "Invalid index type",
    "collapsekit.Report.load('r.json').plot(3)": "incompatible type",
    "collapsekit.Report.load('r.json').to_frame('numpy')": "No overload variant",
    "collapsekit.Report.load('r.json').save(3)": "incompatible type",
    "collapsekit.diagnose('ckpt.pt', progress=True)": "incompatible type",
}


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What mypy says of both scripts, by FILE:LINE; one run, which reads torch once."""
    pytest.importorskip("mypy")
    folder = tmp_path_factory.mktemp("typed")
    (folder / "sound.py").write_text(SOUND)
    (folder / "wrong.py").write_text("\n".join(["import collapsekit", "from collapsekit import ext", *WRONG, ""]))
    shutil.copy(ROOT / "examples" / "own_model" / "probe.py", folder / "example.py")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(folder / "cache")]
    done = subprocess.run(
        [*command, "sound.py", "example.py", "wrong.py"],
        cwd=folder,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return dict(re.findall(r"^(\w+\.py:\d+): error: (.*)$", done.stdout, re.M))


def test_a_typed_script_passes(errors: dict[str, str]) -> None:
    assert {at: said for at, said in errors.items() if not at.startswith("wrong.py")} == {}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_line_is_found(line: str, errors: dict[str, str]) -> None:
    assert WRONG[line] in errors.get(f"wrong.py:{3 + list(WRONG).index(line)}", "nothing")
