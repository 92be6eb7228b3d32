"""One pass of the encoders, and of the rest, over a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from collapsekit.adapters.base import Adapter, Pass, Prediction
from collapsekit.adapters.build import seed_everything
from collapsekit.adapters.caveats import copied_rows
from collapsekit.adapters.validate import FEW, finite_inputs, finite_pass, sound_run
from collapsekit.context import Progress
from collapsekit.data.base import Batch
from collapsekit.data.contents import canonical
from collapsekit.distributed.process_group import current
from collapsekit.errors import ConfigError, DataError, NothingEvaluatedError
from collapsekit.features.features import Features
from collapsekit.io.spill import SpillColumn, Storage
from collapsekit.report.diagnosis import ReportWarning
from collapsekit.stats.threads import threads_for


def extract(
    adapter: Adapter,
    split: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    storage: Storage | None = None,
) -> Features:
    """Run the encoders (and the rest) once over ``split``; several processes share the batches.

    Raises DataError for NaN in inputs or activations and labels that do not fit, ConfigError where replaying
    or rebuilding does not give the model's own outputs, NothingEvaluatedError for fewer than two examples.
    """
    known: dict[str, Features] = {}
    job = _Extraction(adapter, limit, seed, progress or Progress(), storage or Storage(), lambda name: get(name), known)

    def get(name: str) -> Features:
        if name not in known:
            known[name] = job.of(name, check=not known)
        return known[name]

    return get(split)


def repeated(features: Features) -> tuple[ReportWarning, ...]:
    """What the splits read until now hold of the same examples; of a split that nothing needed, nothing is said."""

    def shared(other: Features) -> tuple[int, int]:
        assert features.contents is not None
        assert other.contents is not None
        same = torch.isin(features.contents, other.contents)
        return int(same.sum()), int((same & torch.isin(features.ids, other.ids)).sum())

    others = {name: shared(features.read[name]) for name in sorted(features.read) if name != features.split}
    found = copied_rows(features.split, others, len(features))
    return () if found is None else (found,)


@dataclass(frozen=True)
class _Extraction:
    adapter: Adapter
    limit: int | None
    seed: int
    progress: Progress
    storage: Storage
    sibling: Callable[[str], Features]
    read: Mapping[str, Features]
    warnings: list[ReportWarning] = field(default_factory=list)  # of the first batch

    def of(self, split: str, *, check: bool) -> Features:
        """Features of one split; ``check``: also whether the model is sound."""
        adapter, config = self.adapter, self.adapter.config
        inputs = self._read(split)
        group = config.data.group
        told_apart = {k: v for k, v in inputs.items() if k != group or k in adapter.batch_keys}
        order, digest, ids, contents = canonical(told_apart, set(adapter.batch_keys) - {config.data.label})
        # Sorted before they are encoded: which rows share a batch does not depend on the file's order either.
        inputs = {k: self.storage.taken(inputs.pop(k), order) for k in list(inputs)}
        current().agree(digest, f"examples of split {split!r}")
        n = len(order)
        if check and n < 2:
            raise NothingEvaluatedError(
                f"split {split!r} has {n} example: a diagnosis needs at least 2, better hundreds."
            )
        rows = torch.arange(n).split(config.data.batch_size)
        kept = _Kept(self.storage)
        if check and not current().first:
            self._encode(split, inputs, rows[0], order, check)  # to know the model, of whose batches it may get none
        for done, result in enumerate(
            current().each(lambda some: self._encode(split, inputs, some, order, check), rows)
        ):
            kept.add(result)
            self.progress.step(f"encoders over {split}", int(rows[done][-1]) + 1, n)
        features = self._assembled(split, inputs, kept, digest, (ids, contents))
        unvarying = adapter.task.unvarying(features.targets)
        if check and unvarying is not None:
            raise DataError(f"every label of split {split!r} is {unvarying}: a diagnosis needs labels that vary.")
        return features

    def _read(self, split: str) -> Batch:
        """Every example of the split as the data gives them, in its order, on the CPU."""
        adapter, config = self.adapter, self.adapter.config
        besides = [*([config.data.label] if adapter.task.has_labels else []), *filter(None, [config.data.group])]
        columns = {k: self.storage.column() for k in [*adapter.batch_keys, *besides]}
        done = 0
        seed_everything(self.seed)  # a loader that shuffles draws its order from here
        for batch in adapter.source.batches(split, list(columns), config.data.batch_size, self.limit, self.seed):
            finite_inputs(batch, split, done)
            for key, column in columns.items():
                if column.shape not in (None, batch[key].shape[1:]):
                    raise DataError(
                        f"examples of {key!r} in split {split!r} have shape {column.shape} in one batch and "
                        f"{tuple(batch[key].shape[1:])} in another: pad all examples to one shape, and name the padding "
                        "mask with `mask` or `data.also`."
                    )
                column.append(batch[key])
            done += len(batch[next(iter(columns))])
        if not done:
            raise NothingEvaluatedError(f"split {split!r} is empty: there is nothing to evaluate.")
        return {k: column.tensor() for k, column in columns.items()}

    def _encode(self, split: str, inputs: Batch, rows: Tensor, order: Tensor, check: bool) -> Pass:
        """One batch through the model; the first one with all the checks."""
        start, stop = int(rows[0]), int(rows[-1]) + 1
        batch = {k: inputs[k][start:stop] for k in self.adapter.batch_keys}
        weights = sum(p.numel() for p in self.adapter.model.parameters() if not is_lazy(p))
        with torch.no_grad(), threads_for(2.0 * self.adapter.config.data.batch_size * weights):
            if check and not start:
                few = {k: inputs[k][:FEW] for k in self.adapter.batch_keys}
                sound = sound_run(self.adapter, batch, few, split, order[start:stop], self.seed)
                result, self.warnings[:] = sound.result, sound.warnings
            else:
                seed_everything(self.seed)
                result = self.adapter.run(batch)
        finite_pass(result, split, order[start:stop])
        return _to_cpu(result)

    def _assembled(self, split: str, inputs: Batch, kept: _Kept, digest: str, ids: tuple[Tensor, Tensor]) -> Features:
        adapter = self.adapter
        data = adapter.config.data
        outputs = kept.outputs.tensor()
        targets = inputs[data.label] if adapter.task.has_labels else torch.zeros(len(outputs))
        return Features(
            split=split,
            modalities=adapter.modalities,
            inputs={k: inputs[k] for k in adapter.batch_keys},
            recorded={m: tuple(c.tensor() for c in columns) for m, columns in kept.recorded.items()},
            pooled={m: c.tensor() for m, c in kept.pooled.items()},
            fused=kept.fused.tensor(),
            outputs=outputs,
            targets=adapter.task.check(targets, outputs, split),
            digest=digest,
            ids=ids[0],
            contents=ids[1],
            sibling=self.sibling,
            units=_units(inputs, data.group, split),
            warnings=tuple(self.warnings),
            batch=data.batch_size if any(w.name == "depends_on_batch" for w in self.warnings) else None,
            read=self.read,
        )


class _Kept:
    """The passes over a split, batch after batch."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.recorded: dict[str, list[SpillColumn]] = {}
        self.pooled: dict[str, SpillColumn] = {}
        self.fused, self.outputs = storage.column(), storage.column()

    def add(self, result: Pass) -> None:
        """Keep one batch. Raises ConfigError where features change their shape."""
        for m, tensors in result.recorded.items():
            columns = self.recorded.setdefault(m, [self.storage.column() for _ in tensors])
            for column, tensor in zip(columns, tensors, strict=True):
                if column.shape not in (None, tensor.shape[1:]):
                    raise ConfigError(
                        f"features of modality {m!r} have shape {column.shape} in one batch and "
                        f"{tuple(tensor.shape[1:])} in another: the encoder's output must not depend on what else is in "
                        "the batch; pad to one shape."
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


def _to_cpu(result: Pass) -> Pass:
    return Pass(
        {m: tuple(t.cpu() for t in r) for m, r in result.recorded.items()},
        {m: t.cpu() for m, t in result.pooled.items()},
        Prediction(result.prediction.fused.float().cpu(), result.prediction.outputs.float().cpu()),
    )
