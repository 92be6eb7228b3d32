"""A plugin's task under guard: an error of its code is a sentence that names the task and the method."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, wraps
from numbers import Real
from pathlib import Path
from typing import Any

from torch import Tensor

from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.stats.inference.bounds import Bounds
from collapsekit.tasks.base import Task
from collapsekit.user_code.frames import one_line
from collapsekit.user_code.process_state import user_code

_METHODS = [n for n in dir(Task) if callable(getattr(Task, n)) and not n.startswith("_") and n != "has_prior"]


@cache
def guard_methods(kind: type[Any]) -> type[Any]:
    """Give a subclass of ``kind`` whose own methods raise ConfigError for an error that is none of ours.

    What Task itself has, and tasks of collapsekit, stay as they are.
    """
    if kind.__module__.startswith("collapsekit."):
        return kind
    changed = [n for n in _METHODS if n == "create" or _function(kind, n) is not _function(Task, n)]
    guards = {n: _guard(kind.name, n, _function(kind, n)) for n in changed}
    return type(
        kind.__name__, (kind,), {**guards, "create": classmethod(guards["create"]), "__module__": kind.__module__}
    )


def _function(kind: type[Any], method: str) -> Callable[..., Any]:
    bound = getattr(kind, method)
    function: Callable[..., Any] = getattr(bound, "__func__", bound)
    return function


def _guard(task: str, method: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            with user_code(f"task {task!r}"):
                answer = function(*args, **kwargs)
                fault = _CHECKS[method](answer, *args) if method in _CHECKS else ""
        except CollapsekitError:
            raise
        except Exception as e:
            raise ConfigError(f"task {task!r} failed in `{method}`: {one_line(e)}.") from e
        if fault:
            place = _place_of(function)
            raise ConfigError(f"task {task!r}{f' ({place})' if place else ''} {fault}")
        return answer

    return call


def _place_of(function: Callable[..., Any]) -> str:
    """Where the method begins, as FILE:LINE; nothing where it has no text."""
    code = getattr(function, "__code__", None)
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}" if code is not None else ""


def _check_names(answer: Any, *_: Any) -> str:
    lacks = next((n for n in ("loss_name", "metric_name") if not isinstance(getattr(answer, n, None), str)), "")
    return (
        lacks and f"has no `{lacks}`: set it in the class, to what its {lacks.partition('_')[0]} is called in a report."
    )


def _check_losses(answer: Any, task: Task, expected: Tensor, *_: Any) -> str:
    if not isinstance(answer, Tensor) or answer.shape != expected.shape[:1]:
        found = f"a tensor {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        return f"gave {found} as `loss` of {len(expected)} examples, expected ({len(expected)},), one number each."
    ends = [float(x) for x in answer.detach().aminmax()] if len(answer) else []
    return _check_bounds("loss", ends, task.loss_bounds)


def _check_metric(answer: Any, task: Task, *_: Any) -> str:
    if not isinstance(answer, Real):
        return f"gave a {type(answer).__name__} as `metric`, expected a float: write float(...) around it."
    return _check_bounds("metric", [float(answer)], task.metric_bounds)


def _check_bounds(method: str, values: list[float], bounds: Bounds) -> str:
    """What a report could not be read back with; rounding apart."""
    if not all(map(math.isfinite, values)):
        return _not_finite(method)
    odd = next((v for v in values if v < bounds.low - _ROUNDING or v > bounds.high + _ROUNDING), None)
    if odd is None:
        return ""
    return f"gave {odd:g} in `{method}`, but its {method}_bounds are {bounds.low:g} to {bounds.high:g}: mend either of them."


def _check_prior(answer: Any, _: Task, targets: Tensor, width: int, *__: Any) -> str:
    if not isinstance(answer, Tensor) or answer.shape != (1, width):
        found = f"a tensor {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        return f"gave {found} as `prior` of {len(targets)} examples, expected (1, {width}), one constant expectation."
    return "" if bool(answer.isfinite().all()) else _not_finite("prior")


def _check_expected(answer: Any, _: Task, outputs: Tensor, *__: Any) -> str:
    if not isinstance(answer, Tensor) or answer.shape[:1] != outputs.shape[:1]:
        found = f"a tensor {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        return f"gave {found} as `expect` of {len(outputs)} examples, expected a tensor with as many rows."
    return "" if bool(answer.isfinite().all()) or not bool(outputs.isfinite().all()) else _not_finite("expect")


def _check_training_loss(answer: Any, *_: Any) -> str:
    if not isinstance(answer, Tensor) or answer.numel() != 1:
        found = f"a tensor {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        return f"gave {found} as `training_loss`, expected one number with gradient: the mean over the batch."
    return ""  # training itself goes back from a loss that is not finite


def _check_readout(answer: Any, *_: Any) -> str:
    parts = [getattr(answer, part, None) for part in ("weight", "bias")]
    fine = all(bool(part.isfinite().all()) for part in parts if isinstance(part, Tensor))
    return "" if fine else _not_finite("fit_linear")


def _not_finite(method: str) -> str:
    return f"gave NaN or an infinite number in `{method}`, expected finite ones: leave out what has none, or clamp it."


_ROUNDING = 1e-6
_CHECKS: dict[str, Callable[..., str]] = {
    "create": _check_names,
    "loss": _check_losses,
    "metric": _check_metric,
    "prior": _check_prior,
    "expect": _check_expected,
    "training_loss": _check_training_loss,
    "fit_linear": _check_readout,
}
