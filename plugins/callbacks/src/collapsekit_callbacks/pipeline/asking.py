"""What a model answers to a batch as it is and with each modality taken from other examples, and nothing left behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.ext import seed_everything
from collapsekit_callbacks.pipeline.calls import Call, WatchedModality
from collapsekit_callbacks.pipeline.tracing import Effect, Trace, compare_traces, follow
from collapsekit_callbacks.undisturbed import undisturbed

Loss = Callable[[Any, Any], Tensor]
ROWS = 32  # examples of a batch that are asked of
SEEDS = 16  # dropped by chance is told from dropped always by that many draws
NUMBERS = 1 << 20  # of answers that are compared at a time
BESIDE = ("past", "hidden", "attention", "loss", "cache")  # parts of an output that are no answers


@dataclass(frozen=True)
class Asked:
    """What came of it.

    ``loss``: as it is, None where there is none; ``without``: the same by modality; ``moved``: root mean square by which
    the answers moved in training mode; ``in_eval``: in eval mode, of those that moved nothing; ``effects``: inside of the
    model, where it was traced; ``skipped``: why a modality was not exchanged.
    """

    loss: float | None
    without: Mapping[str, float]
    moved: Mapping[str, float]
    in_eval: Mapping[str, float]
    effects: Mapping[str, Effect]
    skipped: Mapping[str, str]


class Asking:
    """The passes of one look. ``seed``: of what the model draws in them, the same in each; ``traced``: whether to follow
    changes through the model, which costs a small model as much again."""

    def __init__(self, model: nn.Module, call: Call, before: Call | None, seed: int, *, traced: bool) -> None:
        size = call.size()
        self.model, self.seed, self.traced = model, seed, traced
        self.call = call.first(min(ROWS, size), size)
        self.rows = self.call.size()
        self.before = before.first(self.rows, before.size()) if before is not None else None
        self.skipped: dict[str, str] = {}

    def ask(self, modalities: Sequence[WatchedModality], loss: Loss | None, label: Any, size: int) -> Asked:
        """Run the model as it is and with each modality exchanged.

        Args:
            modalities: Which.
            loss: Of the model's output and the label; None: the loss that the output brings.
            label: The batch's label.
            size: How many examples the label is of.

        Returns:
            What came of it.
        """
        if isinstance(label, Tensor) and label.dim() and len(label) == size:
            label = label[: self.rows]
        calls = {m.name: c for m in modalities if (c := self._exchanged(m)) is not None}
        moved, lost, traces = dict[str, float](), dict[str, float | None](), dict[str, Trace]()
        with undisturbed(self.model, training=True):
            output, trace = self._run(self.call, 0, describe=True)
            whole, plain = loss_of(output, loss, label), _answers(output)
            for m, call in calls.items():
                found = self._try(m, call)
                if found is not None:
                    output, traces[m] = found
                    moved[m], lost[m] = measure_move(plain, _answers(output)), loss_of(output, loss, label)
        for m in [m for m, by in moved.items() if by == 0]:
            moved[m] = self._draw_again(calls[m])
        in_eval = {m: self._in_eval(calls[m]) for m, by in moved.items() if by == 0}
        without = {m: value for m, value in lost.items() if value is not None}
        effects = compare_traces(trace, traces) if self.traced else {}
        return Asked(whole, without, moved, in_eval, effects, self.skipped)

    def _exchanged(self, modality: WatchedModality) -> Call | None:
        found = self.call.exchanged(modality, self.rows, self.before)
        if found is None:
            self.skipped[modality.name] = "it is missing, or there is nothing else in the batch to exchange it for"
        return found

    def _run(self, call: Call, draw: int, *, describe: bool = False) -> tuple[Any, Trace]:
        seed_everything(self.seed * SEEDS + draw)
        if not self.traced:
            return call.run(self.model), Trace()
        with follow(self.model, self.rows, describe=describe) as trace:
            output = call.run(self.model)
        return output, trace

    def _try(self, modality: str, call: Call) -> tuple[Any, Trace] | None:
        try:
            return self._run(call, 0)
        except Exception as e:  # noqa: BLE001  # the user's own, of examples whose parts have to match
            self.skipped[modality] = f"the model fails on exchanged examples: {type(e).__name__}"
            return None

    def _draw_again(self, call: Call) -> float:
        """Other draws where an exchange moved nothing: the modality may have been dropped by chance."""
        for draw in range(1, SEEDS):
            with undisturbed(self.model, training=True):
                moved = self._move(call, draw)
            if moved:
                return moved
        return 0.0

    def _in_eval(self, call: Call) -> float:
        with undisturbed(self.model):
            return self._move(call, 0)

    def _move(self, call: Call, draw: int) -> float:
        plain = _answers(self._run(self.call, draw)[0])
        return measure_move(plain, _answers(self._run(call, draw)[0]))


def loss_of(output: Any, loss: Loss | None, label: Any) -> float | None:
    """The loss of an output.

    Args:
        output: What the model returned.
        loss: Of the output and the label; None: the loss that the output brings.
        label: The batch's label.

    Returns:
        The loss; None where there is none, or it is not finite.
    """
    found = loss(output, label) if loss is not None else _named(output, "loss")
    value = float(found.detach().mean()) if isinstance(found, Tensor) else math.nan
    return value if math.isfinite(value) else None


def measure_move(plain: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Measure how far answers moved.

    Args:
        plain: Answers, first axis the example.
        other: The same of another pass.

    Returns:
        The root mean square; 0 where they are the same to the last digit, inf where their shapes differ.
    """
    total, numbers = 0.0, 0
    for a, b in zip(plain, other, strict=False):
        if a.shape != b.shape:
            return math.inf
        # Some examples at a time, as a copy of all tokens' scores may not fit beside them.
        each = max(1, NUMBERS * len(a) // max(1, a.numel())) if a.dim() else 1
        squares = [
            _square(one, two) for one, two in zip(*((t.split(each) if t.dim() else [t]) for t in (a, b)), strict=True)
        ]
        total += float(torch.stack(squares).sum()) if squares else 0.0
        numbers += a.numel()
    return math.sqrt(total / max(1, numbers))


def _square(one: Tensor, two: Tensor) -> Tensor:
    difference = one.float() - two.float()
    return difference.nan_to_num(0.0, 0.0, 0.0).square().sum(dtype=torch.float64)


def _answers(output: Any) -> list[Tensor]:
    """The floating tensors of an output that are answers: its logits where it names them, else all but caches and hidden
    states."""
    logits = _named(output, "logits")
    if isinstance(logits, Tensor):
        return [logits.detach()]
    if isinstance(output, Tensor):
        return [output.detach()] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        parts = [v for k, v in output.items() if not any(word in str(k) for word in BESIDE)]
    elif isinstance(output, list | tuple):
        parts = list(output)
    else:
        parts = (
            [v for k, v in vars(output).items() if not any(word in k for word in BESIDE)]
            if hasattr(output, "__dict__")
            else []
        )
    return [t for part in parts for t in _answers(part)]


def _named(output: Any, name: str) -> Any:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
