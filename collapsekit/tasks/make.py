"""The task that a config names."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import cache
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from torch import Tensor

from collapsekit.config.imports import import_object
from collapsekit.config.schema import Config
from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.registry import TASKS, get_task, task_names
from collapsekit.tasks.base import Task, need_one_metric
from collapsekit.tasks.custom import CustomLoss
from collapsekit.tasks.guard import guard_methods

GENERAL = ("metric", "temperature")  # what every task is made of; other keyword arguments of `create` are its options


def task_of(config: Config) -> Task:
    """Make the task of a config. Raises ConfigError where there is none of that name, or it cannot be made."""
    general = {"metric": config.metric, "temperature": config.temperature}
    return make_task(config.task, **general, base=config.base, options=config.task_options)  # type: ignore[arg-type]


def further_tasks(task: Task, config: Config) -> list[Task]:
    """Make the task with each further metric that a config names, as it reads and has learned all else.

    Args:
        task: of this config, as it is now.
        config: whose ``metrics``.

    Returns:
        Copies of the task, in their order.

    Raises:
        ConfigError: for a metric that the task does not have.
    """
    plain, made = vars(task_of(config)), []
    for name in config.metrics:
        other = vars(task_of(config.model_copy(update={"metric": name})))
        twin = copy(task)
        vars(twin).update({k: v for k, v in other.items() if not _alike(plain.get(k), v)})  # what the metric decides
        made.append(twin)
    return made


def _alike(one: Any, other: Any) -> bool:
    return one is other or (not isinstance(one, Tensor) and not isinstance(other, Tensor) and bool(one == other))


def make_task(
    name: str, *, metric: str | None, temperature: float, base: Path, options: Mapping[str, Any] | None = None
) -> Task:
    """Make the task that is registered as ``name``, or the user's own: ``module:Class``, or a loss, ``module:function``.

    Args:
        name: the config's ``task``.
        metric: the config's ``metric``; None: the task's first.
        temperature: for tasks that compare embeddings.
        base: the folder in which the user's module is looked for.
        options: the config's ``task_options``: further arguments of the task's ``create``; None: none.

    Returns:
        The task; a plugin's one raises ConfigError for an error in its code.

    Raises:
        ConfigError: where there is none of that name, or it cannot be made.
    """
    options = options or {}
    if ":" in name:
        found = import_object(name, base, "task")
        if isinstance(found, type) and issubclass(found, Task):
            return _created(_named(found, name), name, metric, temperature, options)
        need_one_metric(metric, name)
        if not callable(found) or isinstance(found, type):
            what = f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__
            raise ConfigError(
                f"task {name!r} is {what}, expected a function (outputs, targets) -> losses, or a subclass of "
                "collapsekit.ext.Task."
            )
        _need_options(options, (), name)
        return CustomLoss(name, found)
    kind = get_task(name).kind
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise ConfigError(f"task {name!r} is {kind!r}, expected a subclass of {Task.__module__}.Task.")
    return _created(kind if kind.name == name else _named(kind, name), name, metric, temperature, options)


@cache
def _named(kind: type[Task], name: str) -> type[Task]:
    """The kind under the name by which the config knows it."""
    return type(kind.__name__, (kind,), {"name": name, "__module__": kind.__module__})


def _created(kind: type[Task], name: str, metric: str | None, temperature: float, options: Mapping[str, Any]) -> Task:
    named = (p for p in signature(kind.create).parameters.values() if p.kind is Parameter.KEYWORD_ONLY)
    _need_options(options, [p.name for p in named if p.name not in GENERAL], name)
    task: Task = guard_methods(kind).create(metric=metric, temperature=temperature, **options)
    return task


def _need_options(options: Mapping[str, Any], there: list[str] | tuple[str, ...], name: str) -> None:
    for option in options:
        if option not in there:
            listed = f"has {', '.join(there)}" if there else "has no options"
            raise ConfigError(
                f"task_options {option!r}{did_you_mean(option, there)}: task {name!r} {listed}; remove or correct it."
            )


def tasks_with_prior() -> list[str]:
    """List the names of the tasks that say what the best constant answer is."""
    kinds = {name: TASKS[name].kind for name in task_names()}
    return [name for name, kind in kinds.items() if issubclass(kind, Task) and kind.has_prior()]
