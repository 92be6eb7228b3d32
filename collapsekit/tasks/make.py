"""The task that a config names."""

from __future__ import annotations

from pathlib import Path

from collapsekit.config.imports import import_object
from collapsekit.errors import ConfigError
from collapsekit.registry import TASKS, get_task, task_names
from collapsekit.tasks.base import Task, need_one_metric
from collapsekit.tasks.custom import CustomLoss
from collapsekit.tasks.guard import guard_methods


def make_task(name: str, *, metric: str | None, temperature: float, base: Path) -> Task:
    """Make the task that is registered as ``name``, or the user's ``module:callable`` loss.

    Args:
        name: the config's ``task``.
        metric: the config's ``metric``; None: the task's first.
        temperature: for tasks that compare embeddings.
        base: the folder in which the user's module is looked for.

    Returns:
        The task; a plugin's one raises ConfigError for an error in its code.

    Raises:
        ConfigError: where there is none of that name, or it cannot be made.
    """
    if ":" in name:
        need_one_metric(metric, name)
        call = import_object(name, base, "task")
        if not callable(call):
            found = type(call).__name__
            raise ConfigError(f"task {name!r} is {found}, expected a function (outputs, targets) -> losses.")
        return CustomLoss(name, call)
    kind = get_task(name).kind
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise ConfigError(f"task {name!r} is {kind!r}, expected a subclass of {Task.__module__}.Task.")
    task: Task = guard_methods(kind).create(metric=metric, temperature=temperature)
    return task


def tasks_with_prior() -> list[str]:
    """List the names of the tasks that say what the best constant answer is."""
    kinds = {name: TASKS[name].kind for name in task_names()}
    return [name for name, kind in kinds.items() if issubclass(kind, Task) and kind.has_prior()]
