"""Features: what one pass of the encoders over a split left behind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from collapsekit.adapter.base import Adapter, Pass, Recorded
from collapsekit.adapter.build import hidden_tensors, seed_everything
from collapsekit.errors import ConfigError, DataError, NothingEvaluatedError
from collapsekit.settings import Progress
from collapsekit.sources import Batch
from collapsekit.stats.jackknife import assign_groups

T = TypeVar("T")
GROUPS = 16


@dataclass
class Features:
    """Everything probes read of one split, n examples in canonical order: sorted by a hash of their content, so
    that results depend neither on the row order nor on the batch size nor on what the modalities are called."""

    split: str
    modalities: tuple[str, ...]
    inputs: Batch  # as the data gave them
    recorded: dict[str, Recorded]  # what replaying an encoder needs
    pooled: dict[str, Tensor]  # per modality (n, d)
    fused: Tensor  # (n, D)
    outputs: Tensor  # (n, ...)
    targets: Tensor  # (n, ...)
    digest: str  # of inputs and targets
    sibling: Callable[[str], Features]
    memo: dict[Hashable, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.outputs)

    @property
    def groups(self) -> Tensor:
        """Jackknife group of each example, (n,)."""
        return assign_groups(len(self), min(GROUPS, len(self)))

    @property
    def concatenated(self) -> bool:
        """Whether the fused representation is only the modalities' features side by side, in any order."""

        def make() -> bool:
            if self.fused.shape[1] != sum(x.shape[1] for x in self.pooled.values()):
                return False
            fused = {c.numpy().tobytes() for c in self.fused.T.contiguous()}
            return all(c.numpy().tobytes() in fused for x in self.pooled.values() for c in x.T.contiguous())

        return self.once("concatenated", make)

    def of(self, split: str) -> Features:
        """Features of another split, extracted on first use. Raises ConfigError where there is none."""
        return self if split == self.split else self.sibling(split)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """``make()``, computed the first time it is asked for; shared by all probes."""
        if key not in self.memo:
            self.memo[key] = make()
        return cast(T, self.memo[key])


def extract(
    adapter: Adapter, split: str, *, limit: int | None = None, seed: int = 0, progress: Progress | None = None
) -> Features:
    """Run the encoders (and the rest) once over ``split``.

    Raises DataError for NaN in inputs or activations and labels that do not fit, ConfigError where replaying
    or rebuilding does not give the model's own outputs, NothingEvaluatedError for an empty split.
    """
    known: dict[str, Features] = {}

    def get(name: str) -> Features:
        if name not in known:
            known[name] = _extract(adapter, name, limit, seed, progress or Progress(), get, check=not known)
        return known[name]

    return get(split)


def _extract(
    adapter: Adapter,
    split: str,
    limit: int | None,
    seed: int,
    progress: Progress,
    sibling: Callable[[str], Features],
    *,
    check: bool,
) -> Features:
    config = adapter.config
    labels = [config.data.label] if adapter.task.has_labels else []
    keys = [*adapter.batch_keys, *labels]
    passes: list[Pass] = []
    batches: list[Batch] = []
    done, total = 0, adapter.source.count(split) if split in adapter.source.splits() else None
    for batch in adapter.source.batches(split, keys, config.data.batch_size, limit, seed):
        _finite_inputs(batch, split, done)
        with torch.no_grad():
            seed_everything(seed)
            result = adapter.run(batch)
            if check and not passes:
                _same_when_replayed(adapter, batch, result, seed)
                _same_when_rebuilt(adapter, batch, result, seed)
        _finite_pass(result, split, done)
        passes.append(_to_cpu(result))
        batches.append(batch)
        done += len(result.prediction.outputs)
        progress.step(f"encoders over {split}", done, total if limit is None else min(limit, total or limit))
    if not passes:
        raise NothingEvaluatedError(f"split {split!r} is empty: there is nothing to evaluate.")
    return _assemble(adapter, split, keys, batches, passes, sibling)


def _assemble(
    adapter: Adapter,
    split: str,
    keys: list[str],
    batches: list[Batch],
    passes: list[Pass],
    sibling: Callable[[str], Features],
) -> Features:
    inputs = {k: torch.cat([b[k] for b in batches]) for k in keys}
    order, digest = _canonical(inputs)
    inputs = {k: v[order] for k, v in inputs.items()}
    outputs = torch.cat([p.prediction.outputs for p in passes])[order]
    recorded = {
        m: tuple(torch.cat(parts)[order] for parts in zip(*(p.recorded[m] for p in passes), strict=True))
        for m in adapter.modalities
    }
    label = adapter.config.data.label
    targets = inputs.pop(label) if adapter.task.has_labels else torch.zeros(len(outputs))
    return Features(
        split=split,
        modalities=adapter.modalities,
        inputs=inputs,
        recorded=recorded,
        pooled={m: torch.cat([p.pooled[m] for p in passes])[order] for m in adapter.modalities},
        fused=torch.cat([p.prediction.fused for p in passes])[order],
        outputs=outputs,
        targets=adapter.task.check(targets, outputs, split),
        digest=digest,
        sibling=sibling,
    )


def _canonical(inputs: Batch) -> tuple[Tensor, str]:
    """Order of the rows by content, and a digest of all of it. The sum over tensors makes names irrelevant."""
    n = len(next(iter(inputs.values())))
    totals = [0] * n
    for value in inputs.values():
        rows = value.reshape(n, -1).contiguous().view(torch.uint8).numpy() if value.numel() else None
        for i in range(n if rows is not None else 0):
            assert rows is not None
            totals[i] += int.from_bytes(hashlib.blake2b(rows[i].tobytes(), digest_size=8).digest(), "little")
    order = sorted(range(n), key=totals.__getitem__)
    digest = hashlib.sha256(b"".join(totals[i].to_bytes(16, "little") for i in order)).hexdigest()
    return torch.tensor(order), digest


def _to_cpu(result: Pass) -> Pass:
    from collapsekit.adapter.base import Prediction

    return Pass(
        {m: tuple(t.cpu() for t in r) for m, r in result.recorded.items()},
        {m: t.cpu() for m, t in result.pooled.items()},
        Prediction(result.prediction.fused.float().cpu(), result.prediction.outputs.float().cpu()),
    )


def _first_bad(value: Tensor) -> int | None:
    if not value.is_floating_point():
        return None
    bad = ~torch.isfinite(value).reshape(len(value), -1).all(1)
    return int(bad.nonzero()[0]) if bool(bad.any()) else None


def _finite_inputs(batch: Batch, split: str, start: int) -> None:
    for key, value in batch.items():
        row = _first_bad(value)
        if row is not None:
            raise DataError(
                f"{key!r} of example {start + row} in split {split!r} holds NaN or infinity: fill or drop such examples."
            )


def _finite_pass(result: Pass, split: str, start: int) -> None:
    named: Iterator[tuple[str, Tensor]] = iter(
        [
            *((f"the features of modality {m!r}", t) for m, t in result.pooled.items()),
            ("the fused representation", result.prediction.fused),
            ("the model's output", result.prediction.outputs),
        ]
    )
    for what, value in named:
        row = _first_bad(value)
        if row is not None:
            raise DataError(
                f"NaN or infinity first appears in {what}, at example {start + row} of split {split!r}, though the "
                "inputs are finite: check the weights and the modality's `scale`."
            )


def _close(a: Tensor, b: Tensor, tolerance: float = 1e-3) -> bool:
    size = float(a.abs().max()) + float(b.abs().max()) + 1e-12
    return a.shape == b.shape and float((a - b).abs().max()) <= tolerance * size


def _same_when_replayed(adapter: Adapter, batch: Batch, result: Pass, seed: int) -> None:
    """Replaying the recordings, rows reversed, must give the model's own outputs, rows reversed."""
    seed_everything(seed)
    flipped = {m: tuple(t.flip(0) for t in r) for m, r in result.recorded.items()}
    again = adapter.rerun(flipped, {k: v.flip(0) for k, v in batch.items()})
    if _close(again.outputs, result.prediction.outputs.flip(0)):
        return
    raise ConfigError(
        "the model's output cannot be reproduced from its encoders' recorded features: it reads something else "
        "between the encoders and the fusion, or is random in eval mode; make the encoders' outputs its only way in "
        "and its eval mode deterministic, or write a Python adapter."
    )


def _same_when_rebuilt(adapter: Adapter, batch: Batch, result: Pass, seed: int) -> None:
    """A second model, built under another seed and given the same checkpoint, must give the same outputs."""
    if adapter.checkpoint is None:
        return
    twin = adapter.fresh(seed + 1, trained=adapter.checkpoint)
    if twin is None:
        return
    seed_everything(seed)
    other = twin.run(batch)
    if _close(other.prediction.outputs, result.prediction.outputs):
        return
    hidden = hidden_tensors(adapter.model)
    where = f" ({', '.join(hidden)} hold some in plain lists or dicts)" if hidden else ""
    raise ConfigError(
        f"the checkpoint does not hold all of the model's weights: two builds with it loaded disagree{where}; "
        "register them (nn.Parameter, nn.ParameterList, nn.ModuleList) and save again."
    )
