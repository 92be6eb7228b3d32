"""Running one probe: what it cannot measure is skipped with the reason, and so is what an error that nobody foresaw ends."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from collapsekit.context import Progress
from collapsekit.distributed.process_group import current
from collapsekit.errors import CollapsekitError, ConfigError, FaultError, NumericsError, ProcessLostError
from collapsekit.features.features import Features
from collapsekit.registry import ProbeSpec, modules_of
from collapsekit.report.diagnosis import Report, ReportWarning, Result
from collapsekit.report.verdicts import DECIDING, FAILED
from collapsekit.session.session import Session
from collapsekit.user_code.process_state import each_of

RAISE = "COLLAPSEKIT_RAISE"  # set to anything: errors that nobody foresaw are raised, so that no test passes on one
HOME = Path(__file__).resolve().parents[1]


class ContractError(ConfigError):
    """A probe gave something that is no result of it (exit 2).

    Causes: a probe of a plugin yields what is no Result, a result of another probe's name, an interval that does not
    hold its value, or nothing. The other probes still run, and the report says which one was ended.

    What to do: mend the probe as the message says, or leave it out with ``--skip``.
    """


def run_probe(spec: ProbeSpec, session: Session) -> list[Result]:
    """Run one probe; its results in the order it yields them.

    Of one that fails in a way nobody foresaw it is a single one, skipped, that names the error's kind and place: what it
    gave until then is dropped, as half of it must not pass for the whole. Of several processes at one job all have it
    skipped, or, where one that failed is no longer at the place of the others, all end.

    Raises CollapsekitErrors of the probe as they are, and, where the environment has COLLAPSEKIT_RAISE, every error, of a
    user's own probe as ConfigError.
    """
    try:
        results, error = _results(spec, session), None
    except Exception as e:
        if not _unforeseen(e):
            raise
        if os.environ.get(RAISE):
            _raise(spec, e)
        results, error = [], e
    return _by_all(spec, results, error, session.progress)


def measure(spec: ProbeSpec, session: Session) -> Iterable[Any]:
    """Call a probe, whichever form it is written in; what it yields, unchecked."""
    if spec.older:
        return spec.run(session.adapter, session.features, settings=session.settings_of(spec.name))
    return spec.run(session)


def _unforeseen(error: Exception) -> bool:
    """Whether a probe ended with it without meaning to, here or in another process that all heard of."""
    elsewhere = isinstance(error, ProcessLostError) and getattr(error, "told_by_first", False)
    return not isinstance(error, CollapsekitError) or isinstance(error, ContractError) or elsewhere


def _raise(spec: ProbeSpec, error: Exception) -> NoReturn:
    if is_ours(spec) or isinstance(error, CollapsekitError):
        raise error
    raise ConfigError(f"probe {spec.name!r} failed{_at(spec, error)}: {_what(error)}.") from error


def _by_all(spec: ProbeSpec, results: list[Result], error: Exception | None, progress: Progress) -> list[Result]:
    """The results, unless it failed in some process; then the same skipped one in all of them."""
    mine = None if error is None or isinstance(error, ProcessLostError) else _failed(spec, error)
    try:
        found = current().share((error is not None, mine), f"the end of probe {spec.name}")
    except CollapsekitError:
        if error is not None and mine is not None:  # it failed alone: the others are elsewhere
            _raise(spec, error)
        raise
    if not any(failed for failed, _ in found):
        return results
    first = next((rank for rank, (_, failure) in enumerate(found) if failure is not None), 0)
    if mine is not None and error is not None and first == current().rank:
        progress.fault(f"{_told(spec, error)}\n{''.join(traceback.format_exception(error))}")
    return [found[first][1] or _skipped(spec, "a fault of collapsekit ended the probe", ProcessLostError.__name__)]


def is_ours(spec: ProbeSpec) -> bool:
    """Tell whether the probe is one of collapsekit's own, not a user's."""
    return spec.run.__module__.startswith("collapsekit.")


def warnings_of(results: Sequence[Result]) -> tuple[ReportWarning, ...]:
    """Return a warning for each probe that an error ended."""
    ended = {r.probe: r for r in results if r.error is not None}
    return tuple(
        ReportWarning(
            name=FAILED,
            sentence=f"The probe {name} measured nothing, as an error ended it ({r.error}): no verdict and no rule that "
            "needs it can pass.",
        )
        for name, r in ended.items()
    )


def fault_code(*reports: Report | None) -> int:
    """Return the exit code of a command that made these reports.

    It is that of a fault where an error ended a probe of collapsekit's own, that of a config error where it ended a
    user's own only, else 0.
    """
    ended = {r.probe for report in reports if report is not None for r in report.results if r.error is not None}
    if not ended:
        return 0
    ours = {name.rpartition(".")[2] for name in modules_of("collapsekit.probes")}
    return FaultError.exit_code if ended & ours else ConfigError.exit_code


def _results(spec: ProbeSpec, session: Session) -> list[Result]:
    done: list[Result] = []
    try:
        made = measure(spec, session)
        if not isinstance(made, Iterable):
            raise ContractError(f"probe {spec.name!r} gave {type(made).__name__}, expected Results: yield them.")
        for result in made if is_ours(spec) else each_of(made, f"probe {spec.name!r}"):
            check_result(spec, result, session.features, done)
            done.append(result)
    except NumericsError as e:
        done.append(_skipped(spec, str(e).rstrip(".")))
    if not done:
        raise ContractError(f"probe {spec.name!r} gave no results: yield at least one, or one that is `skipped`.")
    return done


def _skipped(spec: ProbeSpec, reason: str, error: str | None = None) -> Result:
    return Result(
        name=spec.name,
        probe=spec.name,
        definition=spec.definition,
        source=spec.source,
        skipped=reason,
        error=error,
    )


def _failed(spec: ProbeSpec, error: Exception) -> Result:
    """What stands in the report: kind and place, and not what the error says, which may differ from run to run."""
    place = re.sub(r":(\d+)$", r" line \1", _at(spec, error))  # as earlier reports have it
    where = f"{type(error).__name__}{place.replace(' at ', ' in ', 1)}"
    whose = "a fault of collapsekit" if is_ours(spec) else "an error in it"
    return _skipped(spec, f"{whose} ended the probe", where)


def _told(spec: ProbeSpec, error: Exception) -> str:
    if is_ours(spec):
        return (
            f"internal error in probe {spec.name!r}: {type(error).__name__}: {error}. This is a fault of collapsekit; the "
            "rest goes on, and the report says so. Please report it with this:"
        )
    return f"probe {spec.name!r} failed{_at(spec, error)}: {_what(error)}. The rest goes on, and the report says so."


def check_result(spec: ProbeSpec, result: Any, features: Features, before: list[Result]) -> None:
    """Check that what a probe gave is a result of it.

    Args:
        spec: The probe.
        result: What it gave.
        features: The examples, for the model's modalities.
        before: What it gave until then.

    Raises:
        ContractError: Where it is not.
    """
    if not isinstance(result, Result):
        raise ContractError(f"probe {spec.name!r} gave {type(result).__name__}, expected collapsekit.Result.")
    if result.probe != spec.name:
        raise ContractError(f"probe {spec.name!r} gave a result that says it is of probe {result.probe!r}.")
    if not result.name.strip():
        raise ContractError(f"probe {spec.name!r} gave a result without a name: give each one.")
    first = result.name.partition(".")[0]
    if first in DECIDING and first != spec.name:  # verdicts are read from what is called so
        raise ContractError(
            f"probe {spec.name!r} gave {result.name!r}, which is a name of the probe {first!r}: call it {spec.name}.NAME."
        )
    if result.value is not None and result.interval is not None:
        low, high = result.interval
        if not low <= result.value <= high:
            raise ContractError(
                f"probe {spec.name!r} gave {result.name!r} = {result.value:g} with an interval from {low:g} to {high:g}, "
                "which does not hold it: give the value's own interval, or none."
            )
    for modality in (result.modality, result.versus):
        if modality is not None and modality not in features.modalities:
            known = ", ".join(features.modalities)
            raise ContractError(f"probe {spec.name!r} gave a result about {modality!r}: the model has {known}.")
    key = (result.name, result.modality, result.versus)
    if any((r.name, r.modality, r.versus) == key for r in before):
        raise ContractError(f"probe {spec.name!r} gave {result.name!r} twice for the same modality: names must differ.")


def check_once(results: Iterable[Result]) -> None:
    """Raise ConfigError where two probes give one number: a report names each once, whichever probe it is of."""
    seen: dict[tuple[str, str | None, str | None], str] = {}
    for r in results:
        other = seen.setdefault((r.name, r.modality, r.versus), r.probe)
        if other != r.probe:
            raise ConfigError(
                f"probes {other!r} and {r.probe!r} both gave {r.name!r}: rename it in the probe that is yours."
            )


def _at(spec: ProbeSpec, error: BaseException) -> str:
    """Where it failed, as " at FILE:LINE": in collapsekit the last line of its own, else the last in the user's file, or
    that file where the error comes from what it gave."""
    frames = [(Path(f.filename), f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    if is_ours(spec):
        own = [(path.relative_to(HOME.parent).as_posix(), line) for path, line in frames if path.is_relative_to(HOME)]
    else:
        outside = [(path, line) for path, line in frames if "site-packages" not in path.parts]
        own = [(path.name, line) for path, line in outside if not path.is_relative_to(HOME)]
    if own:
        return f" at {own[-1][0]}:{own[-1][1]}"
    file = getattr(sys.modules.get(spec.run.__module__), "__file__", None)
    return f" at {Path(file).name}" if file else ""


def _what(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        return f"a result does not fit: {where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
    return f"{type(error).__name__}: {str(error).rstrip('.')}"
