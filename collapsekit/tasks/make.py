"""The task that a config names."""

from __future__ import annotations

from functools import cache, wraps
from pathlib import Path
from typing import Any

from collapsekit.config.imports import import_object, one_line
from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.registry import TASKS, get_task, task_names
from collapsekit.tasks.base import Task, need_one_metric
from collapsekit.tasks.custom import CustomLoss
from collapsekit.user_code.process_state import user_code


def make_task(name: str, *, metric: str | None, temperature: float, base: Path) -> Task:
    """The task that is registered as ``name``, or the user's ``module:callable`` loss. Raises ConfigError.

    Args:
        name: the config's ``task``.
        metric: the config's ``metric``; None: the task's first.
        temperature: for tasks that compare embeddings.
        base: the folder in which the user's module is looked for.
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
    return _guarded(kind).create(metric=metric, temperature=temperature)


@cache
def _guarded(kind: type[Any]) -> type[Any]:
    """A plugin's task with an error of its own code as a sentence; one of ours as it is."""
    if kind.__module__.startswith("collapsekit."):
        return kind
    names = [n for n in vars(Task) if callable(getattr(Task, n)) and not n.startswith("_") and n != "has_prior"]
    own = {n: _guard(kind, n) for n in names if n == "create" or _function(kind, n) is not _function(Task, n)}
    return type(kind.__name__, (kind,), own | {"__module__": kind.__module__})


def _function(kind: type[Task], name: str) -> Any:
    found = getattr(kind, name)
    return getattr(found, "__func__", found)


def _guard(kind: type[Task], name: str) -> Any:
    function = _function(kind, name)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            with user_code(f"task {kind.name!r}"):
                return function(*args, **kwargs)
        except CollapsekitError:
            raise
        except Exception as e:
            raise ConfigError(f"task {kind.name!r} failed in `{name}`: {one_line(e)}.") from e

    return classmethod(call) if name == "create" else call


def tasks_with_prior() -> list[str]:
    """Names of the tasks that say what the best constant answer is."""
    kinds = {name: TASKS[name].kind for name in task_names()}
    return [name for name, kind in kinds.items() if issubclass(kind, Task) and kind.has_prior()]
