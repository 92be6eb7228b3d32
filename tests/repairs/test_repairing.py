"""From a checkpoint that ignores a modality to one that does not, by the API and the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

import collapsekit
from benchmarks.repair.planted import only_deciding
from collapsekit import RepairReport, load_repaired, registry, repair
from collapsekit.cli import app
from collapsekit.cli.completion import repair_names
from collapsekit.context import Progress
from collapsekit.errors import ConfigError, NothingEvaluatedError, RefusedError
from collapsekit.io.locks import locked
from collapsekit.repairs import run as order
from collapsekit.repairs.export import export_weights
from collapsekit.repairs.request import RepairRequest
from collapsekit.repairs.training.snapshots import Snapshots
from collapsekit.report.diagnosis import Report
from tests.conftest import joint_trained_briefly, one_figure_drawn
from tests.factories import digest_of, digests_in
from tests.problems import Late, make_arrays, train
from tests.resealing import resealed

ROOT = Path(__file__).parents[2]
WIDTHS = {"image": 5, "audio": 4}
CONFIG = """\
model: {factory: "tests.problems:Late", kwargs: {widths: {image: 5, audio: 4}}, checkpoint: ckpt.pt}
modalities: {image: encoders.image, audio: encoders.audio}
fusion: fusion
data: {path: data.safetensors}
"""
FAST = {"epochs": 12, "rate": 0.01}


@cache
def _deaf(train_size: int, val: int, test: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The arrays and weights of ``deaf``, trained once."""
    arrays = make_arrays(WIDTHS, spread=2.0, sizes={"train": train_size, "val": val, "test": test})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Late(WIDTHS)
        torch.nn.init.zeros_(model.encoders["audio"].weight)
        silent = arrays | {"train/audio": torch.zeros_like(arrays["train/audio"])}
        train(model, silent, list(WIDTHS), "classification", 60)
    return arrays, model.state_dict()


def deaf(folder: Path, train: int = 240, val: int = 160, test: int = 160) -> Path:
    """A folder with a model that never heard audio in training, though audio says as much as the image."""
    from safetensors.torch import save_file

    arrays, weights = _deaf(train, val, test)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(arrays, folder / "data.safetensors")
    torch.save(weights, folder / "ckpt.pt")
    (folder / "collapsekit.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder; do not write into it."""
    with joint_trained_briefly(), one_figure_drawn():
        yield deaf(tmp_path_factory.mktemp("deaf") / "project")


def mend(folder: Path, output: Path, *, whole: bool = False, **how: Any) -> RepairReport:
    """A repair of the model there; its reports are of the probes that decide, or ``whole``."""
    usual = {"config": folder / "collapsekit.yaml", "cache": output.parent / "cache"}
    how = {**usual, "training": FAST, "profile": "quick"} | how
    with nullcontext() if whole else only_deciding():
        return repair(folder / "ckpt.pt", output=output, **how)


@pytest.fixture(scope="module")
def mended(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RepairReport, Path]:
    output = tmp_path_factory.mktemp("mended") / "out"
    return mend(made, output, method="dropout", whole=True), output


def test_a_repaired_model_uses_the_modality_that_it_ignored(made: Path, mended: tuple[RepairReport, Path]) -> None:
    report, output = mended
    assert report.repaired == ("audio",)
    assert report.before.modalities["audio"].verdict == "collapsed"
    assert report.after.modalities["audio"].verdict == "used"
    assert report.accepted
    assert report.exported
    assert [c.name for c in report.checks] == ["metric", "score.audio", "still_used.image"]
    assert all(c.passed for c in report.checks)
    assert report.control is not None
    assert {curve.method for curve in report.losses} == {"dropout", "finetune"}
    assert report.base_sha256 == digest_of(made / "ckpt.pt")
    for part in (report.before, report.after, report.control):  # of the same things, so that they can be compared
        swept = [r.modality for r in part.results if r.name == "rank_sweep.effective_rank"]
        assert swept == ["audio"]
    pairs = [(r, report.after.find(r.name, r.modality, r.versus)) for r in report.before.results]
    assert all(other is None or (r.definition, r.source) == (other.definition, other.source) for r, other in pairs)
    assert sorted(p.name for p in output.iterdir()) == ["model.safetensors", "repair.json"]


def test_every_report_of_it_names_the_config(mended: tuple[RepairReport, Path]) -> None:
    report, _ = mended
    for one in (report.before, report.after, report.control):
        assert one is not None
        assert one.config is not None
        assert one.config.endswith("/project/collapsekit.yaml")
        assert not Path(one.config).is_absolute()
    assert f"--config {report.before.config}" in report.before.settings["command"]
    assert report.after.settings["command"] is None  # of a live model


def test_the_report_reads_back_the_same_and_follows_from_its_checks(mended: tuple[RepairReport, Path]) -> None:
    report, output = mended
    text = (output / "repair.json").read_text()
    assert RepairReport.load(output / "repair.json") == report
    assert RepairReport.from_json(text).to_json() == text
    raw = json.loads(text)
    raw["accepted"] = False
    with pytest.raises(RefusedError, match="`accepted` does not follow"):
        RepairReport.from_json(resealed(RepairReport, raw))
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    for place in ([], ["before"], ["control"]):  # what the schema leaves open is bounded in the reports within, too
        raw = json.loads(text)
        holder = raw
        for key in place:
            holder = holder[key]
        holder["settings"]["x"] = deep
        with pytest.raises(RefusedError, match="in its settings or environment: it is nested more than 100 levels"):
            RepairReport.from_json(json.dumps(raw))
    with pytest.raises(RefusedError, match="has schema_version 3, this collapsekit reads 1 and 2"):
        RepairReport.from_json(text.replace('"schema_version": 2', '"schema_version": 3', 1))


def test_weights_load_into_the_user_s_model_with_and_without_collapsekit(
    made: Path, mended: tuple[RepairReport, Path]
) -> None:
    report, output = mended
    weights: dict[str, Tensor] = load_file(output / "model.safetensors")
    plain = Late(WIDTHS)
    plain.load_state_dict(weights)
    ours = load_repaired(output, Late(WIDTHS))
    x = {m: torch.randn(3, d) for m, d in WIDTHS.items()}
    assert torch.equal(plain(**x), ours(**x))
    assert not ours.training
    again = collapsekit.diagnose(output, config=made / "collapsekit.yaml", profile="quick", split="test")
    assert again.modalities == report.after.modalities


@pytest.mark.slow  # with all probes
def test_the_same_repair_gives_the_same_bytes(made: Path, mended: tuple[RepairReport, Path], tmp_path: Path) -> None:
    torch.rand(3)  # whatever the caller's random state
    before = torch.get_rng_state()
    mend(made, tmp_path / "out", method="dropout", whole=True)
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("model.safetensors", "repair.json"):
        assert (tmp_path / "out" / name).read_bytes() == (mended[1] / name).read_bytes()


def test_each_note_is_said_once(made: Path, tmp_path: Path) -> None:
    class Heard(Progress):
        notes: list[str]
        steps: list[str]

        def __init__(self) -> None:
            self.notes, self.steps = [], []

        def note(self, text: str) -> None:
            self.notes.append(text)

        def step(self, what: str, done: int, total: int | None, said: str = "") -> None:
            self.steps.append(f"{what} {said}")

    heard = Heard()
    mend(made, tmp_path / "out", training={"epochs": 1}, control=False, progress=heard)
    assert len(heard.notes) == len(set(heard.notes))
    assert any(note.startswith("Method kd,dropout: whether the encoder of audio") for note in heard.notes)
    assert any(step.startswith("dropout: modality dropout held-out loss ") for step in heard.steps)


def test_what_is_rejected_is_exported_with_keep_alone(made: Path, tmp_path: Path) -> None:
    """And weights of an earlier repair do not stay beside a report that they are not of."""
    nothing = {"epochs": 1, "rate": 1e-9}
    kept = mend(made, tmp_path / "out", method="finetune", training=nothing, keep=True)
    assert (kept.accepted, kept.exported) == (False, True)
    assert (tmp_path / "out" / "model.safetensors").is_file()
    report = mend(made, tmp_path / "out", method="finetune", training=nothing, force=True)
    assert (report.accepted, report.exported, report.control) == (False, False, None)
    assert [c.passed for c in report.checks] == [True, False, True]
    assert "rejected" in report.summary
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["repair.json"]


def test_a_chain_runs_its_methods_in_order(made: Path, tmp_path: Path) -> None:
    few = {"epochs": 2, "rate": 0.01}
    report = mend(made, tmp_path / "out", method="kd,dropout", training=few, control=False, keep=True)
    assert report.method == ("kd", "dropout")
    assert [(c.method, c.stage) for c in report.losses] == [
        ("kd", "distilling image into audio"),
        ("kd", "training the fusion"),
        ("dropout", "modality dropout"),
        ("dropout", "finishing"),
    ]
    assert set(report.definitions) == {"kd", "dropout", "finetune"}


def test_the_encoder_that_never_learned_is_told_from_a_fusion_that_does_not_listen(made: Path) -> None:
    how: dict[str, Any] = {"config": made / "collapsekit.yaml", "profile": "quick", "training": FAST}
    told = order.plan(made / "ckpt.pt", **how)
    *_, whom, method, begins = told[:-3]
    assert whom == "To repair: audio (collapsed on val)."
    assert method.startswith("Method: kd,dropout; whether the encoder of audio")
    assert "kd begins with distilling image into audio" in begins
    only = order.plan(made / "ckpt.pt", method="finetune", **how)
    assert sum(p.numel() for p in Late(WIDTHS).parameters()) == int(only[-4].split(": ")[1].split(" ")[0])


def test_what_is_not_decided_but_surely_weak_is_told_as_the_diagnosis_tells_it(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = RepairRequest.decide

    def undecided(*asked: Any) -> Report:
        report = decide(*asked)
        audio = report.modalities["audio"].model_copy(update={"verdict": "inconclusive", "at_most": "underused"})
        return report.model_copy(update={"modalities": {**report.modalities, "audio": audio}})

    monkeypatch.setattr(RepairRequest, "decide", undecided)
    how: dict[str, Any] = {"config": made / "collapsekit.yaml", "profile": "quick", "training": FAST}
    assert "To repair: audio (at most underused on val)." in order.plan(made / "ckpt.pt", method="finetune", **how)


@pytest.mark.slow
def test_modalities_may_be_named_and_must_be_where_nothing_is_ignored(made: Path, tmp_path: Path) -> None:
    report = mend(made, tmp_path / "a", method="finetune", modalities=["image"], training={"epochs": 1}, keep=True)
    assert report.repaired == ("image",)
    with pytest.raises(ConfigError, match=r"no modality 'imag'.*did you mean 'image'"):
        mend(made, tmp_path / "b", modalities=["imag"])
    fine = tmp_path / "fine"
    fine.mkdir()
    for name in ("data.safetensors", "collapsekit.yaml"):
        (fine / name).write_bytes((made / name).read_bytes())
    (fine / "ckpt.pt").write_bytes((tmp_path / "a" / "model.safetensors").read_bytes())
    mend(made, tmp_path / "c", method="dropout")
    (fine / "ckpt.pt").write_bytes((tmp_path / "c" / "model.safetensors").read_bytes())
    with pytest.raises(NothingEvaluatedError, match="nothing to repair"):
        mend(fine, tmp_path / "d", method="dropout")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"method": "dropuot"}, "there is no repair 'dropuot' .did you mean 'dropout'"),
        ({"method": "kd,kd"}, "'kd' twice"),
        ({"method": ""}, "there is no repair ''"),
        ({"training": {"rate": 0}}, r"training setting 'rate' \(--lr\): Input should be greater than 0, found 0"),
        ({"training": {"epoch": 1}}, "no training setting 'epoch'.*did you mean 'epochs'"),
        ({"options": {"kd": {"weigth": 1}}}, "repair 'kd' has no option 'weigth'.*did you mean 'weight'"),
        ({"options": {"dropout": {"rate": 1.5}}}, r"option dropout\.rate"),
        ({"training": {"freeze": ["encoders.imge"]}}, "--freeze 'encoders.imge' is not a submodule"),
        ({"training": {"freeze": ["encoders", "fusion", "head"]}}, "nothing is left to train"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(
    made: Path, tmp_path: Path, how: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as e:
        mend(made, tmp_path / "out", **({"method": "dropout"} | how))
    assert "\n" not in str(e.value)
    assert not (tmp_path / "out" / "repair.json").exists()


@pytest.mark.slow
def test_force_removes_the_snapshots_of_another_repair(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for left in ("kd", "kd-dropout"):
        (out / "snapshots" / left).mkdir(parents=True)
        (out / "snapshots" / left / "stage0.safetensors").touch()
    few = {"epochs": 1}
    mend(made, out, method="finetune", force=True, training=few, keep=True)
    assert sorted(p.name for p in out.iterdir()) == ["model.safetensors", "repair.json"]
    (out / "snapshots" / "finetune").mkdir(parents=True)  # as where it was ended before it could clear them
    mend(made, out, method="finetune", resume=True, training=few, keep=True)
    assert not (out / "snapshots").exists()


def test_tasks_without_a_score_are_refused_at_once(made: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(CONFIG) | {"task": "contrastive"}
    with pytest.raises(ConfigError, match="for task 'contrastive' there is none"):
        mend(made, tmp_path / "out", config=config, method="dropout")


def test_a_folder_in_use_is_left_alone(made: Path, mended: tuple[RepairReport, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"already holds .*--force"):
        mend(made, mended[1], method="dropout")
    (tmp_path / "out" / "snapshots").mkdir(parents=True)
    with pytest.raises(ConfigError, match="unfinished repair: go on with --resume"):
        mend(made, tmp_path / "out", method="dropout")
    new = tmp_path / "new"
    with (
        locked(new / "repair.json"),
        pytest.raises(ConfigError, match="being written by another process: let that one"),
    ):
        mend(made, new, method="dropout", force=True)
    assert not new.exists()


def test_a_split_that_is_missing(tmp_path: Path) -> None:
    folder = deaf(tmp_path / "p")
    arrays = load_file(folder / "data.safetensors")
    from safetensors.torch import save_file

    save_file({k: v for k, v in arrays.items() if not k.startswith("val/")}, folder / "data.safetensors")
    with pytest.raises(ConfigError, match="there is no split 'val'"):
        mend(folder, tmp_path / "out", method="dropout")


def test_without_a_test_split_the_report_is_on_val(tmp_path: Path) -> None:
    folder = deaf(tmp_path / "p")
    arrays = load_file(folder / "data.safetensors")
    from safetensors.torch import save_file

    save_file({k: v for k, v in arrays.items() if not k.startswith("test/")}, folder / "data.safetensors")
    with joint_trained_briefly():
        report = mend(folder, tmp_path / "out", method="dropout", control=False)
    assert report.after.subject.split == "val"


@pytest.mark.slow  # of the loop, test_interrupted and test_snapshots say it
def test_an_interrupted_repair_goes_on_to_the_same_weights(
    made: Path, mended: tuple[RepairReport, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collapsekit.repairs.training.snapshots import Snapshots

    real, calls = Snapshots.save, []

    def stopping(self: Snapshots, *args: Any) -> None:
        real(self, *args)
        calls.append(1)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C does

    monkeypatch.setattr(Snapshots, "save", stopping)
    with pytest.raises(KeyboardInterrupt):
        mend(made, tmp_path / "out", method="dropout")
    monkeypatch.undo()
    assert (tmp_path / "out" / "snapshots" / "dropout" / "stage0.safetensors").is_file()
    with pytest.raises(ConfigError, match=r"of another repair .training differ"):
        mend(made, tmp_path / "out", method="dropout", resume=True, training={"epochs": 3})
    with monkeypatch.context() as patch:
        forward = Late.forward
        patch.setattr(Late, "forward", lambda self, **x: forward(self, **x).tanh())
        with pytest.raises(ConfigError, match="was made with a model whose outputs were up to"):
            mend(made, tmp_path / "out", method="dropout", modalities=["audio"], resume=True)
    mend(made, tmp_path / "out", method="dropout", resume=True, whole=True)
    for name in ("model.safetensors", "repair.json"):
        assert (tmp_path / "out" / name).read_bytes() == (mended[1] / name).read_bytes()
    assert not (tmp_path / "out" / "snapshots").exists()


class Tied(torch.nn.Module):
    """Two names for one weight, and batch norm's counters."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.second = torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
        self.second.weight = self.first.weight


def test_tied_weights_and_counters_are_exported_whole(tmp_path: Path) -> None:
    model = Tied()
    model.train().norm(torch.randn(8, 3))
    export_weights(model, tmp_path)
    plain = load_file(tmp_path / "model.safetensors")
    assert plain.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(plain[name], value)
        assert plain[name].dtype == value.dtype
    Tied().load_state_dict(plain)


def test_state_that_is_no_tensor_cannot_be_exported(tmp_path: Path) -> None:
    class Extra(torch.nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"version": 1}

    with pytest.raises(ConfigError, match="'_extra_state', which is no tensor"):
        export_weights(Extra(2, 2), tmp_path)


def test_a_folder_without_a_repair_and_weights_of_another_model(
    mended: tuple[RepairReport, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"holds no repair: expected repair\.json and model\.safetensors"):
        load_repaired(tmp_path, Late(WIDTHS))
    with pytest.raises(ConfigError, match="folder is Late, expected the path"):
        load_repaired(Late(WIDTHS), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="model is PosixPath, expected the module"):
        load_repaired(tmp_path, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"the model has"):
        load_repaired(mended[1], Late(WIDTHS, outputs=5))


# --- the command line -----------------------------------------------------------------------------------------


def cli(*args: str | Path, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command; its reports are of the probes that decide."""
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("COLLAPSEKIT_CACHE", str(cwd.parent / "cache"))
    with only_deciding():
        return CliRunner().invoke(app, ["repair", *map(str, args)], env={"COLUMNS": "80"}, prog_name="collapsekit")


def test_the_command_needs_no_checkpoint_and_writes_four_files(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    options = ["-m", "dropout", "--profile", "quick", "--epochs", "12", "--lr", "0.01", "-o", out]
    before = digests_in(made)
    done = cli(*options, cwd=made, monkeypatch=monkeypatch)
    assert done.exit_code == 0, done.output
    assert "ACCEPTED" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert sorted(p.name for p in out.iterdir()) == ["model.safetensors", "repair.html", "repair.json", "repair.md"]
    assert digests_in(made) == before
    whole = CliRunner().invoke(app, ["report", str(out)], env={"COLUMNS": "80"}).stdout.splitlines()
    assert whole[0] == done.stdout.splitlines()[0]
    assert len(done.stdout.splitlines()) <= 35 < len(whole)
    for form in ("json", "md", "html"):
        shown = CliRunner().invoke(app, ["report", str(out / "repair.json"), "-f", form])
        assert shown.stdout == (out / f"repair.{form}").read_text()


def test_the_command_exits_1_where_the_result_is_rejected(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [
        "-m",
        "finetune",
        "--profile",
        "quick",
        "--epochs",
        "1",
        "--lr",
        "1e-9",
        "-o",
        tmp_path / "out",
        "--json",
    ]
    done = cli(*options, cwd=made, monkeypatch=monkeypatch)
    assert done.exit_code == 1
    assert "rejected: The score of audio on val does not fall enough" in done.stderr
    assert RepairReport.from_json(done.stdout).accepted is False
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_dry_run_writes_nothing(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("--dry-run", "--profile", "quick", "-o", tmp_path / "out", cwd=made, monkeypatch=monkeypatch)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("What repairing audio is expected to gain today in accuracy: +")
    assert "To repair: audio (collapsed on val).\n" in done.stdout
    assert "weights are trained" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ctrl_c_leaves_a_snapshot_to_go_on_from(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["-m", "finetune", "--profile", "quick", "--epochs", "100000", "--patience", "100000", "-o", str(out)]
    env = {
        **os.environ,
        "COLLAPSEKIT_CACHE": str(made.parent / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }

    def listening() -> None:
        """A run in a script's background has it ignore Ctrl-C, and so would its children."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    command = [sys.executable, "-m", "collapsekit", "repair", *options]
    kept = out / "snapshots" / "finetune" / "stage0.safetensors"
    with subprocess.Popen(command, cwd=made, env=env, stderr=subprocess.PIPE, text=True, preexec_fn=listening) as run:
        until = time.monotonic() + 120
        while not kept.is_file() and run.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert f"The same command with --resume goes on from the snapshots in {out}." in said
    assert "Traceback" not in said
    assert load_file(kept)
    assert not (out / "model.safetensors").exists()


def test_completion_offers_what_is_registered() -> None:
    registry.load_builtins()
    builtin = {n for n, s in registry.REPAIRS.items() if s.stages.__module__.startswith("collapsekit.")}
    assert set(repair_names("")) == builtin
    assert repair_names("k") == ["kd"]


def test_help_does_not_import_torch() -> None:
    program = "import sys; from collapsekit.cli import app; app(['repair', '--help'], standalone_mode=False); "
    check = "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program + check], cwd=ROOT, check=True, capture_output=True, timeout=60)
