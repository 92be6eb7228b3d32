"""The prediction in whatever a model returns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from collapsekit.adapters.hooks import select_part
from collapsekit.errors import ConfigError
from collapsekit.tasks.base import Task

ONE_BY_ONE = "`model: {one_by_one: true}`, and each example is run by itself"


def prediction_in(output: Any, wanted: str | int | Sequence[str | int] | None, task: Task, rows: int) -> Tensor:
    """Find the prediction in whatever a model returns.

    Args:
        output: what the model returned.
        wanted: the config's ``output``: parts by name or number, put side by side; None: the usual place.
        task: how many parts make an output where none is wanted.
        rows: the number of examples, n.

    Returns:
        The prediction (n, ...).

    Raises:
        ConfigError: where it is not there.
    """
    if wanted is not None:
        found = _chosen(output, wanted, task)
    else:
        picked = task.pick(output, rows)
        found = _in_usual_place(output, task) if picked is None else picked
    while isinstance(found, tuple | list) and found:
        found = found[0]
    if isinstance(found, Tensor) and found.ndim == 0 and rows == 1:
        return found[None]
    if isinstance(found, Tensor) and found.ndim == 0:
        raise ConfigError(
            f"the model returns one number for {rows} examples: name its prediction with `output`; where it is the loss of "
            f"a batch, set `task: own_loss` and {ONE_BY_ONE}."
        )
    if not isinstance(found, Tensor) or found.ndim == 0 or len(found) != rows:
        what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(f"the model returns {what} for {rows} examples: name its prediction with `output`.")
    return found


def shapes_in(output: Any, rows: int) -> tuple[tuple[int, ...], ...]:
    """List the shapes (n, ...) of the tensors in a tuple that a model returned for ``rows`` examples; () of anything else.
    What goes by no examples has the shape ()."""
    if not isinstance(output, tuple | list):
        return ()
    there = [p for p in output if isinstance(p, Tensor) and p.ndim and len(p) == rows and p.is_floating_point()]
    return tuple(tuple(p.shape) if any(p is t for t in there) else () for p in output)


def need_first_fits(returned: Sequence[tuple[int, ...]], classes: int) -> None:
    """Check that the first part of a tuple, where the prediction is looked for, is not the wrong one by its shape.

    Args:
        returned: shapes of the parts (``shapes_in``).
        classes: how many labels tell apart.

    Raises:
        ConfigError: where another part alone has a number for each class.
    """

    def fits(shape: tuple[int, ...]) -> bool:
        width = math.prod(shape[1:])
        return bool(shape) and (width == classes or (classes == 2 and width == 1))

    fitting = [place for place, shape in enumerate(returned) if fits(shape)]
    if len(fitting) == 1 and fitting != [0]:
        raise ConfigError(
            f"the model returns {len(returned)} parts, the first of shape {returned[0]}, and labels of {classes} classes "
            f"fit part {fitting[0]} alone, of shape {returned[fitting[0]]}: write `output: {fitting[0]}`, or, where the "
            "first is meant, `output: 0`."
        )


def _chosen(output: Any, wanted: str | int | Sequence[str | int], task: Task) -> Any:
    parts = [wanted] if isinstance(wanted, str | int) else list(wanted)
    if isinstance(output, Tensor):
        raise ConfigError(f"`output` names {wanted!r}, but the model returns one tensor: remove `output`.")
    taken = [select_part(output, p, "the model's output") for p in parts]
    if len(taken) == 1 or not all(isinstance(t, Tensor) for t in taken):
        return taken
    joined = task.join(taken)
    return _side_by_side(taken, task) if joined is None else joined


def _in_usual_place(output: Any, task: Task) -> Any:
    if isinstance(output, tuple | list) and len(output) >= task.embeddings > 1:
        return _side_by_side(list(output[: task.embeddings]), task)
    if isinstance(output, Mapping) or hasattr(output, "logits"):
        if not hasattr(output, "logits") and "logits" not in output:
            raise ConfigError(
                f"the model returns parts {', '.join(map(str, output))}, none called 'logits': name the prediction "
                "among them with `output`."
            )
        return select_part(output, "logits", "the model's output")
    return output


def _side_by_side(parts: list[Any], task: Task) -> Tensor:
    """Parts as one tensor. Raises ConfigError where they cannot be, or a task would tell them apart at the wrong place."""
    if all(isinstance(part, Tensor) and part.ndim for part in parts):
        shapes = [part.shape if len(parts) == task.embeddings > 1 else part.shape[:-1] for part in parts]
        if len(set(shapes)) == 1:
            return torch.cat(parts, -1)
    found = ", ".join(str(tuple(p.shape)) if isinstance(p, Tensor) else type(p).__name__ for p in parts)
    alike = "of one shape" if task.embeddings > 1 else "alike but in their last axis"
    raise ConfigError(
        f"the parts of the model's output have shapes {found}: task {task.name!r} puts them side by side, so they have to "
        f"be {alike}; name others with `output`."
    )
