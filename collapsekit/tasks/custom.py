"""CustomLoss: a loss that the user wrote as a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor

from collapsekit.errors import ConfigError
from collapsekit.tasks.base import Task
from collapsekit.user_code.frames import one_line
from collapsekit.user_code.process_state import user_code


class CustomLoss(Task):
    """The user's ``module:callable``: ``(outputs, targets) -> loss of each example (n,)``; metric is minus its mean."""

    def __init__(self, spec: str, call: Callable[[Tensor, Tensor], Any]) -> None:
        self.name, self.loss_name, self.metric_name, self._call = spec, spec, "negative loss", call

    def expect(self, outputs: Tensor) -> Tensor:
        return outputs.double()

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        value = self._guarded(expected, targets)
        if not isinstance(value, Tensor) or value.shape != (len(expected),):
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(
                f"task {self.name!r} returned {found} for {len(expected)} examples: "
                "return one loss an example, shape (n,), as reduction='none' gives."
            )
        if not bool(value.isfinite().all()):
            odd = int((~value.isfinite()).sum())
            raise ConfigError(
                f"task {self.name!r} returned NaN or an infinite number for {odd} of {len(expected)} examples, expected "
                "finite losses: leave out what has none, or clamp it."
            )
        return value.double()

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        return -float(self.loss(expected, targets).mean())

    def metric_parts(self, expected: Tensor, targets: Tensor) -> Tensor | None:
        return -self.loss(expected, targets)

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cast(Tensor, self._guarded(outputs, targets)).mean()

    def _guarded(self, outputs: Tensor, targets: Tensor) -> Any:
        try:
            with user_code(f"task {self.name!r}"):
                return self._call(outputs, targets)
        except Exception as e:
            given = f"outputs {tuple(outputs.shape)} {outputs.dtype}, targets {tuple(targets.shape)} {targets.dtype}"
            raise ConfigError(f"task {self.name!r} failed, called with ({given}): {one_line(e)}.") from e
