"""examples/own_model does what its README says: every command in it is run, every quoted output compared."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from typer.testing import CliRunner

from collapsekit import Report, registry
from collapsekit.cli import app

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "examples" / "own_model"
README = (FOLDER / "README.md").read_text(encoding="utf-8")

# Every command of the README with its exit code, in order: each builds on the files of those before it.
TRAIN = "python train.py"
DIAGNOSE = "collapsekit diagnose --profile quick"
REPORT = "collapsekit report collapsekit-report"
GATE = "collapsekit diagnose --profile quick -p reliance -p utilisation --fail-on collapsed --quiet -o gate"
LIST = "collapsekit list probes -v --plugin probe.py"
PROBE = "collapsekit diagnose --profile quick --plugin probe.py --set calibration.bins=10 -o calibration -v"
API = "python api.py"
EXIT_CODES = {TRAIN: 0, DIAGNOSE: 0, REPORT: 0, GATE: 1, LIST: 0, PROBE: 0, API: 0}


@dataclass(frozen=True)
class Ran:
    """The example's folder after all commands, and what each of them printed."""

    folder: Path
    done: dict[str, subprocess.CompletedProcess[str]]

    def report(self, name: str) -> Report:
        return Report.load(self.folder / name / "report.json")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """All commands, once, in a copy that holds only the files that are part of the example; half of them in processes
    of their own."""
    base = tmp_path_factory.mktemp("examples")
    folder = base / "own_model"
    folder.mkdir()
    for file in FOLDER.iterdir():
        if file.suffix in (".py", ".yaml"):
            shutil.copy(file, folder)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(base / "cache"), "PYTHONIOENCODING": "utf-8"}
    python = {"python": [sys.executable], "collapsekit": [sys.executable, "-m", "collapsekit"]}

    def process(command: str) -> subprocess.CompletedProcess[str]:
        program, *words = shlex.split(command)
        return subprocess.run(
            [*python[program], *words], cwd=folder, env=env, capture_output=True, encoding="utf-8", timeout=300
        )

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return process(command) if command in (TRAIN, DIAGNOSE, API) else here(command, folder, base / "cache")

    return Ran(folder, {command: run(command) for command in EXIT_CODES})


def here(command: str, folder: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """A command of collapsekit in this process, which spares importing torch again, with warnings as a user sees them."""
    registry.load_builtins()
    before = dict(registry.PROBES), set(sys.modules)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        patch.chdir(folder)
        patch.delenv("COLLAPSEKIT_CACHE", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(cache))
        warnings.simplefilter("default")
        for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", hidden)
        ran = CliRunner().invoke(app, shlex.split(command)[1:], prog_name="collapsekit")
    registry_as(before)
    said = ran.stderr + "".join(f"{w.category.__name__}: {w.message}\n" for w in caught)
    return subprocess.CompletedProcess(command, ran.exit_code, ran.stdout, said)


def registry_as(before: tuple[dict[str, registry.ProbeSpec], set[str]]) -> list[object]:
    """Forget the plugin files loaded since, so that they can be loaded again; returns their modules."""
    registry.PROBES.clear()
    registry.PROBES.update(before[0])
    new = [n for n in sys.modules if n not in before[1] and n.startswith("collapsekit_plugin_")]
    return [sys.modules.pop(n) for n in new]


def blocks(language: str) -> list[str]:
    """The README's code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.M | re.S)


def quoted() -> list[tuple[str, str]]:
    """Each quoted output of the README, with the command it stands under."""
    out, command = [], ""
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.M | re.S):
        if language == "bash":
            command = text.strip()
        elif language == "text":
            out.append((command, text))
    return out


def tokens(text: str) -> list[str | float]:
    """Words and numbers; how a table is ruled, wrapped or spaced does not matter."""
    words = re.findall(r"-?\d+(?:\.\d+)?|[^\W\d_]\w*|[●·✓✗]", text.replace("×", " "))
    return [float(w) if re.fullmatch(r"-?\d.*", w) else w for w in words]


def alike(a: list[str | float], b: list[str | float]) -> bool:
    """Same words; numbers within what another version of torch may train differently."""
    return len(a) == len(b) and all(
        abs(x - y) <= 0.15 if isinstance(x, float) and isinstance(y, float) else x == y
        for x, y in zip(a, b, strict=True)
    )


def test_every_command_of_the_readme_is_run_here_in_its_order() -> None:
    shown = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    assert shown == list(EXIT_CODES)


def test_every_code_block_of_the_readme_is_of_a_kind_that_is_checked() -> None:
    assert set(re.findall(r"^```(\w*)$", README, flags=re.M)) == {"", "bash", "text", "yaml"}


def test_the_readme_shows_the_config_as_it_is() -> None:
    (shown,) = blocks("yaml")
    assert shown == (FOLDER / "collapsekit.yaml").read_text(encoding="utf-8")
    assert set(yaml.safe_load(shown)["modalities"]) == {"shape", "pixels"}


@pytest.mark.parametrize("command", EXIT_CODES)
def test_command_exits_as_the_readme_says(ran: Ran, command: str) -> None:
    done = ran.done[command]
    assert done.returncode == EXIT_CODES[command], done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.parametrize(("command", "text"), quoted(), ids=lambda text: text.split("\n")[0][:40])
def test_quoted_output_is_what_the_command_prints(ran: Ran, command: str, text: str) -> None:
    want, got = tokens(text), tokens(ran.done[command].stdout + ran.done[command].stderr)
    starts = range(len(got) - len(want) + 1)
    assert any(alike(want, got[i : i + len(want)]) for i in starts), ran.done[command].stdout


def test_the_model_scores_well_and_ignores_shape(ran: Ran) -> None:
    report = ran.report("collapsekit-report")
    assert report.verdict == "collapsed"
    shape, pixels = report.modalities["shape"], report.modalities["pixels"]
    assert (shape.verdict, pixels.verdict) == ("collapsed", "used")
    assert shape.score is not None
    assert shape.score > 0.85
    assert shape.costs_if_missing["pixels"] > 0.4
    full, alone = report.find("reliance.full_metric"), report.find("utilisation.alone_metric", "shape")
    assert full is not None
    assert alone is not None
    assert full.value is not None
    assert alone.value is not None
    assert full.value > 0.93  # so accuracy does not show it
    assert alone.value > 0.6  # and shape would have had something to say


def test_the_gate_runs_the_two_probes_a_verdict_needs_and_reaches_the_same(ran: Ran) -> None:
    gate, full = ran.report("gate"), ran.report("collapsekit-report")
    assert {r.probe for r in gate.results} == {"reliance", "utilisation"}
    assert {m: (v.verdict, v.score) for m, v in gate.modalities.items()} == {
        m: (v.verdict, v.score) for m, v in full.modalities.items()
    }
    assert ran.done[GATE].stdout == "✗ COLLAPSED  The model ignores shape, which carries label information.\n"


def test_normalising_the_shape_is_what_mends_it(ran: Ran) -> None:
    before, after = ran.done[API].stdout.split("normalise=True")
    assert ", collapsed." in before
    assert "shape: collapsed" in before
    assert ", healthy." in after
    assert "shape: used" in after
    accuracies = [float(a) for a in re.findall(r"accuracy (\d\.\d+)", ran.done[API].stdout)]
    assert abs(accuracies[0] - accuracies[1]) < 0.03


def test_the_live_model_is_diagnosed_like_its_checkpoint(ran: Ran) -> None:
    score = ran.report("collapsekit-report").modalities["shape"].score
    assert f"shape: collapsed, ignored {score:.2f}" in ran.done[API].stdout


def test_the_probe_is_reported_with_interval_definition_source_and_options(ran: Ran) -> None:
    report = ran.report("calibration")
    own = [r for r in report.results if r.probe == "calibration"]
    named = {(r.name.removeprefix("calibration."), r.modality) for r in own}
    kinds = ("ece", "overconfidence")
    assert named == {(k, None) for k in kinds} | {(f"{k}_without", m) for k in kinds for m in ("shape", "pixels")}
    assert report.settings["probes"]["calibration"] == {"bins": 10, "draws": 8}
    for r in own:
        assert r.value is not None
        assert r.interval is not None
        assert r.interval[0] <= r.value <= r.interval[1]
        assert r.definition
        assert "Guo" in r.source
    for modality in (None, "shape", "pixels"):
        end = "" if modality is None else "_without"
        ece, over = (report.find(f"calibration.{k}{end}", modality) for k in kinds)
        assert ece is not None
        assert over is not None
        assert ece.value is not None
        assert over.value is not None
        assert abs(over.value) <= ece.value + 1e-12 <= 1.0 + 1e-12  # |mean| is at most the mean of |.|


def test_the_probe_finds_the_model_sure_of_another_digits_pixels_and_deaf_to_another_shape(ran: Ran) -> None:
    report = ran.report("calibration")
    value = {m: report.find("calibration.overconfidence_without", m) for m in ("shape", "pixels")}
    assert value["shape"] is not None
    assert value["pixels"] is not None
    assert value["shape"].value == pytest.approx(0.0, abs=0.1)
    assert value["pixels"].value == pytest.approx(0.87, abs=0.1)


def test_the_probe_changes_no_verdict_and_no_other_result(ran: Ran) -> None:
    alone, beside = ran.report("collapsekit-report"), ran.report("calibration")
    assert beside.modalities == alone.modalities
    assert tuple(r for r in beside.results if r.probe != "calibration") == alone.results


def test_calibration_error_is_that_of_a_plain_loop(ran: Ran, example: Callable[[str], object]) -> None:
    """The definition once more, written as in the paper, on confidences that also lie on the edges of bins."""
    probe = example("probe")
    generator = torch.Generator().manual_seed(0)
    confidence = torch.randint(3, 11, (64,), generator=generator).double() / 10
    correct = torch.rand(64, generator=generator) < 0.6
    adapter, features = Stub(confidence), Stub(confidence, targets=(~correct).long())
    excess = probe.binned_excess(adapter, features, confidence, 10)  # type: ignore[attr-defined]
    sizes = torch.bincount(features.groups)
    ece = probe.with_leave_outs("ece", excess, sizes)  # type: ignore[attr-defined]
    over = probe.with_leave_outs("overconfidence", excess, sizes)  # type: ignore[attr-defined]

    def plain(keep: Tensor) -> float:
        c, hit, total = confidence[keep].numpy(), correct[keep].numpy(), 0.0
        for k in range(10):
            inside = (c > k / 10 + 1e-12) & (c <= (k + 1) / 10 + 1e-12)
            if inside.any():
                total += inside.mean() * abs(c[inside].mean() - hit[inside].mean())
        return float(total)

    assert ece[0] == pytest.approx(plain(torch.ones(64, dtype=torch.bool)))
    assert over[0] == pytest.approx(float(np.mean(confidence.numpy() - correct.numpy())))
    for g in range(4):
        assert ece[1 + g] == pytest.approx(plain(features.groups != g))


class Stub:
    """What binned_excess reads of an adapter and of features: class 0 is always predicted."""

    def __init__(self, confidence: Tensor, targets: Tensor | None = None) -> None:
        self.targets, self.groups, self.task = targets, torch.arange(len(confidence)) % 4, self

    def expect(self, outputs: Tensor) -> Tensor:
        return torch.stack([outputs, torch.zeros_like(outputs)], dim=1)


@pytest.fixture
def example(ran: Ran) -> Callable[[str], object]:
    """Loads a plugin of the example by the door --plugin uses; leaves the registry as it was."""

    def load(name: str) -> object:
        before = dict(registry.PROBES), set(sys.modules)
        registry.load_plugin_file(ran.folder / f"{name}.py")
        (module,) = registry_as(before)
        return module

    return load
