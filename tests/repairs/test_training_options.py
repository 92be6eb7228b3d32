"""Optimisers, cycles of epochs, compilation and TensorBoard: each beside training without it, or written out by hand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from collapsekit.cli import app
from collapsekit.config.options import RepairOptions, Training
from collapsekit.context import Progress
from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.repairs import chain
from collapsekit.repairs.export import export_weights
from collapsekit.repairs.request import check_method_options, make_request
from collapsekit.repairs.training import compile as compiling
from collapsekit.repairs.training import loop
from collapsekit.repairs.training.job import Job, Step
from collapsekit.repairs.training.snapshots import optimizer_state, restore_optimizer
from collapsekit.repairs.training.tensorboard import Curves
from collapsekit.report.repair import LossCurve
from tests.repairs.making import by_hand, differing, kept_in, make_job, make_model, plain_loss, plain_stage, run, state

ROOT = Path(__file__).parents[2]
SGD = {"optimizer": "sgd", "rate": 0.1}


def one_sentence(text: str) -> bool:
    return text.endswith(".") and "\n" not in text and not re.search(r"[.!?] [A-Z]", text)


class Told(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


# ---- optimisers


def by_hand_sgd(job: Job, *given: Any) -> tuple[dict[str, Tensor], list[float], list[float]]:
    """``by_hand`` with SGD in the place of AdamW."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.optim, "AdamW", lambda p, lr, weight_decay: torch.optim.SGD(p, lr, 0.9, weight_decay=weight_decay)
        )
        return by_hand(job, *given)


@pytest.mark.parametrize("how", [{"weight_decay": 0.1}, {"accumulate": 2, "batch": 8, "clip": None}], ids=str)
def test_sgd_is_that_of_torch_bit_for_bit(tmp_path: Path, how: dict[str, Any]) -> None:
    job = make_job(make_model(lively=True), **SGD, **how)
    expected, trained, losses = by_hand_sgd(job)
    (curve,) = run(job, tmp_path)
    assert differing(state(job), expected) == set()
    assert curve.held == pytest.approx(losses, abs=1e-9)
    assert curve.training[1:] == pytest.approx(trained, rel=1e-6)


def interrupting(job: Job, at: int) -> Callable[[Step], Tensor]:
    """The task's loss, interrupted on its call number ``at``."""
    good, calls = plain_loss(job), iter(range(1, 10**6))

    def loss(step: Step) -> Tensor:
        if next(calls) == at:
            raise KeyboardInterrupt
        return good(step)

    return loss


def test_sgd_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted before the first step, within an epoch and at its end; snapshots are taken at each step."""
    monkeypatch.setattr(loop, "ROUND", 1)
    whole = make_job(make_model(lively=True), **SGD, epochs=2)
    curves = run(whole, tmp_path / "whole")
    for at in (1, 3, 5):
        job = make_job(make_model(lively=True), **SGD, epochs=2)
        with pytest.raises(KeyboardInterrupt):
            run(job, tmp_path / str(at), [plain_stage(job, name="fine-tuning", loss=interrupting(job, at))])
        again = make_job(make_model(lively=True, seed=1), **SGD, epochs=2)
        assert run(again, tmp_path / str(at)) == curves
        assert differing(state(again), state(whole)) == set()


@pytest.mark.parametrize("at", [1, 5])
def test_sgd_goes_back_where_a_loss_is_not_finite(tmp_path: Path, at: int) -> None:
    """To no momentum in the first epoch, to that of its end in the second."""
    job, calls = make_job(make_model(lively=True), **SGD), iter(range(1, 10**6))
    epoch = (at - 1) // 3
    expected, _, _ = by_hand_sgd(job, lambda now, _: int(now >= epoch))
    good = plain_loss(job)
    run(job, tmp_path, [plain_stage(job, loss=lambda step: good(step) * (torch.nan if next(calls) == at else 1.0))])
    assert differing(state(job), expected) == set()


def test_momentum_that_is_not_there_yet() -> None:
    """A weight that no gradient reached, and one whose momentum torch holds as None, begin as if never restored."""

    def trained(interrupted: bool) -> list[Tensor]:
        weights = [nn.Parameter(torch.full((2,), float(i + 1))) for i in range(3)]
        optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
        weights[0].square().sum().backward()
        optimizer.step()
        optimizer.state[weights[2]]["momentum_buffer"] = None
        if interrupted:
            kept = optimizer_state(optimizer)
            assert set(kept) == {"0.momentum_buffer"}
            optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
            restore_optimizer(optimizer, kept)
        for _ in range(2):
            optimizer.zero_grad()
            sum(w.pow(3).sum() for w in weights).backward()  # type: ignore[union-attr]
            optimizer.step()
        return [w.detach() for w in weights]

    assert all(map(torch.equal, trained(False), trained(True)))


# ---- epochs that belong together


@pytest.mark.parametrize(
    ("patience", "cycle", "last", "kept"),
    [(3, 1, 5, 2), (1, 2, 6, 2), (5, 2, 7, 2), (3, 4, 12, 4), (3, 5, 15, 5)],
)
def test_patience_counts_two_cycles_at_least(tmp_path: Path, patience: int, cycle: int, last: int, kept: int) -> None:
    job = make_job(patience=patience, epochs=20)
    values = iter([1.0, 0.9, 0.8, *[0.85] * 18])
    (curve,) = run(job, tmp_path, [plain_stage(job, held=lambda: next(values), cycle=cycle)])
    assert (curve.kept, curve.epochs[-1]) == (kept, last)


def test_the_last_epoch_ends_cycles_too(tmp_path: Path) -> None:
    """Where the last epoch is kept, nothing ends training before it."""
    job = make_job(patience=1, epochs=6)
    values = iter([1.0] * 7)
    (curve,) = run(job, tmp_path, [plain_stage(job, held=lambda: next(values), cycle=2, keep="last")])
    assert curve.kept == 6


# ---- compilation


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What torch traces, run without C++: torch's own compiler, which takes many seconds, has a slow test."""
    made: list[Any] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling, "HOW", {"backend": backend})
    yield made
    torch.compiler.reset()


THREE = {f"m{i}": i + 3 for i in range(3)}


def varied(job: Job) -> Callable[[Step], Tensor]:
    """A loss that reads features, and changes them by another factor in each step: hooks that were compiled into the
    model, or left out of it, would give another."""
    calls = iter(range(10**6))

    def loss(step: Step) -> Tensor:
        factor = 1.0 + 0.1 * next(calls)
        live = job.run(step, {m: lambda features: features * factor for m in job.adapter.modalities})
        return job.task_loss(live.outputs, step) + factor * sum(p.square().mean() for p in live.pooled.values())

    return loss


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners and rights as POSIX has them")
def test_compiled_code_is_kept_where_nobody_else_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own choice, /tmp/torchinductor_NAME, can be made by anybody before the user first compiles."""
    monkeypatch.setenv("COLLAPSEKIT_CACHE", str(tmp_path / "cache"))
    model = SimpleNamespace(model=nn.Identity())
    for rights, own in ((0o700, True), (0o777, False)):
        if not own:
            (tmp_path / "cache").chmod(rights)
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # put back afterwards, whatever is set in between
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
        with compiling.compiled(model):  # type: ignore[arg-type]
            folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        assert (folder == tmp_path / "cache" / "compiled") == own
        assert (folder.parent if own else folder).stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    with compiling.compiled(model):  # type: ignore[arg-type]
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"


def test_compiled_training_is_the_same_training(tmp_path: Path, graphs: list[Any]) -> None:
    """Batches of two sizes and three encoders of different widths: more code than torch compiles of one function. The
    held-out losses are those of the model as it is exported: nothing is compiled for the third size, of their batch."""
    found = []
    for compile_ in (False, True):
        job = make_job(make_model(THREE, lively=True), widths=THREE, weak=("m0",), epochs=1, compile=compile_)
        names = list(job.adapter.model.state_dict())
        stages, told = [plain_stage(job, loss=varied(job))], Told()
        (curve,) = loop.train(stages, job, "finetune", kept_in(tmp_path / str(compile_)), told)
        assert told.notes == []
        assert list(job.adapter.model.state_dict()) == names
        assert not any("forward" in vars(part) for part in job.adapter.model.modules())
        written = load_file(export_weights(job.adapter.model, tmp_path / f"{compile_}-out"))
        found.append((curve, state(job), written))
        assert len(graphs) == (2 * 5 if compile_ else 0)  # three encoders, fusion and head, for two sizes
    (plain, weights, written), (fast, same, also) = found
    assert fast.held == pytest.approx(plain.held, rel=1e-5)
    assert fast.training[1:] == pytest.approx(plain.training[1:], rel=1e-5)
    for ours, theirs in ((same, weights), (also, written)):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)


def test_a_forward_of_its_own_comes_back() -> None:
    job = make_job(compile=True)
    head = job.adapter.model.head
    own = head.__dict__["forward"] = head.forward
    with compiling.compiled(job.adapter):
        assert head.__dict__["forward"] is not own
    assert head.__dict__["forward"] is own
    assert "forward" not in vars(job.adapter.model.fusion)


def broken(_graph: Any, _inputs: Any) -> Any:
    raise RuntimeError("no compiler\nSet TORCH_LOGS to see more")


class Unlearnable(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, *_grads: Tensor) -> Tensor:
        raise RuntimeError("no compiler")


def broken_backward(graph: Any, _inputs: Any) -> Any:
    return lambda *given: tuple(Unlearnable.apply(out) for out in graph(*given))


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        (broken, r"^--compile: torch could not compile encoders\.image \(.*no compiler\): leave out --compile\.$"),
        (
            broken_backward,
            r"^the backward pass of the compiled model failed \(RuntimeError: no compiler \(\S+:\d+\)\): leave out",
        ),
    ],
)
def test_what_cannot_be_compiled_is_said_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graphs: list[Any], backend: Any, said: str
) -> None:
    monkeypatch.setattr(compiling, "HOW", {"backend": backend})
    job = make_job(make_model(lively=True), compile=True)  # encoders of several submodules: the outermost is named
    with pytest.raises(ConfigError, match=said) as caught:
        run(job, tmp_path)
    assert one_sentence(str(caught.value)), caught.value
    assert not any("forward" in vars(part) for part in job.adapter.model.modules())


def test_a_fault_of_the_models_own_is_not_blamed_on_compiling(tmp_path: Path, graphs: list[Any]) -> None:
    class Faulty(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                raise ValueError("too hot")
            return super().forward(x)

    model = make_model()
    model.head = Faulty(12, 3)
    with pytest.raises(CollapsekitError, match=r"forward failed.*ValueError: too hot") as caught:
        run(make_job(model, compile=True), tmp_path)
    assert "--compile" not in str(caught.value)


def test_training_that_ran_nothing_compiled_says_so(tmp_path: Path, graphs: list[Any]) -> None:
    job, told = make_job(epochs=1, compile=True), Told()
    weights = plain_stage(job, loss=lambda _: sum(p.square().sum() for p in job.trainable()))
    loop.train([weights], job, "finetune", kept_in(tmp_path), told)
    assert told.notes == ["--compile: plain ran no part of the model that can be compiled."]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's compiler needs a C++ compiler")
def test_torchs_own_compiler(tmp_path: Path) -> None:
    """Dropout and batch norm included: random numbers are those of training that is not compiled."""
    found = []
    for compile_ in (False, True):
        job = make_job(make_model(lively=True), **SGD, compile=compile_)
        (curve,) = run(job, tmp_path / str(compile_))
        found.append((curve, state(job)))
    assert found[1][0].held == pytest.approx(found[0][0].held, rel=1e-5)
    for name, value in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compile_without_a_compiler_is_refused_in_one_sentence(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.repairs.making import make_job, run\n"
        "from collapsekit.errors import ConfigError\n"
        "try: run(make_job(compile=True), Path(sys.argv[1]))\n"
        "except ConfigError as e: print(e)\n"
    )
    where = {"PATH": "/usr/bin", "PYTHONPATH": str(ROOT), "CXX": "/none/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=where, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert re.match(r"--compile: torch could not compile .*No working C\+\+ compiler", done.stdout), done
    assert one_sentence(done.stdout.strip())


# ---- TensorBoard

Shown = dict[str, list[tuple[int, float]]]


class Board:
    """Stands in for torch.utils.tensorboard: what its writers are given, and what of it TensorBoard would show."""

    def __init__(self) -> None:
        self.events: dict[str, list[tuple[str, int, float]]] = {}
        self.open = 0

    def writer(self, folder: str, purge_step: int) -> SimpleNamespace:
        Path(folder).mkdir(parents=True, exist_ok=True)
        held = self.events.setdefault(folder, [])
        held.append(("purge", purge_step, 0.0))
        waiting: list[tuple[str, int, float]] = []
        self.open += 1

        def flush() -> None:
            held.extend(waiting)
            waiting.clear()

        def close() -> None:
            flush()
            self.open -= 1

        return SimpleNamespace(
            add_scalar=lambda tag, value, step: waiting.append((tag, step, value)), flush=flush, close=close
        )

    def shown(self, folder: Path) -> Shown:
        found: Shown = {}
        for tag, step, value in self.events[str(folder)]:
            if tag == "purge":
                found = {k: [e for e in entries if e[0] < step] for k, entries in found.items()}
            else:
                found.setdefault(tag, []).append((step, value))
        return found


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    made, module = Board(), ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = made.writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return made


def of(curve: LossCurve, rates: list[float]) -> Shown:
    """What a curve looks like."""
    return {
        "loss/training": [(e, t) for e, t in zip(curve.epochs, curve.training, strict=True) if t is not None],
        "loss/held_out": list(zip(curve.epochs, curve.held, strict=True)),
        "learning_rate": list(enumerate(rates, 1)),
    }


def watched(job: Job, folder: Path, board: Path | None, **stage: Any) -> list[LossCurve]:
    return loop.train([plain_stage(job, **stage)], job, "finetune", kept_in(folder), Progress(), board)


def last_rates(job: Job, epochs: int = 4) -> list[float]:
    """Those of the last of three steps of each epoch."""
    return [loop.rate_at(job.training, epoch + 2 / 3, epochs) for epoch in range(epochs)]


def test_tensorboard_is_given_the_loss_curve(tmp_path: Path, board: Board) -> None:
    job, folder, counts = make_job(), tmp_path / "board" / "0-a-..-stage-of", list[int]()

    def held() -> float:
        counts.append(len(board.shown(folder)["loss/held_out"]) if board.events else 0)
        return job.held_loss()

    (curve,) = watched(job, tmp_path, tmp_path / "board", name="a/../stage of β", held=held)
    assert list((tmp_path / "board").iterdir()) == [folder]
    assert counts == [0, 1, 2, 3, 4]  # each epoch is in the file as soon as it is over
    assert board.shown(folder) == of(curve, last_rates(job))
    assert board.open == 0


def test_without_tensorboard_nothing_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    watched(make_job(epochs=1), tmp_path, None)


@pytest.mark.parametrize(("where", "at"), [("_round", 5), ("_keep", 1), ("_keep", 5)])
def test_going_on_shows_each_epoch_once(
    tmp_path: Path, board: Board, monkeypatch: pytest.MonkeyPatch, where: str, at: int
) -> None:
    """Interrupted within an epoch; and where it was shown, but its snapshot was not written any more."""
    monkeypatch.setattr(loop, "ROUND", 2)
    (curve,) = watched(make_job(epochs=3), tmp_path / "whole", None)
    job, real, calls = make_job(epochs=3), getattr(loop._StageRun, where), iter(range(1, 10**6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._StageRun, where, lambda *given: _interrupt() if next(calls) == at else real(*given))
        with pytest.raises(KeyboardInterrupt):
            watched(job, tmp_path / "parts", tmp_path / "board")
    assert board.open == 0
    folder = tmp_path / "board" / "0-plain"
    for _ in range(2):  # the second time it is done, and nothing more is written
        assert watched(make_job(epochs=3), tmp_path / "parts", tmp_path / "board") == [curve]
        assert board.shown(folder) == of(curve, last_rates(job, 3))
        written = board.events[str(folder)]
        assert sum(tag == "purge" for tag, _, _ in written) == 2


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_epochs_that_are_taken_back_are_not_shown(
    tmp_path: Path, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the best epoch, 1, from the third; and another repair into the same folder begins anew."""
    monkeypatch.setattr(loop, "ROUND", 1)
    job, calls = make_job(), iter(range(1, 10**6))
    held = iter([1.0, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6])
    good = plain_loss(job)
    (curve,) = watched(
        job,
        tmp_path,
        tmp_path / "board",
        held=lambda: next(held),
        loss=lambda step: good(step) * (torch.nan if next(calls) in (8, 9) else 1.0),
    )
    folder = tmp_path / "board" / "0-plain"
    assert board.shown(folder)["loss/held_out"] == list(zip(curve.epochs, curve.held, strict=True))
    assert [step for step, _ in board.shown(folder)["learning_rate"]] == [1, 2, 3, 4]
    assert ("purge", 2, 0.0) in board.events[str(folder)]
    assert board.open == 0
    (other,) = watched(make_job(epochs=1), tmp_path / "other", tmp_path / "board")
    assert board.shown(folder)["loss/held_out"] == list(zip(other.epochs, other.held, strict=True))


def test_each_run_of_a_repair_has_its_folder(tmp_path: Path, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain's method and the control of the same name are told apart as their snapshots are."""
    job = make_job(epochs=1)
    how = RepairOptions.make(training=job.training, tensorboard=tmp_path / "board")
    asked: Any = SimpleNamespace(options=how, progress=Progress())
    before: Any = SimpleNamespace(subject=SimpleNamespace(sha256="0"))
    methods, every = ("finetune", "dropout"), check_method_options({})
    chain.MethodChain(asked, job, "digest", methods, every, before, tmp_path / "out").train()
    found = sorted(str(p.relative_to(tmp_path / "board")) for p in (tmp_path / "board").glob("*/*"))
    assert found == ["finetune-dropout/0-modality-dropout", "finetune-dropout/1-finishing", "finetune/0-fine-tuning"]


CONFIG: dict[str, Any] = {
    "modalities": {"image": "encoders.image", "audio": "encoders.audio"},
    "fusion": "fusion",
    "data": {"path": "unused.npz"},
}


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = RepairOptions.make(tensorboard=tmp_path)
    assert make_request(None, CONFIG, RepairOptions()).options.tensorboard is None
    assert make_request(None, CONFIG, wanted).options.tensorboard == tmp_path
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"--tensorboard.*pip install 'collapsekit\[tensorboard\]'\.$") as caught:
        make_request(None, CONFIG, wanted)
    assert one_sentence(str(caught.value))


def test_a_folder_that_cannot_be_written(tmp_path: Path, board: Board) -> None:
    (tmp_path / "board").write_text("a file")
    with pytest.raises(
        ConfigError, match=r"board.0-plain cannot be written .*: name another folder with --tensorboard"
    ):
        watched(make_job(epochs=1), tmp_path, tmp_path / "board")


def test_the_package_itself(tmp_path: Path) -> None:
    """What TensorBoard reads of what was written, purged epochs included."""
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = Curves(tmp_path, 2, "a stage")
    for start, end, scale in ((0, 4, 1.0), (2, 3, 10.0)):
        curves.start(start)
        for epoch in range(start, end):
            curves.add(epoch, scale * epoch if epoch else None, 0.5 * scale * epoch, None)
    curves.close()
    read = EventAccumulator(str(tmp_path / "2-a-stage"))
    read.Reload()
    shown = {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    assert shown == {"loss/training": [(1, 1.0), (2, 20.0)], "loss/held_out": [(0, 0.0), (1, 0.5), (2, 10.0)]}
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        Curves(tmp_path / "file", 0, "x").start(0)


# ---- the command line


def test_options_reach_the_repair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    def repair(_checkpoint: Any, **how: Any) -> None:
        given.append(how)
        raise ConfigError("stop.")

    monkeypatch.setattr("collapsekit.repairs.run.repair", repair)
    for options in ([], ["--optimizer", "sgd", "--compile", "--fsdp", "--tensorboard", str(tmp_path)]):
        assert CliRunner().invoke(app, ["repair", *options]).exit_code == 2
    assert (given[0]["training"], given[0]["tensorboard"]) == (Training(), None)
    assert given[1]["training"] == Training(optimizer="sgd", compile=True, fsdp=True)
    assert given[1]["tensorboard"] == tmp_path
    assert CliRunner().invoke(app, ["repair", "--optimizer", "adam"]).exit_code == 2
    assert len(given) == 2
