"""Whom to repair, and by which methods: as the user names them, else as the diagnosis says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from collapsekit import registry
from collapsekit.errors import ConfigError, NothingEvaluatedError
from collapsekit.repairs.forecast import describe_forecasts
from collapsekit.report.diagnosis import Report
from collapsekit.report.recommend import recommend, weak_modalities
from collapsekit.session.checks import check_named


@dataclass(frozen=True)
class RepairDecision:
    """What is to be repaired, and how."""

    before: Report  # the diagnosis of the val split that it follows
    weak: tuple[str, ...]  # the modalities to repair
    methods: tuple[str, ...]
    why: str | None  # these methods; None: they were named

    def describe_forecasts(self) -> Iterator[str]:
        """Say what the repair is expected to gain, a sentence each."""
        return describe_forecasts(self.before, self.weak)


def decide_repair(before: Report, methods: tuple[str, ...] | None, modalities: Sequence[str] | None) -> RepairDecision:
    """Decide whom to repair, and by which methods.

    Args:
        before: The diagnosis of the val split.
        methods: Those named; None: they are recommended.
        modalities: Those named; None: all that are weak.

    Returns:
        The decision.

    Raises:
        ConfigError: For unknown names of modalities.
        NothingEvaluatedError: Where there is nothing to repair.
    """
    weak = _weak_modalities(before, modalities)
    chosen, why = (methods, None) if methods is not None else recommend(before, weak)
    return RepairDecision(before, weak, chosen, why)


def _weak_modalities(before: Report, wanted: Sequence[str] | None) -> tuple[str, ...]:
    known = before.subject.modalities
    check_named(wanted or (), known)
    weak = tuple(m for m in known if m in wanted) if wanted else weak_modalities(before)
    if not weak:
        raise NothingEvaluatedError(
            f"no modality is collapsed or underused on the val split, so there is nothing to repair: {before.summary} "
            "Name one with --modality to repair it all the same."
        )
    return weak


def read_methods(method: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Read names of methods, each known and named once; None where none was. Raises ConfigError."""
    if method is None:
        return None
    names = tuple(n.strip() for n in method.split(",")) if isinstance(method, str) else tuple(method)
    for name in names:
        registry.get_repair(name)
    again = next((n for n in names if names.count(n) > 1), None)
    if again is not None or not names:
        raise ConfigError(f"--method names {f'{again!r} twice' if again else 'nothing'}: give each repair once.")
    return names
