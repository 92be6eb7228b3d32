"""Features: what one pass of the encoders over a split left behind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from collapsekit.adapter.base import Adapter, Pass, Prediction, Recorded
from collapsekit.adapter.build import disagreeing, random_states, seed_everything, unregistered
from collapsekit.errors import ConfigError, DataError, NothingEvaluatedError
from collapsekit.settings import Progress
from collapsekit.sources import Batch
from collapsekit.stats.jackknife import assign_groups, assign_units
from collapsekit.stats.threads import threads_for

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
    ids: Tensor  # of each example's inputs and target, a hash of 63 bits (n,)
    units: Tensor | None = None  # what each example belongs to (n,), where the config names it
    memo: dict[Hashable, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.outputs)

    @property
    def groups(self) -> Tensor:
        """Jackknife group of each example, (n,); examples of one unit are in one group."""
        if self.units is not None:
            units = self.units
            return self.once("groups", lambda: assign_units(units, GROUPS))
        return assign_groups(len(self), min(GROUPS, len(self)))

    @property
    def fifth(self) -> Tensor:
        """About a fifth of the examples (n,), bool, to be held out; examples of one unit are on one side."""
        return (torch.arange(len(self)) if self.units is None else self.groups) % 5 == 0

    @property
    def concatenated(self) -> bool:
        """Whether the fused representation is only the modalities' features side by side, in any order."""

        def make() -> bool:
            if self.fused.shape[1] != sum(x.shape[1] for x in self.pooled.values()):
                return False
            fused = {c.numpy().tobytes() for c in self.fused.T.contiguous()}
            return all(c.numpy().tobytes() in fused for x in self.pooled.values() for c in x.T.contiguous())

        return self.once("concatenated", make)

    def taken(self, rows: Tensor) -> Features:
        """Some examples, in the order of ``rows``, as Features of their own."""
        return replace(
            self,
            inputs={k: v[rows] for k, v in self.inputs.items()},
            recorded={m: tuple(t[rows] for t in r) for m, r in self.recorded.items()},
            pooled={m: x[rows] for m, x in self.pooled.items()},
            fused=self.fused[rows],
            outputs=self.outputs[rows],
            targets=self.targets[rows],
            ids=self.ids[rows],
            units=None if self.units is None else self.units[rows],
            memo={},
        )

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
    or rebuilding does not give the model's own outputs, NothingEvaluatedError for fewer than two examples.
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
    inputs = _read(adapter, split, limit, seed)
    group = adapter.config.data.group
    order, digest, ids = _canonical({k: v for k, v in inputs.items() if k != group or k in adapter.batch_keys})
    # Sorted before they are encoded: which rows share a batch does not depend on the file's order either.
    inputs = {k: v[order] for k, v in inputs.items()}
    n, size = len(order), adapter.config.data.batch_size
    if check and n < 2:
        raise NothingEvaluatedError(f"split {split!r} has {n} example: a diagnosis needs at least 2, better hundreds.")
    passes: list[Pass] = []
    weights = sum(p.numel() for p in adapter.model.parameters())
    for start in range(0, n, size):
        batch = {k: inputs[k][start : start + size] for k in adapter.batch_keys}
        with torch.no_grad(), threads_for(2.0 * size * weights):
            seed_everything(seed)
            before = random_states() if check and not passes else None
            result = adapter.run(batch)
            drawn = before is not None and before != random_states()
            _finite_pass(result, split, order[start : start + size])
            if check and not passes:
                _same_when_repeated(adapter, batch, result, seed, drawn)
                _same_when_replayed(adapter, batch, result, seed)
                _same_when_rebuilt(adapter, batch, result, seed)
        passes.append(_to_cpu(result))
        progress.step(f"encoders over {split}", min(start + size, n), n)
    features = _assemble(adapter, split, inputs, passes, (digest, ids), sibling)
    unvarying = adapter.task.unvarying(features.targets)
    if check and unvarying is not None:
        raise DataError(f"every label of split {split!r} is {unvarying}: a diagnosis needs labels that vary.")
    return features


def _read(adapter: Adapter, split: str, limit: int | None, seed: int) -> Batch:
    """Every example of the split as the data gives them, in its order, on the CPU."""
    config = adapter.config
    besides = [*([config.data.label] if adapter.task.has_labels else []), *filter(None, [config.data.group])]
    keys = list(dict.fromkeys([*adapter.batch_keys, *besides]))
    parts: dict[str, list[Tensor]] = {k: [] for k in keys}
    done = 0
    seed_everything(seed)  # a loader that shuffles draws its order from here
    for batch in adapter.source.batches(split, keys, config.data.batch_size, limit, seed):
        _finite_inputs(batch, split, done)
        for key in keys:
            parts[key].append(batch[key].detach().cpu())
        done += len(batch[keys[0]])
    if not done:
        raise NothingEvaluatedError(f"split {split!r} is empty: there is nothing to evaluate.")
    for key, tensors in parts.items():
        shapes = list(dict.fromkeys(tuple(t.shape[1:]) for t in tensors))
        if len(shapes) > 1:
            raise DataError(
                f"examples of {key!r} in split {split!r} have shape {shapes[0]} in one batch and {shapes[1]} in another: "
                "pad all examples to one shape, and name the padding mask with `mask` or `data.also`."
            )
    return {k: torch.cat(t) for k, t in parts.items()}


def _assemble(
    adapter: Adapter,
    split: str,
    inputs: Batch,
    passes: list[Pass],
    content: tuple[str, Tensor],
    sibling: Callable[[str], Features],
) -> Features:
    outputs = torch.cat([p.prediction.outputs for p in passes])
    targets = inputs[adapter.config.data.label] if adapter.task.has_labels else torch.zeros(len(outputs))
    recorded = {m: list(zip(*(p.recorded[m] for p in passes), strict=True)) for m in adapter.modalities}
    for m, parts in recorded.items():
        for tensors in parts:
            shapes = list(dict.fromkeys(tuple(t.shape[1:]) for t in tensors))
            if len(shapes) > 1:
                raise ConfigError(
                    f"features of modality {m!r} have shape {shapes[0]} in one batch and {shapes[1]} in another: the "
                    "encoder's output must not depend on what else is in the batch; pad to one shape."
                )
    return Features(
        split=split,
        modalities=adapter.modalities,
        inputs={k: inputs[k] for k in adapter.batch_keys},
        recorded={m: tuple(torch.cat(tensors) for tensors in parts) for m, parts in recorded.items()},
        pooled={m: torch.cat([p.pooled[m] for p in passes]) for m in adapter.modalities},
        fused=torch.cat([p.prediction.fused for p in passes]),
        outputs=outputs,
        targets=adapter.task.check(targets, outputs, split),
        digest=content[0],
        ids=content[1],
        sibling=sibling,
        units=_units(inputs, adapter.config.data.group, split),
    )


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


def _canonical(inputs: Batch) -> tuple[Tensor, str, Tensor]:
    """Order of the rows by content, a digest of all of it, and a hash of each row, in that order.

    The sum over tensors makes names irrelevant; names only decide between rows that hold the same values under
    different ones.
    """
    n = len(next(iter(inputs.values())))
    totals, named = [0] * n, [b""] * n
    for key in sorted(inputs):
        value = inputs[key]
        if not value.numel():
            continue
        rows = value.reshape(n, -1).contiguous().view(torch.uint8).numpy()
        for i in range(n):
            part = hashlib.blake2b(rows[i].tobytes(), digest_size=8).digest()
            totals[i] += int.from_bytes(part, "little")
            named[i] += part
    order = sorted(range(n), key=lambda i: (totals[i], named[i]))
    sums = [totals[i].to_bytes(16, "little") for i in order]
    ids = [int.from_bytes(hashlib.sha256(s).digest()[:8], "little") >> 1 for s in sums]
    return torch.tensor(order), hashlib.sha256(b"".join(sums)).hexdigest(), torch.tensor(ids)


def _to_cpu(result: Pass) -> Pass:
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


def _finite_pass(result: Pass, split: str, examples: Tensor) -> None:
    named = [
        *((f"the features of modality {m!r}", t) for m, t in result.pooled.items()),
        ("the fused representation", result.prediction.fused),
        ("the model's output", result.prediction.outputs),
    ]
    for what, value in named:
        row = _first_bad(value)
        if row is not None:
            raise DataError(
                f"NaN or infinity first appears in {what}, at example {int(examples[row])} of split {split!r}, though "
                "the inputs are finite: check the weights and the modality's `scale`."
            )


def _close(a: Tensor, b: Tensor, tolerance: float = 1e-3) -> bool:
    if a.shape != b.shape:
        return False
    size = float(a.abs().max()) + float(b.abs().max()) + 1e-12
    return float((a - b).abs().max()) <= tolerance * size


def _same_when_repeated(adapter: Adapter, batch: Batch, result: Pass, seed: int, drawn: bool) -> None:
    """A model that drew random numbers must answer the same under another seed; others are not run again."""
    if not drawn:
        return
    seed_everything(seed + 1)
    again = adapter.run(batch)
    same = [_close(again.pooled[m], x) for m, x in result.pooled.items()]
    if not all([*same, _close(again.prediction.outputs, result.prediction.outputs)]):
        raise ConfigError(
            "the model is random in eval mode: two seeds give two answers for the same examples; make its eval mode "
            "deterministic (dropout only where self.training, a fixed seed or the mean instead of a sample)."
        )


def _same_when_replayed(adapter: Adapter, batch: Batch, result: Pass, seed: int) -> None:
    """Replaying the recordings, rows reversed, must give the model's own outputs, rows reversed."""
    seed_everything(seed)
    flipped = {m: tuple(t.flip(0) for t in r) for m, r in result.recorded.items()}
    again = adapter.rerun(flipped, {k: v.flip(0) for k, v in batch.items()})
    if _close(again.outputs, result.prediction.outputs.flip(0)) and _close(
        again.fused, result.prediction.fused.flip(0)
    ):
        return
    raise ConfigError(
        "the model's output cannot be reproduced from its encoders' recorded features: it reads something else "
        "that an encoder leaves behind, or an example's output depends on its place in the batch; make the encoders' "
        "outputs its only way in, or write a Python adapter."
    )


def _same_when_rebuilt(adapter: Adapter, batch: Batch, result: Pass, seed: int) -> None:
    """A second model, built under another seed and given the same checkpoint, must give the same outputs."""
    if adapter.checkpoint is None:
        return
    twin = adapter.fresh(seed + 1, trained=adapter.checkpoint)
    if twin is None:
        return
    theirs = unregistered(twin.model)
    seed_everything(seed)
    other = twin.run(batch)
    if _close(other.prediction.outputs, result.prediction.outputs):
        return
    hidden = disagreeing(unregistered(adapter.model), theirs)
    where = f" ({', '.join(hidden)} differ and are not in its state_dict)" if hidden else ""
    raise ConfigError(
        f"the checkpoint does not hold all of the model's weights: two builds with it loaded disagree{where}; "
        "register them (nn.Parameter, nn.ModuleList, register_buffer) and save again."
    )
