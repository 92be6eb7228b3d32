"""A plugin's task under guard: an error of its code is a sentence that names the task and the method."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from collapsekit.config.imports import one_line
from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.tasks.base import Task
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
                return function(*args, **kwargs)
        except CollapsekitError:
            raise
        except Exception as e:
            raise ConfigError(f"task {task!r} failed in `{method}`: {one_line(e)}.") from e

    return call
