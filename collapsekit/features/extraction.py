"""One pass of the encoders, and of the rest, over a split."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from collapsekit.adapters.base import Activations, Adapter, ForwardPass, OwnedActivations, Prediction
from collapsekit.adapters.build import seed_everything
from collapsekit.adapters.caveats import copied_rows, modalities_missing
from collapsekit.adapters.live.absence import make_substitutes
from collapsekit.adapters.live.alone import find_leaking
from collapsekit.adapters.live.inputs import describe_inputs, record_inputs
from collapsekit.adapters.live.presence import find_present, missing_note
from collapsekit.adapters.live.state import same_bits
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.adapters.outputs import need_first_fits
from collapsekit.adapters.validate import FEW, finite_pass, validate_model
from collapsekit.context import Progress
from collapsekit.data.base import Batch
from collapsekit.distributed.process_group import current
from collapsekit.errors import ConfigError, DataError, NothingEvaluatedError
from collapsekit.features.categories import read_categories
from collapsekit.features.examples import Examples, SplitReader, predictions_of
from collapsekit.features.features import Features, groups_of
from collapsekit.features.matching import group_alike, lenders_matched
from collapsekit.features.summing import SummedPass, cut, run_summed, widths_to_sum, worth_summing
from collapsekit.io.safe_text import quote
from collapsekit.io.spill import SpillBuffer, SpillColumn
from collapsekit.registry import Reads
from collapsekit.report.diagnosis import ReportWarning
from collapsekit.stats.threads import threads_for


def extract(
    adapter: Adapter,
    split: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    storage: SpillBuffer | None = None,
) -> Features:
    """Run the encoders (and the rest) once over ``split``; several processes share the batches.

    Args:
        adapter: the model.
        split: the examples to diagnose; other splits are read when they are asked for.
        limit: at most so many examples a split.
        seed: of what the data and the model draw.
        progress: told of each batch.
        storage: where inputs and features are kept.

    Returns:
        The features of ``split``.

    Raises:
        DataError: for NaN in inputs or activations and labels that do not fit.
        ConfigError: where replaying or rebuilding does not give the model's own outputs.
        NothingEvaluatedError: for fewer than two examples.
    """
    storage = storage or SpillBuffer()
    return Extraction(adapter, SplitReader(adapter, limit, seed, storage), progress, storage).features(split)


def repeated(features: Features) -> tuple[ReportWarning, ...]:
    """Warn of examples that the splits read until now have too; of a split that nothing needed, nothing is said."""

    def shared(other: Features) -> tuple[int, int]:
        assert features.contents is not None
        assert other.contents is not None
        same = torch.isin(features.contents, other.contents)
        return int(same.sum()), int((same & torch.isin(features.ids, other.ids)).sum())

    others = {name: shared(features.read[name]) for name in sorted(features.read) if name != features.split}
    found = copied_rows(features.split, others, len(features))
    return () if found is None else (found,)


@dataclass(frozen=True)
class Twin:
    """The passes of a model of the same architecture, and the names of the weights in which it differs."""

    passes: Extraction
    changed: frozenset[str] = frozenset()

    def keeps_encoders(self, adapter: Adapter) -> bool:
        """Tell whether the differing weights all lie outside the encoders of ``adapter``."""
        own = {id(t) for k, t in adapter.model.state_dict(keep_vars=True).items() if k in self.changed}
        parts = [adapter.encoder_module(m).state_dict(keep_vars=True) for m in adapter.modalities]
        known = adapter.model.state_dict(keep_vars=True).keys()
        return self.changed <= known and all(p and own.isdisjoint(map(id, p.values())) for p in parts)


class Extraction:
    """The passes of one model over its splits, each made once, however many diagnoses read it."""

    def __init__(
        self,
        adapter: Adapter,
        reader: SplitReader,
        progress: Progress | None = None,
        storage: SpillBuffer | None = None,
        twin: Twin | None = None,
        rebuilt: bool | None = None,
        varied: bool = True,
    ) -> None:
        """``twin``: a model whose passes, or whose encoders', stand for those of this one where bits agree; ``rebuilt``:
        whether the model built a second time answers alike, where that is known already;
        ``varied``: whether labels have to vary, as they need not among a few examples."""
        self.adapter, self.reader, self.twin, self.varied = adapter, reader, twin, varied
        self.progress, self.storage = progress or Progress(), storage or SpillBuffer()
        self._made: dict[str, Features] = {}
        self._warnings: dict[str, tuple[ReportWarning, ...]] = {}  # by split on whose first batch the model was checked
        self.rebuilt = rebuilt
        self._learned = False

    def features(self, split: str, reads: Reads = "rows") -> Features:
        """Return features to be diagnosed: the model is checked on the first batch of ``split``, other splits come as
        they are needed. Raises what ``extract`` raises.

        Args:
            split: which examples.
            reads: what is read of them; where it is not each example's, several processes may keep their features.

        Returns:
            The features.
        """
        known: dict[str, Features] = {}
        self._forget_sums(split, reads)
        warnings = self._check(split, reads)
        mixed = any(w.name == "depends_on_batch" for w in warnings)
        batch = self.adapter.config.data.batch_size if mixed else None

        def get(name: str) -> Features:
            if name not in known:
                made = self.of(name)
                known[name] = replace(made, sibling=get, read=known, warnings=warnings, batch=batch)
            return known[name]

        features = get(split)
        told = (modalities_missing(features.present, split), lenders_matched(self.adapter, features.alike, split))
        features.warnings = (*features.warnings, *(w for w in told if w is not None))
        seed_everything(
            self.reader.seed
        )  # what is drawn from here on does not depend on which passes were made already
        return features

    def _forget_sums(self, split: str, reads: Reads) -> None:
        """Have a split passed over again of which only sums are kept, where more is read now."""
        made = self._made.get(split)
        if made is not None and made.sums is not None and (reads != "fused sums" or None not in made.sums.groups):
            del self._made[split]

    def of(self, split: str) -> Features:
        """Return features of one split, as every diagnosis has them."""
        if split not in self._made:
            self._made[split] = self._encoded(self.reader.of(split), check=False)
        return self._made[split]

    def checked(self, split: str) -> Features:
        """Return features of one split, on whose first batch the model is checked too.

        Raises what ``extract`` raises.
        """
        self._forget_sums(split, "rows")
        self._check(split)
        return self.of(split)

    def _check(self, split: str, reads: Reads = "rows") -> tuple[ReportWarning, ...]:
        """What is to be said of the model on these examples, once it is known to be sound."""
        if split not in self._warnings:
            examples = self.reader.of(split)
            need_varied(self.adapter, examples)
            if split in self._made:
                self._pass(examples, self._batches(examples)[0], check=True)
            else:
                self._made[split] = self._encoded(examples, check=True, reads=reads)
            if self.varied:
                need_varied(self.adapter, examples, self._made[split])
            caveat = self.adapter.task.caveat(self._made[split].targets)
            if caveat is not None:
                more = ReportWarning(name="targets_left_out", sentence=f"Split {quote(split)}: {caveat}")
                self._warnings[split] = (*self._warnings[split], more)
        return self._warnings[split]

    def _batches(self, examples: Examples) -> tuple[Tensor, ...]:
        rows: tuple[Tensor, ...] = torch.arange(len(examples.order)).split(self.adapter.config.data.batch_size)
        return rows

    def _encoded(self, examples: Examples, *, check: bool, reads: Reads = "rows") -> Features:
        self._learn_labels()
        rows, kept = self._batches(examples), _Kept(self.storage, self.adapter.at_input)
        if self.twin is not None and (theirs := _made_by_twin(self, examples, rows, check)) is not None:
            return theirs
        if reads != "rows" and (summed := _summed(self, examples, rows, check, reads)) is not None:
            return replace(self._assembled(examples, summed), sums=summed.sums)
        if check and not current().is_main:
            self._pass(examples, rows[0], check)  # to know the model, of whose batches it may get none
        for done, result in enumerate(current().map(lambda some: self._pass(examples, some, check), rows)):
            kept.add(result)
            self.progress.step(f"encoders over {examples.split}", int(rows[done][-1]) + 1, len(examples.order))
        return self._assembled(examples, kept)

    def _learn_labels(self) -> None:
        """Let the task see the labels of all splits first, where it wants to."""
        task, source = self.adapter.task, self.adapter.source
        if task.learns and not self._learned:
            splits = [split for split in source.splits() if source.count(split) != 0]
            task.learn({split: self.reader.of(split).columns[self.adapter.config.data.label] for split in splits})
            self._learned = True

    def _all(self, alike: bool, examples: Examples) -> bool:
        return all(current().share(alike, f"what two models make of {examples.split}"))

    def _answer(self, examples: Examples, features: Features, rows: Tensor) -> Prediction:
        """Fusion and head on what the twin's encoders gave of one batch."""
        batch = {k: examples.columns[k].index_select(0, rows) for k in self.adapter.columns}
        recorded = {
            m: OwnedActivations(t.index_select(0, rows) for t in features.recorded[m]) for m in features.modalities
        }
        with torch.no_grad(), threads_for(self._operations):
            seed_everything(self.reader.seed)
            answer = self.adapter.rerun(recorded, batch)
        return answer.on_cpu().single()

    @property
    def _operations(self) -> float:
        """Of a forward of one batch."""
        weights = sum(p.numel() for p in self.adapter.model.parameters() if not is_lazy(p))
        return 2.0 * self.adapter.config.data.batch_size * weights

    def _pass(self, examples: Examples, rows: Tensor, check: bool) -> ForwardPass:
        """One batch through the model; the first one with all the checks."""
        start, stop = int(rows[0]), int(rows[-1]) + 1
        batch = {k: examples.columns[k][start:stop] for k in self.adapter.columns}
        seed, order = self.reader.seed, examples.order[start:stop]
        with torch.no_grad(), threads_for(self._operations):
            if check and not start:
                few = {k: examples.columns[k][:FEW] for k in self.adapter.columns}
                sound = validate_model(self.adapter, batch, few, examples.split, order, seed, self.rebuilt)
                result, self.rebuilt = sound.result, sound.rebuilt
                if sound.note is not None:
                    self.progress.note(sound.note)
                _need_shape(self.adapter, examples, start, stop, result.prediction)
                self._warnings[examples.split] = sound.warnings
            else:
                seed_everything(seed)
                result = self.adapter.run(batch)
        result = result.on_cpu()
        result = replace(result, prediction=result.prediction.single())
        finite_pass(result, examples.split, order, partial(missing_note, self.adapter, batch))
        return result

    def _recorded(self, kept: _Kept | SummedPass, modality: str, columns: Batch) -> Activations:
        """What was recorded of a modality; of one that is recorded at the input, the very tensors that were read."""
        if modality in self.adapter.at_input:
            return record_inputs(self.adapter, modality, columns)
        return tuple(c.tensor() for c in kept.recorded[modality])

    def _assembled(self, examples: Examples, kept: _Kept | SummedPass) -> Features:
        adapter, columns, split = self.adapter, examples.columns, examples.split
        data, outputs = adapter.config.data, kept.outputs.tensor()
        targets = columns[data.label] if adapter.task.has_labels else torch.zeros(len(outputs))
        own = {k: columns[k] for m in adapter.modalities for k in adapter.input_keys(m)}
        answering = adapter.task.answers_in(own, columns[data.label]) if adapter.task.needs_targets else ()
        return Features(
            split=split,
            modalities=adapter.modalities,
            inputs={k: columns[k] for k in adapter.columns},
            present=(present := find_present(adapter, columns)),
            alike=group_alike(adapter, columns),
            substitutes=make_substitutes(adapter, columns, present, self.reader.seed),
            described=describe_inputs(adapter, {k: columns[k] for k in adapter.batch_keys}),
            recorded={m: self._recorded(kept, m, columns) for m in adapter.modalities},
            pooled={m: c.tensor() for m, c in kept.pooled.items()},
            fused=kept.fused.tensor(),
            outputs=outputs,
            targets=adapter.task.check(targets, outputs, split),
            digest=examples.digest,
            ids=examples.ids,
            contents=examples.contents,
            predictions={m: columns[key] for m, key in predictions_of(adapter).items()},
            sibling=self.of,
            answering=answering,
            leaking=find_leaking(adapter, {k: columns[k][:FEW] for k in adapter.columns}),
            units=(units := _units(columns, data.group, split)),
            categories=read_categories(
                columns, data.category, adapter.source.objects, groups_of(len(outputs), units), split
            ),
        )


def _summed(
    run: Extraction, examples: Examples, rows: Sequence[Tensor], check: bool, reads: Reads
) -> SummedPass | None:
    """The pass of several processes that keep their features; None where these have to travel all the same."""
    world, size = current(), len(rows[0])
    if not worth_summing(len(examples.order), world):
        return None
    groups = groups_of(len(examples.order), _units(examples.columns, run.adapter.config.data.group, examples.split))
    first = run._pass(examples, rows[0], check)  # every process knows the model
    widths = widths_to_sum(run.adapter, first, int(groups.max()) + 1, reads)
    if widths is None:
        return None

    def batches(begin: int, end: int) -> Iterator[ForwardPass]:
        for some in rows[begin // size : -(-end // size)]:
            start = int(some[0])
            yield cut(run._pass(examples, some, check=False) if start else first, start, begin, end)
            run.progress.step(f"encoders over {examples.split}", min(int(some[-1]) + 1, end) - begin, end - begin)

    return run_summed(batches, first, groups, widths, run.storage.column(), world)


def _made_by_twin(run: Extraction, examples: Examples, rows: Sequence[Tensor], check: bool) -> Features | None:
    """What the twin made of a split, where this model's own pass over its first batch has the same bits, in every
    process; where only what follows the encoders differs, with that run anew on what they gave."""
    assert run.twin is not None
    made = run.twin.passes._made.get(examples.split)
    if made is None or made.sums is not None or (run.twin.changed and not run.twin.keeps_encoders(run.adapter)):
        return None
    first = run._pass(examples, rows[0], check)
    if not run.twin.changed:
        alike = _encoded_alike(first, made, rows[0]) and _answered_alike(first.prediction, made, rows[0])
        return made if run._all(alike, examples) else None
    # The last batch too, as it may be of another size.
    ends = [(first, rows[0]), *([(run._pass(examples, rows[-1], check=False), rows[-1])] if len(rows) > 1 else [])]
    if not run._all(all(_encoded_alike(one, made, some) for one, some in ends), examples):
        return None
    fused, outputs = run.storage.column(), run.storage.column()
    for answer in current().map(lambda some: run._answer(examples, made, some), rows):
        fused.append(answer.fused)
        outputs.append(answer.outputs)
    found = replace(made, fused=fused.tensor(), outputs=outputs.tensor(), sibling=run.of)
    alike = all(_answered_alike(one.prediction, found, some) for one, some in ends)
    return found if run._all(alike, examples) else None


def _need_shape(adapter: Adapter, examples: Examples, start: int, stop: int, prediction: Prediction) -> None:
    """Before every other batch is run, that the task can read what the model answers."""
    task, label = adapter.task, adapter.config.data.label
    targets = examples.columns[label][start:stop] if task.has_labels else torch.zeros(stop - start)
    task.need_shape(prediction.outputs, targets)
    classes = task.classes_in(examples.columns[label]) if task.has_labels else None
    if classes is not None and adapter.config.output is None and isinstance(adapter, ModuleAdapter):
        need_first_fits(adapter.returned or (), classes)


def _encoded_alike(one: ForwardPass, features: Features, rows: Tensor) -> bool:
    """Whether a pass over ``rows`` has the bits that features have of its encoders."""
    pairs = [(x, features.pooled[m]) for m, x in one.pooled.items()]
    pairs += [(t, o) for m, r in one.recorded.items() for t, o in zip(r, features.recorded[m], strict=True)]
    return all(same_bits(ours, theirs.index_select(0, rows)) for ours, theirs in pairs)


def _answered_alike(one: Prediction, features: Features, rows: Tensor) -> bool:
    pairs = [(one.fused, features.fused), (one.outputs, features.outputs)]
    return all(same_bits(ours, theirs.index_select(0, rows)) for ours, theirs in pairs)


def need_varied(adapter: Adapter, examples: Examples, features: Features | None = None) -> None:
    """Check that a split can be diagnosed.

    Args:
        adapter: the model, whose task says what labels are.
        examples: the split as it was read.
        features: what the model made of it, once that is there.

    Raises:
        NothingEvaluatedError: for fewer than two examples.
        DataError: where all have one label.
    """
    split, n = examples.split, len(examples.order)
    if n < 2:
        raise NothingEvaluatedError(f"split {split!r} has {n} example: a diagnosis needs at least 2, better hundreds.")
    unvarying = None if features is None else adapter.task.unvarying(features.targets)
    if unvarying is not None:
        raise DataError(f"every label of split {split!r} is {unvarying}: a diagnosis needs labels that vary.")


class _Kept:
    """The passes over a split, batch after batch."""

    def __init__(self, storage: SpillBuffer, at_input: Collection[str] = ()) -> None:
        """``at_input``: modalities whose recordings are their inputs, which are there already."""
        self.storage, self.at_input = storage, at_input
        self.recorded: dict[str, list[SpillColumn]] = {}
        self.pooled: dict[str, SpillColumn] = {}
        self.fused, self.outputs = storage.column(), storage.column()

    def add(self, result: ForwardPass) -> None:
        """Keep one batch. Raises ConfigError where features change their shape."""
        for m, tensors in result.recorded.items():
            if m in self.at_input:
                continue
            columns = self.recorded.setdefault(m, [self.storage.column() for _ in tensors])
            for column, tensor in zip(columns, tensors, strict=True):
                if column.shape not in (None, tensor.shape[1:]):
                    raise ConfigError(
                        f"features of modality {m!r} have shape {column.shape} in one batch and "
                        f"{tuple(tensor.shape[1:])} in another: the encoder's output must not depend on what else is in "
                        "the batch; pad to one shape, or leave `encoder` out, and the modality is exchanged at the input."
                    )
                column.append(tensor)
        for m, pooled in result.pooled.items():
            self.pooled.setdefault(m, self.storage.column()).append(pooled)
        self.fused.append(result.prediction.fused)
        self.outputs.append(result.prediction.outputs)


def _units(inputs: Batch, key: str | None, split: str) -> Tensor | None:
    if key is None:
        return None
    units = inputs[key].reshape(len(inputs[key]), -1)
    if units.shape[1] != 1:
        raise DataError(
            f"data.group {key!r} has {units.shape[1]} numbers an example, expected one: give each unit a number."
        )
    if len(units.unique()) < 2:
        raise DataError(
            f"every example of split {split!r} has the same {key!r}: intervals over groups need at least 2."
        )
    return units[:, 0]
