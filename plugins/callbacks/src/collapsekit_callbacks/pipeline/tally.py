"""What the inputs of a modality were like over many steps, kept on their device and read when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class InputFacts:
    """What was seen of one modality's inputs.

    ``same``: every example equalled the first; ``repeated``: steps whose whole batch equalled that of the step before;
    ``blank``: share of examples that hold one single value; ``low``, ``high``: range; ``mean``, ``spread``: of all
    numbers; ``finite``: whether all were; ``top``: share of numbers that equal the highest.
    """

    examples: int
    steps: int
    missing: int
    same: bool
    repeated: int
    blank: float
    low: float
    high: float
    mean: float
    spread: float
    finite: bool
    top: float
    floating: bool


class InputTally:
    """Sums over the steps."""

    def __init__(self) -> None:
        self.examples = self.steps = self.missing = 0
        self.floating = False
        self._first: Tensor | None = None
        self._before: Tensor | None = None
        self._sums: Tensor | None = None  # differs, repeated, blank, numbers, sum, squares, top, not finite
        self._low: Tensor | None = None
        self._high: Tensor | None = None

    def add(self, parts: list[Tensor]) -> None:
        """Count one step's tensors of the modality; none: it was missing."""
        if not parts or any(t.numel() == 0 for t in parts):
            self.missing += 1
            return
        self.steps += 1
        x = parts[0] if len(parts) == 1 else _joined(parts)
        self.floating = self.floating or x.is_floating_point()
        x = x.detach()
        rows = x.reshape(len(x), -1) if x.dim() else x.reshape(1, 1)
        self.examples += len(rows)
        values = rows.to(torch.float32) if not rows.is_floating_point() else rows
        low, high = values.amin(1), values.amax(1)
        finite = values.nan_to_num(0.0, 0.0, 0.0)
        top = high.max()
        found = torch.stack(
            [
                self._differs(rows),
                self._repeats(rows),
                (low == high).sum(dtype=torch.float64),
                torch.tensor(float(rows.numel()), dtype=torch.float64, device=rows.device),
                finite.sum(dtype=torch.float64),
                finite.double().square().sum(),
                (values == top).sum(dtype=torch.float64),
                (finite != values).sum(dtype=torch.float64),
            ]
        )
        self._sums = found if self._sums is None else self._sums + found
        self._low = low.min() if self._low is None else torch.minimum(self._low, low.min())
        self._high = top if self._high is None else torch.maximum(self._high, top)
        self._before = rows

    def _differs(self, rows: Tensor) -> Tensor:
        """How many rows are not the first that was seen."""
        if self._first is None:
            self._first = rows[0].clone()
        if self._first.shape != rows[0].shape:
            return torch.ones((), dtype=torch.float64, device=rows.device)
        return (rows != self._first).any(1).sum(dtype=torch.float64)

    def _repeats(self, rows: Tensor) -> Tensor:
        if self._before is None or self._before.shape != rows.shape:
            return torch.zeros((), dtype=torch.float64, device=rows.device)
        return (rows == self._before).all().double()

    def facts(self) -> InputFacts | None:
        """What was seen; None where nothing was."""
        if self._sums is None or self._low is None or self._high is None:
            return None
        differ, repeated, blank, numbers, total, squares, top, odd = self._sums.tolist()
        mean = total / numbers
        return InputFacts(
            self.examples,
            self.steps,
            self.missing,
            differ == 0 and odd == 0,
            int(repeated),
            blank / max(1, self.examples),
            float(self._low),
            float(self._high),
            mean,
            max(0.0, squares / numbers - mean**2) ** 0.5,
            odd == 0,
            top / numbers,
            self.floating,
        )


def _joined(parts: list[Tensor]) -> Tensor:
    lengths = {len(t) if t.dim() else 1 for t in parts}
    if len(lengths) > 1:
        return torch.cat([t.reshape(-1).float() for t in parts]).reshape(1, -1)
    return torch.cat([t.reshape(len(t) if t.dim() else 1, -1).float() for t in parts], 1)
