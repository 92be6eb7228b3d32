"""Keyword arguments of ``diagnose()`` and ``repair()`` for type checkers and editors: the fields of their options, by type.

Defaults, bounds and words stand in ``options`` alone. A test says which line is missing here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from collapsekit.config.options import CommandOptions, Training
from collapsekit.context import Profile

Function = TypeVar("Function", bound=Callable[..., Any])


class RunKeywords(TypedDict, total=False):
    """Of ``RunOptions``."""

    profile: Profile
    device: str
    seed: int
    limit: int | None
    plugins: Sequence[str | Path]
    trust_pickle: str | None
    cache: str | Path | None


class DiagnoseKeywords(RunKeywords, total=False):
    """Of ``DiagnoseOptions``."""

    split: str | None
    probes: Sequence[str] | None
    skip: Sequence[str]
    options: Mapping[str, Mapping[str, Any]] | None
    training_seed: int | None
    memory: float | None
    controls: bool
    subsets: bool


class RepairKeywords(RunKeywords, total=False):
    """Of ``RepairOptions``."""

    method: str | Sequence[str] | None
    modalities: Sequence[str] | None
    options: Mapping[str, Mapping[str, Any]] | None
    training: Mapping[str, Any] | Training | None
    tensorboard: str | Path | None
    control: bool
    keep: bool
    resume: bool
    force: bool


def takes(model: type[CommandOptions]) -> Callable[[Function], Function]:
    """Let ``help()`` and ``inspect.signature`` show the fields of ``model``, with their defaults, in the place of ``**``."""

    def mark(function: Function) -> Function:
        own = inspect.signature(function)
        fields = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.annotation)
            for name, field in model.model_fields.items()
        ]
        kept = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        function.__signature__ = own.replace(parameters=[*kept, *fields])  # type: ignore[attr-defined]
        return function

    return mark
