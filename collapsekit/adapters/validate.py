"""What has to hold of a model before its numbers mean anything: finite, the same when repeated, replayed and rebuilt."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.adapters.base import Adapter, ForwardPass, Prediction
from collapsekit.adapters.build import disagreeing, own_attributes, random_states, seed_everything, unregistered
from collapsekit.adapters.caveats import (
    absent_as,
    adapter_merged,
    averages_taken,
    depends_on_batch,
    entries_left_out,
    floating_loose,
    inputs_changed,
    integers_cast,
    listed,
    not_in_the_state,
    not_pruned,
    samples_answers,
    weights_changed,
    weights_dequantised,
)
from collapsekit.adapters.live.presence import missing_note
from collapsekit.adapters.live.state import State
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.adapters.predictions.probabilities import read_as_probabilities
from collapsekit.adapters.weights.lent import LentCheckpoint, LentWeights, NotLentError
from collapsekit.checkpoint.read import Checkpoint
from collapsekit.data.base import Batch
from collapsekit.errors import CollapsekitError, ConfigError, DataError, SamplingError
from collapsekit.report.diagnosis import ReportWarning
from collapsekit.user_code.frames import one_line

WITHOUT = ", though the inputs are finite: check the weights and the modality's `scale`"
SEEDS_APART = 3.0  # times as far as two seeds' answers lie apart, by which replays of a model that samples may differ
FEW = 8  # examples that are also run in other company
WORTH_TELLING = 1 << 28  # bytes of weights, of which a second copy is worth a sentence
PAIRS = 4  # examples that lend one another a modality, to see which encoders that moves


def _first_bad(value: Tensor, *, missing: bool = False) -> int | None:
    if not value.is_floating_point() or not value.numel():
        return None
    flat = value.reshape(len(value), -1)
    bad = ~torch.isfinite(flat).all(1)
    if missing and bool(bad.any()):
        bad &= ~flat.isnan().all(1)
    return int(bad.nonzero()[0]) if bool(bad.any()) else None


def finite_inputs(batch: Batch, split: str, start: int, owned: Collection[str] = ()) -> None:
    """Raise DataError where an input holds NaN or infinity.

    Args:
        batch: inputs (n, ...) by key.
        split: that they are of, for messages.
        start: number of the first example in its split.
        owned: the inputs of modalities, which are missing in an example where they are NaN throughout.
    """
    for key, value in batch.items():
        row = _first_bad(value, missing=key in owned and value.ndim > 1)
        if row is not None:
            raise DataError(
                f"{key!r} of example {start + row} in split {split!r} holds NaN or infinity: fill or drop such examples."
            )


def finite_pass(result: ForwardPass, split: str, examples: Tensor, missing: Callable[[], str] | None = None) -> None:
    """Raise DataError where features, the fused representation or outputs hold NaN or infinity.

    Args:
        result: the pass.
        split: that its examples are of, for messages.
        examples: their numbers, int64 (n,).
        missing: says which modalities some of them lack, asked where there is something to say.
    """
    named = [
        *((f"the features of modality {m!r}", t) for m, t in result.pooled.items()),
        ("the fused representation", result.prediction.fused),
        ("the model's output", result.prediction.outputs),
    ]
    for what, value in named:
        row = _first_bad(value)
        if row is not None:
            raise DataError(
                f"NaN or infinity first appears in {what}, at example {int(examples[row])} of split {split!r}"
                f"{(missing() if missing else '') or WITHOUT}."
            )


@dataclass(frozen=True)
class Sound:
    """A pass over the first batch, and what the numbers have to be read with."""

    result: ForwardPass
    warnings: tuple[ReportWarning, ...]
    rebuilt: bool  # whether a second model, built from the same checkpoint, answers alike
    note: str | None = None  # of what it took to tell


def validate_model(
    adapter: Adapter,
    batch: Batch,
    few: Batch,
    split: str,
    examples: Tensor,
    seed: int,
    rebuilt: bool | None = None,
) -> Sound:
    """Check that a model's numbers mean something, by a pass over the first batch and others beside it.

    What the model does beside answering is put right, where that can be, and warned of.

    Args:
        adapter: the model.
        batch: the first batch, inputs (n, ...) by key.
        few: the first examples of the split, however many are in a batch.
        split: that they are of, for messages.
        examples: numbers of the examples in ``batch``, int64 (n,).
        seed: of what the model draws.
        rebuilt: whether a model built a second time from the same checkpoint answers alike; None: that is tried.

    Returns:
        The pass over the first batch, and what its numbers have to be read with.

    Raises:
        DataError: where the pass holds NaN or infinity.
        ConfigError: unless the model answers the same under another seed, when run again, from its encoders'
            recordings, and built anew from the same checkpoint.
    """
    loose = floating_loose(adapter.model)
    result, drawn = _first_pass(adapter, batch, seed)
    if adapter.checkpoint is not None:
        adapter.checkpoint.check_unchanged()  # what the weights were compared with
    task = adapter.task
    probabilities = read_as_probabilities(adapter, result, few, seed)
    if adapter.task is not task:
        result, drawn = _first_pass(adapter, batch, seed)
    finite_pass(result, split, examples, partial(missing_note, adapter, batch))
    run = _Repeated(adapter, batch, seed)
    if drawn and adapter.config.model.samples > 1:
        run = replace(run, noise=run.between_seeds(result))
    elif drawn:
        run.same_under_another_seed(result)
    result = run.replayable(result)
    result, apart = run.in_other_company(result, few)
    if isinstance(adapter, ModuleAdapter):
        run.need_own_inputs(few)
    note = None
    if rebuilt is None:
        rebuilt, note = _same_when_rebuilt(adapter, batch, result, seed)
    refused = adapter.prune(batch, result.recorded) if isinstance(adapter, ModuleAdapter) else ()
    found = (
        entries_left_out(adapter),
        averages_taken(adapter),
        adapter_merged(adapter),
        weights_dequantised(adapter),
        inputs_changed(adapter),
        integers_cast(adapter),
        weights_changed(adapter),
        depends_on_batch(adapter, apart),
        None if rebuilt else not_in_the_state(adapter.model, loose),
        not_pruned(refused),
        samples_answers(adapter, run.noise),
        absent_as(adapter),
        probabilities,
    )
    return Sound(result, tuple(w for w in found if w is not None), rebuilt, note)


def _first_pass(adapter: Adapter, batch: Batch, seed: int) -> tuple[ForwardPass, bool]:
    """The pass over a batch, and whether it drew random numbers; what else it changed is put back."""
    state = State.of(adapter.model, adapter.weights.in_file)
    try:
        seed_everything(seed)
        before = random_states()
        result = adapter.run(batch).on_cpu()
        return result, before != random_states()
    finally:
        adapter.unsteady = state.changed
        adapter.unsteady.put_back()
        del state  # it may be a copy of all weights, which would lie beside those of a second build


def _close(a: Tensor, b: Tensor, tolerance: float = 1e-3) -> bool:
    return a.shape == b.shape and _distance(a, b) <= tolerance


def _distance(a: Tensor, b: Tensor) -> float:
    """The largest difference in parts of the largest numbers."""
    if not a.numel():  # the representation of a model that names no fusion
        return 0.0
    return float((a - b).abs().max()) / (float(a.abs().max()) + float(b.abs().max()) + 1e-12)


@dataclass(frozen=True)
class _Repeated:
    """The first batch, run again in other ways."""

    adapter: Adapter
    batch: Batch
    seed: int
    noise: float = 0.0  # by how much answers of a model that samples differ between seeds, in parts of their size

    def run(self, batch: Batch | None = None, seed: int | None = None) -> ForwardPass:
        seed_everything(self.seed if seed is None else seed)
        return self.adapter.run(self.batch if batch is None else batch).on_cpu()

    def same_under_another_seed(self, result: ForwardPass) -> None:
        """A model that drew random numbers must answer the same under another seed."""
        if not _apart(result, self.run(seed=self.seed + 1), self._tolerance):
            return
        self.settled(result)  # raises where it would not answer the same under the same seed either
        raise SamplingError(
            "the model is random in eval mode: two seeds give two answers for the same examples; make its eval mode "
            "deterministic (dropout only where self.training, a fixed seed or the mean instead of a sample), or, where it "
            "is meant to sample, say over how many seeds each answer is averaged: `model: {samples: 8}`."
        )

    def between_seeds(self, result: ForwardPass) -> float:
        """By how much a model that samples answers otherwise under another seed, in parts of the answer's size."""
        self.settled(result)  # raises where it would not answer the same under the same seed either
        other = self.run(seed=self.seed + 1).prediction
        return max(_distance(result.prediction.outputs, other.outputs), _distance(result.prediction.fused, other.fused))

    def replays(self, result: ForwardPass) -> bool:
        """Whether replaying the recordings, rows reversed, gives the model's own outputs, rows reversed."""
        seed_everything(self.seed)
        flipped = {m: tuple(t.flip(0) for t in r) for m, r in result.recorded.items()}
        again = self.adapter.rerun(flipped, {k: v.flip(0) for k, v in self.batch.items()}).on_cpu()
        tolerance = max(1e-3, SEEDS_APART * self.noise)
        return _close(again.outputs, result.prediction.outputs.flip(0), tolerance) and _close(
            again.fused, result.prediction.fused.flip(0), tolerance
        )

    def replayable(self, result: ForwardPass) -> ForwardPass:
        """The pass, or one after it, whose answers come out of its recordings again. Raises ConfigError where none do."""
        if self.replays(result):
            return result
        result = self.settled(result)  # hooks, say, that its first forward made
        if self.replays(result):
            return result
        raise ConfigError(
            "the model's output cannot be reproduced from its encoders' recorded features: it reads something else "
            "that an encoder leaves behind, or an example's output depends on its place in the batch; make the "
            "encoders' outputs its only way in, or write a Python adapter."
        )

    def settled(self, result: ForwardPass) -> ForwardPass:
        """What the model answers twice in a row; its first answer may be another one. Raises ConfigError where it never
        does."""
        numbers = _numbers(self.adapter.model)
        again = self.run()
        if not _apart(result, again, self._tolerance):
            return again
        if not _apart(again, self.run(), self._tolerance):
            return again
        moved = [k for k, v in _numbers(self.adapter.model).items() if numbers.get(k, v) != v]
        where = f" ({listed(moved)})" if moved else ""
        raise ConfigError(
            "the model answers the same examples otherwise each time, also under one seed: a forward leaves something "
            f"behind that the next one reads{where}; change it only where self.training, or begin each forward anew."
        )

    def in_other_company(self, result: ForwardPass, few: Batch) -> tuple[ForwardPass, list[str]]:
        """What of the first examples comes out otherwise beside other examples: names of modalities, "fused", "outputs".

        Returns the pass as well, as one that the model would give again.
        """
        try:
            orders = _halves(len(next(iter(few.values()))), None)
            apart = self._apart_in(result, few, orders)
        except CollapsekitError:  # a model that wants batches of one size, say
            few = self.batch
            orders = _halves(rows := len(next(iter(few.values()))), rows)
            apart = self._apart_in(result, few, orders)
        if apart:
            again = self.settled(result)
            if _apart(result, again, self._tolerance):
                return again, self._apart_in(again, few, orders)
        return result, apart

    def need_own_inputs(self, few: Batch) -> None:
        """Raise ConfigError where an encoder reads another modality's inputs and not its own: names were exchanged."""
        few = {k: v[:PAIRS] for k, v in few.items()}
        try:
            usual = self.run(few).pooled
            moved = {
                m: self._moved_by(m, few, usual) for m in self.adapter.modalities if m not in self.adapter.at_input
            }
        except CollapsekitError:  # a model that wants batches of one size, or examples as they belong together
            return
        for m, by_own in moved.items():
            if m in by_own:
                continue
            others = [other for other, names in moved.items() if m in names]
            if others:
                encoder, wanted = self.adapter.config.modalities[m].encoder, [n for n in moved if n in moved[m]]
                also = f", and {m!r} that of {wanted[0]!r}" if wanted else ""
                raise ConfigError(
                    f"encoder {encoder!r} of modality {m!r} does not move with {m!r}, and moves with "
                    f"{' and '.join(others)}: encoders stand beside other modalities' names in the config; give "
                    f"{others[0]!r} this encoder{also}."
                )

    def _moved_by(self, modality: str, few: Batch, usual: Mapping[str, Tensor]) -> set[str]:
        """The modalities whose features move where one modality's inputs are another example's."""
        columns = self.adapter.input_keys(modality)
        other = self.run({**few, **{k: few[k].roll(1, 0) for k in columns}}).pooled
        return {m for m, features in other.items() if not torch.equal(features, usual[m])}

    def _apart_in(self, result: ForwardPass, few: Batch, orders: Sequence[list[int]]) -> list[str]:
        """What of ``result``, a pass over the batch, is otherwise where each of ``orders`` of ``few`` is a batch."""
        found: set[str] = set()
        for order in orders:
            other = self.run({k: v[torch.tensor(order)] for k, v in few.items()})
            both = torch.tensor([i for i in sorted(set(order)) if i < len(result.prediction.outputs)])
            if len(both):
                place = torch.tensor([order.index(i) for i in both.tolist()])
                found.update(_apart(_taken(result, both), _taken(other, place), self._tolerance))
        return [name for name in (*self.adapter.modalities, "fused", "outputs") if name in found]

    @property
    def _tolerance(self) -> float:
        kinds = [p.dtype for p in self.adapter.model.parameters() if p.is_floating_point()]
        return max([1e-3, SEEDS_APART * self.noise, *(4 * torch.finfo(kind).eps for kind in kinds)])


def _halves(rows: int, size: int | None) -> list[list[int]]:
    """Two batches of some of ``rows`` examples, in other company and order than they have together, and of two sizes, so
    that one at least is of another size than the data's batches; or both of ``size``."""
    first = list(range(rows))[::2][::-1]
    second = list(range(rows))[1::2][::-1] or first
    if size is None:
        return [first + first[-1:], second + second[-1:] * 2]
    return [(part * size)[:size] for part in (first, second)]


def _apart(a: ForwardPass, b: ForwardPass, tolerance: float) -> list[str]:
    """Names of what two passes give differently."""
    named = [*((m, x, b.pooled[m]) for m, x in a.pooled.items())]
    named += [
        ("fused", a.prediction.fused, b.prediction.fused),
        ("outputs", a.prediction.outputs, b.prediction.outputs),
    ]
    return [name for name, x, y in named if not _close(x, y, tolerance)]


def _numbers(model: nn.Module) -> dict[str, Any]:
    """What modules count and collect in plain attributes, by name: numbers, lengths, states of generators."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        for name, value in own_attributes(module).items():
            key = f"{path}.{name}" if path else name
            if isinstance(value, int | float | str):
                found[key] = value
            elif isinstance(value, list | dict | set | deque):
                found[key] = len(value)
            elif isinstance(value, torch.Generator):
                found[key] = value.get_state().numpy().tobytes()
    return found


def _taken(result: ForwardPass, rows: Tensor) -> ForwardPass:
    said = result.prediction
    pooled = {m: x[rows] for m, x in result.pooled.items()}
    return ForwardPass({}, pooled, Prediction(said.fused[rows], said.outputs[rows]))


def _same_when_rebuilt(adapter: Adapter, batch: Batch, result: ForwardPass, seed: int) -> tuple[bool, str | None]:
    """A second model, built under another seed and given the same checkpoint, must give the same outputs. False where
    there is no such model. And what is worth telling: that it took memory for all weights once more, and why."""
    if adapter.checkpoint is None or adapter.config.model.factory is None:
        return False, None
    why = "what it holds beside them is not the same"  # as where a constructor seeds what it draws
    try:
        lent = _answer_of_lent(adapter, batch, seed)
        if _close(lent.outputs, result.prediction.outputs):
            return True, None
    except NotLentError as e:
        why = str(e)
    gc.collect()  # what was built so far, of which parts may know one another
    same = _same_when_built_whole(adapter, adapter.checkpoint, batch, result, seed)
    size = sum(p.nbytes for p in adapter.model.parameters())
    return same, None if size < WORTH_TELLING else (
        f"A second build of the model, to see whether the checkpoint holds all of it, took {size / 1e9:.1f} GB for weights "
        f"beside the first: it cannot do without memory for them ({why})."
    )


def _answer_of_lent(adapter: Adapter, batch: Batch, seed: int) -> Prediction:
    """What a second build answers in which the weights of the first one stand. Raises NotLentError where that cannot be."""
    assert adapter.checkpoint is not None
    if not adapter.weights.only_copied:
        raise NotLentError("its weights are more than copies of the file's")
    adapter.steady()
    moving = [] if adapter.unsteady is None else [slot.name for slot in adapter.unsteady.slots]
    lent = LentWeights(adapter.model.state_dict(), frozenset(moving))
    try:
        with lent.built():
            twin = adapter.fresh(seed + 1, trained=LentCheckpoint.of(adapter.checkpoint, lent))
        if twin is None:
            raise NotLentError("there is none")
        seed_everything(seed)
        with lent.guarded():
            answer = twin.run(batch).prediction.on_cpu()
    except Exception as e:  # noqa: BLE001 - of the user's own code, which runs again, and says so, in a whole build
        raise NotLentError(one_line(e)) from None
    if lent.written:  # though the user's code caught what was raised
        raise NotLentError("it writes into its weights")
    return answer


def _same_when_built_whole(
    adapter: Adapter, checkpoint: Checkpoint, batch: Batch, result: ForwardPass, seed: int
) -> bool:
    """Whether a second build with weights of its own answers alike; False where there is none. Raises ConfigError where it
    does not."""
    twin = adapter.fresh(seed + 1, trained=checkpoint)
    if twin is None:
        return False
    theirs = unregistered(twin.model)
    seed_everything(seed)
    other = twin.run(batch).prediction.on_cpu()
    if _close(other.outputs, result.prediction.outputs):
        return True
    hidden = disagreeing(unregistered(adapter.model), theirs)
    where = f" ({', '.join(hidden)} differ and are not in its state_dict)" if hidden else ""
    if checkpoint.adapter is not None and checkpoint.base is None:
        raise ConfigError(
            "the checkpoint is an adapter, and two builds of its base by model.factory disagree: name the weights that it "
            "was trained on, e.g. `model: {base: base.safetensors}`, or let model.factory load them."
        )
    raise ConfigError(
        f"the checkpoint does not hold all of the model's weights: two builds with it loaded disagree{where}; "
        "register them (nn.Parameter, nn.ModuleList, register_buffer) and save again."
    )
