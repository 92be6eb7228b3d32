"""The one training loop. All it draws follows from the seed, the stage and the step, so that training that goes on from
a snapshot ends in the same weights as training that was never interrupted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.config.options import Training
from collapsekit.context import Progress
from collapsekit.distributed.process_group import current
from collapsekit.errors import NumericsError
from collapsekit.readouts.fit import MIN_IMPROVEMENT
from collapsekit.repairs.training.compile import backward_blamed, compiled
from collapsekit.repairs.training.data_parallel import Whole, same_buffers, share
from collapsekit.repairs.training.fsdp import lay_out
from collapsekit.repairs.training.job import CHUNK, Job, Stage, Step
from collapsekit.repairs.training.snapshots import Snapshots, optimizer_state, put_back, restore_optimizer, state_of
from collapsekit.repairs.training.steps import LossLog, TrainingState
from collapsekit.repairs.training.tensorboard import Curves
from collapsekit.report.repair import LossCurve
from collapsekit.stats.threads import threads_for

ROUND = 200  # optimiser steps between snapshots within an epoch
HALVINGS = 3
TRAINING_LOSS, HELD_OUT_LOSS = "the training loss", "the held-out loss"
MOMENTUM = 0.9  # of SGD


def train(
    stages: Iterable[Stage],
    job: Job,
    method: str,
    kept: Snapshots,
    progress: Progress,
    tensorboard: Path | None = None,
) -> list[LossCurve]:
    """Train every stage of a method in its order, going on from what was kept.

    Args:
        stages: The stages; each is trained before the next is asked for.
        job: The repair's job.
        method: The method's name, for messages.
        kept: The snapshots to go on from, and to write.
        progress: Hears how far it is.
        tensorboard: A folder for curves; None: no curves.

    Returns:
        The losses of each stage, by epoch.

    Raises:
        NumericsError: Where the loss stays infinite or NaN with the learning rate halved three times.
        ConfigError: Where the model cannot be compiled or shared out as asked, another process is gone, or the folder
            cannot be written.
    """
    curves = []
    parameters = sum(p.numel() for p in job.adapter.model.parameters())
    with preserve_rng_state(), threads_for(6.0 * job.training.batch * parameters), current().in_touch():
        for number, stage in enumerate(stages):
            shown = Curves(tensorboard if current().is_main else None, number, stage.name)
            try:
                curves.append(_StageRun(stage, number, job, method, kept, progress, shown).all())
            finally:
                shown.close()
    return curves


class _StageRun:
    """One stage in training."""

    def __init__(
        self, stage: Stage, number: int, job: Job, method: str, kept: Snapshots, progress: Progress, shown: Curves
    ) -> None:
        self.stage, self.number, self.job, self.method = stage, number, job, method
        self.kept, self.progress, self.shown, self.how = kept, progress, shown, job.training
        self.state = TrainingState()
        self.still = _untrained(stage)
        self.lay = lay_out(stage, job)
        self.optimizer = make_optimizer(self.lay.parameters, self.how)
        n = len(job.at.fit)
        self.a_step = self.how.batch * self.how.accumulate
        self.steps = math.ceil(n / self.a_step)  # an epoch
        self.epochs = _epochs_of(stage, self.how, self.steps)
        self.best = state_of(stage.module)
        self.good = self._all()
        self.log = LossLog(self.lay, job)

    def all(self) -> LossCurve:
        """Train to the end; the module is left with the weights that are kept, in eval mode."""
        found = self.lay.load(self.kept, self.number)
        if found is not None:
            self._go_on(*found)
        else:
            self.stage.module.eval()
            held = self._held()
            if not math.isfinite(held):
                raise NumericsError(
                    f"the held-out loss of {self.method} ({self.stage.name}) is {held} before any training: look for "
                    "NaN in the weights."
                )
            self.state.history.append((0, None, held))
            self.shown.start(0)
            self.shown.add(0, None, held, None)
            self._keep()
        if found is None or not found[1]["done"]:
            self._train()
            self._finish()
        self.lay.finish()
        note = f"the learning rate was halved {self.state.halved} times" if self.state.halved else None
        epochs, training, losses = zip(*self.state.history, strict=True)
        return LossCurve(
            method=self.method,
            stage=self.stage.name,
            epochs=epochs,
            training=training,
            held=losses,
            kept=self.state.best if self.stage.keep == "best" else self.state.epoch,
            note=note,
        )

    def _train(self) -> None:
        began, patience = (self.state.epoch, self.state.step), patience_of(self.stage, self.how)
        with compiled(self.job.adapter) if self.how.compile else nullcontext() as parts:
            while self.state.epoch < self.epochs and self.state.epoch - self.state.best < patience:
                self._epoch()
        if parts is not None and not parts.used and (self.state.epoch, self.state.step) != began:
            self.progress.note(f"--compile: {self.stage.name} ran no part of the model that can be compiled.")

    def _epoch(self) -> None:
        state, module = self.state, self.stage.module
        module.train()
        for still in [*self.job.frozen(), *self.still]:
            still.eval()
        if self.stage.fit is not None:
            state.total, state.seen = _fit_at_once(self.stage, self.job, self.lay)
        while self.stage.fit is None and state.step < self.steps and not self._out_of_steps():
            stop = min(state.step + ROUND, self.steps)
            if not self._round(stop):
                return  # back at the last good state
            if state.step < self.steps:
                self._keep()
        module.eval()
        held = self._held()
        if not math.isfinite(held):
            self._back(HELD_OUT_LOSS)
            return
        state.epoch += 1
        training = state.total / max(state.seen, 1)
        state.history.append((state.epoch, training, held))
        self.shown.add(state.epoch, training, held, self.optimizer.param_groups[0]["lr"])
        state.step, state.total, state.seen = 0, 0.0, 0
        whole = state.epoch % self.stage.cycle == 0  # in the middle of its turns a model is not what it is to become
        if whole and held < state.best_loss - MIN_IMPROVEMENT:
            state.best, self.best = state.epoch, state_of(module)
        self.progress.step(f"{self.method}: {self.stage.name}", state.epoch, self.epochs, f"held-out loss {held:.4g}")
        self._keep()

    def _out_of_steps(self) -> bool:
        return self.how.steps is not None and self.state.epoch * self.steps + self.state.step >= self.how.steps

    def _round(self, stop: int) -> bool:
        """Optimiser steps up to number ``stop`` of the epoch; False where a loss was not finite."""
        try:
            sound = self._steps(stop)
        except Exception:
            if self.log.look(self.state):  # else it may be due to numbers that were not finite any more
                raise
            sound = False
        if not (sound and self.log.look(self.state)):
            self._back(TRAINING_LOSS)
            return False
        return True

    def _steps(self, stop: int) -> bool:
        state = self.state
        order = torch.randperm(len(self.job.at.fit), generator=_generator(self.job.seed, self.number, state.epoch))
        while state.step < stop and not self._out_of_steps():
            rank = current().rank
            seed_everything(_seed(self.job.seed, self.number, state.epoch, state.step, *([rank] if rank else [])))
            rows = self.job.at.fit[order[state.step * self.a_step : (state.step + 1) * self.a_step]]
            if not self._step(rows):
                return False
            state.step += 1
        return True

    def _step(self, rows: Tensor) -> bool:
        world, failed = current(), False
        losses, counts = list[Tensor](), list[float]()  # of each part, and how many examples it counts for
        parts = [part for part in rows.split(self.how.batch) if len(part) > 1]  # batch norm cannot take one example
        self.optimizer.zero_grad()
        for part in parts:
            mine, weight = share(part, world)
            with torch.autocast(self.job.adapter.device.type, torch.bfloat16, enabled=self.how.amp):
                loss = self.lay.loss(Step(mine, self.state.epoch + 1))
            if not self.log.later and self.lay.anywhere(not bool(torch.isfinite(loss))):
                failed = True
                break
            with backward_blamed() if self.how.compile else nullcontext():
                self.lay.backward(loss * (weight * len(part) / len(rows)))
            losses.append(loss.detach())
            counts.append(weight * len(part))
        if not self.log.take(self.state, failed, losses, counts):
            return False
        rate = rate_at(self.how, self.state.epoch + self.state.step / self.steps, self.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = float(rate / 2**self.state.halved)
        self.optimizer.step()
        same_buffers(self.stage.module, world)
        return True

    def _held(self) -> float:
        seed_everything(_seed(self.job.seed, self.number, -1, 0))  # a model random in eval mode answers alike
        held = self.lay.held()
        current().assert_same(held, "held-out losses")
        return held

    def _all(self) -> tuple[dict[str, Tensor], dict[str, Tensor], TrainingState]:
        return state_of(self.stage.module), optimizer_state(self.optimizer), self.state.copy()

    def _keep(self) -> None:
        self.good = self._all()
        self._save(done=False)

    def _save(self, *, done: bool) -> None:
        weights, moments, state = self.good
        tensors = {f"now/{k}": v for k, v in weights.items()}
        if not done:
            tensors |= {f"best/{k}": v for k, v in self.best.items()} | {
                f"optimizer/{k}": v for k, v in moments.items()
            }
        self.lay.save(self.kept, self.number, tensors, {**vars(state), "done": done, "stage": self.stage.name})

    def _go_on(self, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> None:
        parts = _parted(tensors)
        put_back(self.stage.module, parts["now"])
        self.state = TrainingState(**{k: v for k, v in about.items() if k not in ("done", "stage")})
        self.state.history = [(e, t, h) for e, t, h in self.state.history]
        if not about["done"]:
            self.best = parts["best"]
            restore_optimizer(self.optimizer, parts["optimizer"])
            self.good = self._all()
            self.shown.start(self.state.epoch + 1)

    def _back(self, what: str) -> None:
        """To the last good state, with half the learning rate. Within an epoch that may be beyond help already: where it
        was, to the best epoch's weights, whose held-out loss is known to be finite."""
        weights, moments, state = self.good
        halved, step = self.state.halved + 1, self.state.step + 1
        if halved > 1 and state.step:
            weights, moments, state = self.best, {}, self.state.at_best()
        if halved > HALVINGS:
            where = f"epoch {state.epoch + 1}" + (f", step {step}," if what == TRAINING_LOSS else "")
            raise _diverged(f"{self.method} ({self.stage.name})", f"{what} was infinite or NaN in {where}", self.how)
        put_back(self.stage.module, weights)
        restore_optimizer(self.optimizer, moments)
        self.state = state.copy(halved=halved)
        self.progress.note(f"{what.capitalize()} was not finite: back to epoch {state.epoch}, learning rate halved.")
        self.shown.start(state.epoch + 1)
        self._keep()

    def _finish(self) -> None:
        """Leave the weights that are kept, and say that the stage is done."""
        if self.stage.keep == "best":
            put_back(self.stage.module, self.best)
        self.good = self._all()
        self._save(done=True)


def _diverged(what: str, how: str, settings: Training) -> NumericsError:
    return NumericsError(
        f"training {what} diverged: {how} with the learning rate halved {HALVINGS} times, down to "
        f"{settings.rate / 2**HALVINGS:g}; lower --lr, or look for extreme inputs."
    )


def _epochs_of(stage: Stage, how: Training, steps: int) -> int:
    """At most how many epochs, of so many steps, a stage takes."""
    if stage.fit is not None:
        return 1
    most = how.epochs * stage.longer
    return most if how.steps is None else min(most, math.ceil(how.steps / steps))


def _parted(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors of a snapshot by the part that they are of, and their names in it."""
    parts: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "optimizer": {}}
    for key, value in tensors.items():
        part, _, name = key.partition("/")
        parts[part][name] = value
    return parts


def _fit_at_once(stage: Stage, job: Job, lay: Whole) -> tuple[float, int]:
    """Set what is fitted, in the place of an epoch; the sum of the training losses then, and of how many examples."""
    assert stage.fit is not None
    stage.module.eval()
    stage.fit()
    with torch.no_grad():
        total = sum(float(lay.loss(Step(rows, 1))) * len(rows) for rows in job.at.fit.split(CHUNK))
    return total, len(job.at.fit)


def patience_of(stage: Stage, how: Training) -> float:
    """Return after how many epochs without improvement the stage ends."""
    if stage.keep == "last":
        return math.inf
    return how.patience if stage.cycle == 1 else max(how.patience, 2 * stage.cycle)


def _untrained(stage: Stage) -> list[nn.Module]:
    """Parts whose weights a stage leaves alone: they answer as they did, batch norm and dropout included."""
    trained = {id(p) for p in stage.parameters}
    known = [(part, [id(p) for p in part.parameters()]) for part in stage.module.modules()]
    return [part for part, own in known if own and trained.isdisjoint(own)]


def make_optimizer(parameters: list[nn.Parameter], how: Training) -> torch.optim.Optimizer:
    """AdamW, or stochastic gradient descent with a momentum of 0.9."""
    # torch's kernels for lists take no shares among others.
    each = False if len({type(p) for p in parameters}) > 1 else None
    groups = [{"params": parameters}]  # of what is fitted at once there are none
    if how.optimizer == "sgd":
        return torch.optim.SGD(groups, how.rate, MOMENTUM, weight_decay=how.weight_decay, foreach=each)
    return torch.optim.AdamW(groups, how.rate, weight_decay=how.weight_decay, foreach=each)


def rate_at(how: Training, epoch: float, epochs: int) -> float:
    """Compute the learning rate at a point of the training.

    ``cosine``: half a cosine down to 0 (Loshchilov & Hutter 2017, eq. 5, one cycle); ``paper``: x 0.9 every 100 epochs
    (Chaudhuri et al. 2025, Appendix C.1).

    Args:
        how: The settings of training, with the first rate and the schedule.
        epoch: Epochs that are done, with fractions.
        epochs: How many there are in all.

    Returns:
        The rate.
    """
    if how.schedule == "cosine":
        return how.rate * (1 + math.cos(math.pi * min(epoch / epochs, 1.0))) / 2
    return how.rate * 0.9 ** (int(epoch) // 100) if how.schedule == "paper" else how.rate


def _seed(*parts: int) -> int:
    """A seed of its own for each place in training."""
    mixed = 0
    for part in parts:
        mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) % (1 << 63)
    return mixed


def _generator(*parts: int) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(*parts))
