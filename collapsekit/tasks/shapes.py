"""Which shapes of a model's output a task can read, and the likely task of one that it cannot."""

from __future__ import annotations

from torch import Tensor

from collapsekit.errors import ConfigError

CUSTOM = "score it with a task of your own (`task: module:function`, one loss an example)"


def squeezed(values: Tensor) -> Tensor:
    """Drop axes of size 1 of values (n, ...), the examples' axis aside."""
    return values.squeeze([axis for axis in range(1, values.ndim) if values.shape[axis] == 1])


def to_columns(outputs: Tensor, task: str) -> Tensor:
    """Lay a model's outputs out as one row an example, (n, C): of (n,), (n, C), and either with axes of size 1.

    Args:
        outputs: the model's.
        task: that reads them, for the message.

    Returns:
        (n, C); C is 1 where an example has one number.

    Raises:
        ConfigError: for any other shape.
    """
    flat = squeezed(outputs)
    if flat.ndim > 2:
        raise ConfigError(refusal(outputs, task))
    return flat if flat.ndim == 2 else flat[:, None]


def refusal(outputs: Tensor, task: str, targets: Tensor | None = None) -> str:
    """Say that a task cannot read outputs of this shape, and which task likely can.

    Args:
        outputs: the model's, (n, ...).
        task: that was to read them.
        targets: the labels (n, ...), where they are at hand.

    Returns:
        One sentence.
    """
    found = f"the model's output has shape {tuple(outputs.shape)}"
    if targets is not None:
        found += f", its labels {tuple(targets.shape)}"
    return f"{found}: task {task!r} reads one row of numbers an example, (n, C); {_likely(outputs, targets)}."


def _likely(outputs: Tensor, targets: Tensor | None) -> str:
    other = "or name the part that is the answer with `output`"
    if targets is None:
        return f"{CUSTOM}, {other}"
    answers, labels = squeezed(outputs).shape[1:], squeezed(targets).shape[1:]
    if targets.is_floating_point() and answers == labels:
        return "it looks like a value for each label: set `task: regression`"
    if len(answers) > 1 and labels and labels in (answers[:-1], answers[1:]):
        count = " × ".join(map(str, labels))
        if len(labels) == 1 and labels == answers[:-1]:
            return (
                f"it looks like a token for each of {count} positions: set `task: tokens`, or `task: dense` for classes"
            )
        channels = "" if labels == answers[1:] else ", `task_options: {channels: last}`"
        return f"it looks like one answer for each of {count} positions: set `task: dense`{channels}"
    if labels == answers:
        return f"it looks like one answer for each label: {CUSTOM}"
    return f"it looks like several answers an example: pool them in the model, {other}, or {CUSTOM}"
