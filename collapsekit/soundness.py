"""What has to hold of a model before its numbers mean anything: finite, the same when repeated, replayed and rebuilt."""

from __future__ import annotations

import torch
from torch import Tensor

from collapsekit.adapter.base import Adapter, Pass
from collapsekit.adapter.build import disagreeing, random_states, seed_everything, unregistered
from collapsekit.errors import ConfigError, DataError
from collapsekit.sources import Batch


def _first_bad(value: Tensor) -> int | None:
    if not value.is_floating_point():
        return None
    bad = ~torch.isfinite(value).reshape(len(value), -1).all(1)
    return int(bad.nonzero()[0]) if bool(bad.any()) else None


def finite_inputs(batch: Batch, split: str, start: int) -> None:
    """Raises DataError where an input holds NaN or infinity; ``start``: number of the first example."""
    for key, value in batch.items():
        row = _first_bad(value)
        if row is not None:
            raise DataError(
                f"{key!r} of example {start + row} in split {split!r} holds NaN or infinity: fill or drop such examples."
            )


def finite_pass(result: Pass, split: str, examples: Tensor) -> None:
    """Raises DataError where features, fusion or outputs do; ``examples``: numbers of the examples."""
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


def sound_run(adapter: Adapter, batch: Batch, split: str, examples: Tensor, seed: int) -> Pass:
    """A pass over the first batch, of so numbered ``examples``.

    Raises DataError where it is not finite; ConfigError unless the model answers the same under another seed, from its
    encoders' recordings, and built anew from the same checkpoint.
    """
    seed_everything(seed)
    before = random_states()
    result = adapter.run(batch)
    drawn = before != random_states()
    finite_pass(result, split, examples)
    _same_when_repeated(adapter, batch, result, seed, drawn)
    _same_when_replayed(adapter, batch, result, seed)
    _same_when_rebuilt(adapter, batch, result, seed)
    return result


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
