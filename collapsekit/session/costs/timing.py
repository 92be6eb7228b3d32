"""What one batch of each kind takes on this machine: seconds, and the most memory at a time."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from collapsekit.adapters.base import Adapter
from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.errors import CollapsekitError, NumericsError
from collapsekit.features.batching import CHUNK, chunk_of, shared_rows
from collapsekit.features.features import Features
from collapsekit.games.draws import MeanOverDraws, score, score_draws
from collapsekit.interventions.edits import Edit, Piece, gather_edits
from collapsekit.interventions.gradients import differentiable, outputs_of
from collapsekit.readouts.choosing import ROUGH
from collapsekit.readouts.fit import BATCH, rows_of
from collapsekit.readouts.linear import L2_GRID
from collapsekit.readouts.synergy import RATES, SynergyNet, recipe_for
from collapsekit.session.session import Session
from collapsekit.stats.linear import fitted_roughly
from collapsekit.stats.solvers.adamw import LightAdamW
from collapsekit.stats.threads import threads_for

REPEATS, SHORT = 5, 0.1  # times that a call is made, and seconds from which on once is enough
TRIED, LARGEST = 256, 1 << 22  # examples and numbers of a linear readout that is tried, at most
FEW, LEAST = 3, 16  # of the penalties, the largest, with which it is tried; and examples, at least
BOTH = 2  # kinds of what the model expects, as it is and calibrated, that are averaged of an answer
Clock = Callable[[], float]


def evaluation(rows: float, width: float, outputs: int) -> float:
    """Reckon the seconds of one evaluation of a linear readout's loss and gradient, on a machine as ours.

    Only the ratio of two of these counts: fits are timed on few examples, and reckoned for all by it.

    Args:
        rows: examples that are fitted on.
        width: features.
        outputs: of the readout; of very many those beside 1,024 are left out.

    Returns:
        Seconds.
    """
    return 1.2e-4 + rows * width * (1.5e-9 + 3e-10 * min(1024, max(1, outputs)))


@dataclass
class UnitCosts:
    """Seconds of one unit of each kind that was timed, by the names of Cost's numbers, of a score of an example, and of
    linear readouts, whose unit is the largest penalties' fits over ``evaluation``; and the peak of memory in bytes."""

    seconds: dict[str, float] = field(default_factory=dict)
    peak: int = 0


def time_units(session: Session, wanted: Collection[str], clock: Clock) -> UnitCosts:
    """Time one batch of each kind, after one that is not timed and whose memory is watched.

    Args:
        session: the model on a few examples.
        wanted: the kinds, by the names of Cost's numbers.
        clock: what time it is, in seconds.

    Returns:
        Seconds of one unit, which is an example or a step; a kind that this model does not have is not there.
    """
    return _Timer(session.adapter, session.features, clock).all(wanted)


@dataclass
class _Timer:
    """Batches of a few examples, each run twice."""

    adapter: Adapter
    features: Features
    clock: Clock
    units: UnitCosts = field(default_factory=UnitCosts)

    def all(self, wanted: Collection[str]) -> UnitCosts:
        with preserve_rng_state():
            self._passes()
            if "replays" in wanted:
                self._replays()
                self._scores()
            if "heads" in wanted:
                self._readouts()
            if "gradients" in wanted:
                self._gradients()
            if "encodings" in wanted or "encoder_steps" in wanted:
                self._encoders()
            if "steps" in wanted:
                self._steps()
        return self.units

    def timed(self, call: Callable[[], Any]) -> float:
        """Seconds of a call, after one whose memory is watched: the least of some where it is short, as others use the
        machine too."""
        self.units.peak = max(self.units.peak, peak_bytes(self.adapter.device, call))
        taken: list[float] = []
        while len(taken) < REPEATS and sum(taken) < SHORT:
            seed_everything(0)
            self._wait()
            began = self.clock()
            call()
            self._wait()
            taken.append(self.clock() - began)
        return min(taken)

    def _wait(self) -> None:
        if self.adapter.device.type == "cuda":
            torch.cuda.synchronize(self.adapter.device)

    def _rows(self, count: int) -> Tensor:
        """Numbers of so many examples, int64 (count,), some several times where there are fewer."""
        return torch.arange(count) % len(self.features)

    def _passes(self) -> None:
        rows = min(self.adapter.config.data.batch_size, len(self.features))
        batch = {k: v[:rows] for k, v in self.features.inputs.items()}
        weights = sum(p.numel() for p in self.adapter.model.parameters())
        with torch.no_grad(), threads_for(2.0 * rows * weights):
            self.units.seconds["passes"] = self.timed(lambda: self.adapter.run(batch)) / rows

    def _replays(self) -> None:
        alike = self.features.facts.answers_by_row
        size = shared_rows(self.features) if alike else chunk_of(self.features)
        index = self._rows(size)

        task, mean = self.adapter.task, self._mean(size)

        def replay() -> None:
            recorded, inputs = gather_edits(self.adapter, self.features, index, [Piece(Edit(), 0, size)])
            answers = self.adapter.rerun(recorded, inputs)
            for _ in range(BOTH):
                mean.add(0, task.expect(answers.on_cpu().outputs))

        with torch.no_grad(), threads_for(2.0 * size * sum(p.numel() for p in self.adapter.fusion_parameters())):
            self.units.seconds["replays"] = self.timed(replay) / size

    def _mean(self, size: int) -> MeanOverDraws:
        """A mean over draws of so many examples, to which nothing is added yet."""
        some = self.features.taken(self._rows(size))
        return MeanOverDraws(some, [torch.arange(size).roll(k) for k in (1, -1)])

    def _scores(self) -> None:
        """A score of what is expected, and one of a mean over draws, which is also known without each group of draws."""
        some, mean, task = self.features.taken(self._rows(CHUNK)), self._mean(CHUNK), self.adapter.task
        expected = task.expect(some.outputs)
        for k in range(len(mean.donors)):
            mean.add(k, expected)
        with suppress(NumericsError), threads_for(expected.numel()):  # what cannot be scored, as labels are all alike
            self.units.seconds["scores"] = self.timed(lambda: score(task, some, expected)) / CHUNK
            self.units.seconds["draw_scores"] = self.timed(lambda: score_draws(task, some, mean)) / CHUNK

    def _readouts(self) -> None:
        """How many evaluations a linear readout takes hangs on the examples: it is tried on a few."""
        task, outputs = self.adapter.task, self.features.outputs[0].numel()
        spent = reckoned = 0.0
        for pooled in self.features.pooled.values():
            width = pooled.shape[1]
            count = min(len(self.features), TRIED, LARGEST // (width * outputs))
            if count < LEAST:
                continue
            x, targets = pooled[:count].double(), self.features.targets[:count]

            def fit(x: Tensor = x, targets: Tensor = targets) -> None:
                for l2 in L2_GRID[:FEW]:
                    task.fit_linear(x, targets, outputs, l2)

            with suppress(CollapsekitError, RuntimeError, ValueError, IndexError), fitted_roughly(ROUGH):
                spent += self.timed(fit)  # a task that has no readout, or labels all alike, is not tried
                reckoned += evaluation(count, width, outputs)
        if reckoned:
            self.units.seconds["readouts"] = spent / reckoned

    def _gradients(self) -> None:
        rows = self._rows(min(CHUNK, chunk_of(self.features)))
        with differentiable(self.adapter):
            weights = [p for p in self.adapter.fusion_parameters() if p.requires_grad]
            out = outputs_of(self.adapter, self.features, rows)
            if weights and out.requires_grad:
                self.units.seconds["gradients"] = self._back(out, weights) / len(rows)

    def _encoders(self) -> None:
        rows = self._rows(min(BATCH, len(self.features)))
        weights = [p for p in self.adapter.model.parameters() if p.requires_grad]
        given, forwards, backwards = rows_of(self.features, rows), [], []
        with torch.enable_grad():
            for m in self.features.modalities:
                forwards.append(self.timed(partial(self.adapter.live, m, *given)) / len(rows))
                out = self.adapter.live(m, *given)
                if weights and out.requires_grad:
                    backwards.append(self._back(out, weights))
        self.units.seconds["encodings"] = sum(forwards) / len(forwards)
        if backwards:
            self.units.seconds["encoder_steps"] = sum(backwards) / len(backwards)

    def _back(self, out: Tensor, weights: list[nn.Parameter]) -> float:
        """Seconds of a pass back from an answer (n, ...)."""
        loss = out.float().square().sum()
        return self.timed(lambda: torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True))

    def _steps(self) -> None:
        """A step of the network over all modalities: most of what is trained on features. What it takes grows with the
        modalities and their pairs more than with widths, as each is a few small operations."""
        x = [torch.zeros(BATCH, pooled.shape[1]) for pooled in self.features.pooled.values()]
        rows, own = self._rows(BATCH), torch.arange(BATCH)
        before = self.adapter.task.expect(self.features.outputs.index_select(0, rows)).reshape(BATCH, -1).float()
        targets = self.features.targets.index_select(0, rows)
        net = SynergyNet([values.shape[1] for values in x], before.shape[1])
        parameters = list(net.parameters())
        recipe = recipe_for(BATCH, RATES[0], seed=0)
        optimizer = LightAdamW(parameters, rate=recipe.rate, weight_decay=recipe.weight_decay)

        def loss(out: Tensor) -> Tensor:
            try:
                return self.adapter.task.training_loss(out, targets)
            except (
                RuntimeError,
                ValueError,
                IndexError,
            ):  # a task whose answers are no rows of numbers fits no such network
                return out.square().mean()

        def step() -> None:
            out = before + net(*(values.index_select(0, own) for values in x))
            optimizer.zero_grad()
            torch.autograd.backward([loss(out)], inputs=parameters)
            optimizer.step()

        with torch.enable_grad(), threads_for(6.0 * BATCH * sum(p.numel() for p in parameters)):
            self.units.seconds["steps"] = self.timed(step)


def peak_bytes(device: torch.device, call: Callable[[], Any]) -> int:
    """Measure the most bytes of tensors that a call holds at a time, beside what was there before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return max(0, torch.cuda.max_memory_allocated(device) - before)
    watch = _Allocations()
    with watch:
        call()
    return watch.peak


class _Allocations(TorchDispatchMode):
    """Storages that operations make, until they are gone."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        self.seen |= {t.untyped_storage()._cdata for t in _strided((args, kwargs))}
        out = func(*args, **kwargs)
        for t in _strided(out):
            storage = t.untyped_storage()
            if storage._cdata not in self.seen:
                self.seen.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        return out

    def _free(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def _strided(tree: Any) -> list[Tensor]:
    """The tensors of any shape in it that lie in a storage of their own."""
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor) and t.layout is torch.strided]
