"""Running one probe: what it cannot measure is skipped with the reason, what a user's own does wrong is said."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from collapsekit.adapter.base import Adapter
from collapsekit.errors import CollapsekitError, ConfigError, NumericsError
from collapsekit.features import Features
from collapsekit.registry import ProbeSpec
from collapsekit.report import Result
from collapsekit.settings import Settings


def run_probe(spec: ProbeSpec, adapter: Adapter, features: Features, settings: Settings) -> list[Result]:
    """Results of one probe. Raises ConfigError for a user's own probe that fails or breaks the contract."""
    own = spec.run.__module__.startswith("collapsekit.")
    done: list[Result] = []
    try:
        made: Iterable[Any] = spec.run(adapter, features, settings=settings)
        if not isinstance(made, Iterable):
            raise ConfigError(f"probe {spec.name!r} gave {type(made).__name__}, expected Results: yield them.")
        for result in made:
            _check(spec, result, features, done)
            done.append(result)
    except NumericsError as e:
        reason = str(e).rstrip(".")
        done.append(
            Result(name=spec.name, probe=spec.name, definition=spec.definition, source=spec.source, skipped=reason)
        )
    except (CollapsekitError, KeyboardInterrupt):
        raise
    except Exception as e:
        if own:
            raise
        raise ConfigError(f"probe {spec.name!r} failed{_where(e)}: {_what(e)}.") from e
    if not done:
        raise ConfigError(f"probe {spec.name!r} gave no results: yield at least one, or one that is `skipped`.")
    return done


def _check(spec: ProbeSpec, result: Any, features: Features, before: list[Result]) -> None:
    if not isinstance(result, Result):
        raise ConfigError(f"probe {spec.name!r} gave {type(result).__name__}, expected collapsekit.Result.")
    if result.probe != spec.name:
        raise ConfigError(f"probe {spec.name!r} gave a result that says it is of probe {result.probe!r}.")
    if not result.name.strip():
        raise ConfigError(f"probe {spec.name!r} gave a result without a name: give each one.")
    if result.value is not None and result.interval is not None:
        low, high = result.interval
        if not low <= result.value <= high:
            raise ConfigError(
                f"probe {spec.name!r} gave {result.name!r} = {result.value:g} with an interval from {low:g} to {high:g}, "
                "which does not hold it: give the value's own interval, or none."
            )
    for modality in (result.modality, result.versus):
        if modality is not None and modality not in features.modalities:
            known = ", ".join(features.modalities)
            raise ConfigError(f"probe {spec.name!r} gave a result about {modality!r}: the model has {known}.")
    key = (result.name, result.modality, result.versus)
    if any((r.name, r.modality, r.versus) == key for r in before):
        raise ConfigError(f"probe {spec.name!r} gave {result.name!r} twice for the same modality: names must differ.")


def check_once(results: Iterable[Result]) -> None:
    """A report names each number once, whichever probe it is of. Raises ConfigError."""
    seen: dict[tuple[str, str | None, str | None], str] = {}
    for r in results:
        other = seen.setdefault((r.name, r.modality, r.versus), r.probe)
        if other != r.probe:
            raise ConfigError(
                f"probes {other!r} and {r.probe!r} both gave {r.name!r}: rename it in the probe that is yours."
            )


def _where(error: BaseException) -> str:
    """Where in the user's own file it failed: the last frame outside the packages."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
    own = [f for f in frames if Path(f.filename).parent.name not in ("collapsekit", "stats", "adapter", "probes")]
    return f" at {Path(own[-1].filename).name} line {own[-1].lineno}" if own else ""


def _what(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        return f"a result does not fit: {where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
    return f"{type(error).__name__}: {str(error).rstrip('.')}"
