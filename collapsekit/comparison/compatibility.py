"""What reports have to share so that their numbers may stand side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from collapsekit.comparison.inputs import Group, LoadedRun
from collapsekit.comparison.quantities import Choice, Found, Key
from collapsekit.deprecated import TASKS_OF_BEFORE
from collapsekit.errors import ConfigError
from collapsekit.io.safe_text import quote
from collapsekit.report.baseline import other_families

_ADVICE = {
    "task": "compare models of one task",
    "metric": "diagnose both with one metric",
    "split": "diagnose both on one split (--split)",
    "examples": "diagnose both on as many examples of the same data",
}


def check_subjects(groups: Sequence[Group]) -> None:
    """Raise ConfigError where task, metric, split, modalities, number or content of examples are not the same."""
    (name, first), *others = _runs(groups)
    for other_name, other in others:
        a, b = first.report.subject, other.report.subject
        for what, advice in _ADVICE.items():
            mine, theirs = getattr(a, what), getattr(b, what)
            if TASKS_OF_BEFORE.get(mine, mine) != TASKS_OF_BEFORE.get(theirs, theirs):
                _refuse(name, other_name, f"the first has {what} {_shown(mine)}, the second {_shown(theirs)}", advice)
        if set(a.modalities) != set(b.modalities):
            odd = sorted(set(a.modalities) ^ set(b.modalities))[0]
            has, lacks = ("first", "second") if odd in a.modalities else ("second", "first")
            said = f"the {has} has a modality {quote(odd)}, which the {lacks} lacks"
            _refuse(name, other_name, said, "compare models of the same modalities")
    known = [(n, digest) for n, run in _runs(groups) if (digest := _digest(run)) is not None]
    for other_name, digest in known[1:]:
        if digest != known[0][1]:
            said = "they were made of as many, but different examples"
            _refuse(known[0][0], other_name, said, "diagnose both on the same data")


def check_definitions(groups: Sequence[Group], said: Sequence[Sequence[dict[Key, Found]]], choice: Choice) -> None:
    """Raise ConfigError where two reports mean different things by one quantity that both have a value of.

    With ``only``, what is not shown may differ, unless verdicts are shown that were read from it.

    Args:
        groups: The columns, with their runs.
        said: The quantities of each column's runs, in the order of ``groups``.
        choice: Which quantities are shown.

    Raises:
        ConfigError: Where a definition or a unit differs.
    """
    seen: dict[Key, tuple[str, Found]] = {}
    runs = [found for column in said for found in column]
    for (name, run), found in zip(_runs(groups), runs, strict=True):
        shown = {k for k in found if choice.shows(k)} if choice.only else set(found)
        evidence: set[str] = set()
        if any(k.part == "verdict" for k in shown):
            evidence = {e for v in run.report.modalities.values() for e in v.evidence}
        for key, here in found.items():
            if key.part == "verdict" or here.value is None or (key not in shown and key.name not in evidence):
                continue
            before, there = seen.setdefault(key, (name, here))
            if (there.definition, there.unit) != (here.definition, here.unit):
                what = "is defined otherwise" if there.definition != here.definition else "has another unit"
                both = f"{_of(key)} {what} in the first ({_difference(there, here)})"
                _refuse(
                    before, name, both, "diagnose both with the same version and options, or choose others by --only"
                )


def check_families(groups: Sequence[Group], quantities: Sequence[Sequence[dict[Key, Found]]], choice: Choice) -> None:
    """Raise ConfigError where what is due to a modality was chosen among other families of readouts.

    That is so of reports of profiles that train encoders and of those that do not. What does not rest on it may be compared.

    Args:
        groups: The columns, with their runs.
        quantities: The quantities of each column's runs, in the order of ``groups``.
        choice: Which quantities are shown.

    Raises:
        ConfigError: Where families differ, and a verdict or a number of utilisation is shown.
    """
    keys = (k for column in quantities for found in column for k in found)
    if not any(choice.shows(k) and (k.part == "verdict" or k.name.startswith("utilisation.")) for k in keys):
        return
    (name, first), *others = _runs(groups)
    for other_name, other in others:
        differing = other_families(first.report, other.report)
        if differing is not None:
            advice = "diagnose both with one profile and the same options, or choose other numbers by --only"
            _refuse(name, other_name, differing, advice)


def unranked(groups: Sequence[Group]) -> tuple[str, ...]:
    """Say why no column may be called the best: what their reports were not measured alike in, or do not say.

    Task, metric, split, number and content of examples, and definitions of what is shown are checked before, and refused.

    Args:
        groups: The columns, with their runs.

    Returns:
        A clause each; nothing where all were measured alike.
    """
    reports = [run.report for _, run in _runs(groups)]
    found = []
    for what, values in (
        ("profiles", [str(r.settings.get("profile", "not known")) for r in reports]),
        ("engines", [r.subject.engine or "PyTorch" for r in reports]),
    ):
        if len(set(values)) > 1:
            found.append(f"{what} {_some([quote(v) for v in sorted(set(values))])}")
    if any(_digest(run) is None for _, run in _runs(groups)):
        found.append("whether the examples are the same is not known")
    return tuple(found)


def notes(groups: Sequence[Group]) -> Iterator[str]:
    """Yield what a reader should know of how alike the reports are."""
    runs = list(_runs(groups))
    silent = [name for name, run in runs if _digest(run) is None]
    if silent:
        yield (
            f"Whether all reports are of the same examples could not be checked: {_some(silent)} "
            f"{'does' if len(silent) == 1 else 'do'} not say of which."
        )
    for what, found in (
        ("versions of collapsekit", [run.report.collapsekit for _, run in runs]),
        ("profiles", [str(run.report.settings["profile"]) for _, run in runs if "profile" in run.report.settings]),
    ):
        if len(set(found)) > 1:
            yield f"The reports were made with different {what}: {_some([quote(f) for f in sorted(set(found))])}."
    for m in runs[0][1].report.subject.modalities:
        references = [(v.reference for v in [run.report.modalities.get(m)] if v is not None) for _, run in runs]
        families = sorted({r.family for some in references for r in some if r is not None})
        if len(families) > 1:
            yield (
                f"What is due to {quote(m)} is read from different families, each the best of the same ones: "
                f"{_some([quote(f) for f in families])}."
            )
    for group in groups:
        weights = [run.report.subject.sha256 for run in group.runs]
        again = len(weights) - len(set(weights))
        if again:
            yield (
                f"{quote(group.name)} has {again} {'run' if again == 1 else 'runs'} of the same weights as another of its "
                "runs: they are no runs of their own, and its spread and tests are not to be trusted."
            )


def _runs(groups: Sequence[Group]) -> Iterator[tuple[str, LoadedRun]]:
    for group in groups:
        for run in group.runs:
            yield quote(group.name) + (f" ({quote(run.path, 200)})" if len(group.runs) > 1 else ""), run


def _digest(run: LoadedRun) -> str | None:
    digest = run.report.settings.get("examples")
    return digest if isinstance(digest, str) and digest else None


def _refuse(first: str, second: str, said: str, advice: str) -> None:
    raise ConfigError(f"{first} and {second} cannot be compared: {said}; {advice}.")


def _shown(value: object) -> str:
    return quote(value) if isinstance(value, str) else str(value)


def _of(key: Key) -> str:
    about = ", ".join(quote(m) for m in (key.modality, key.versus) if m is not None)
    return f"{quote(key.name)} of {about}" if about else quote(key.name)


def _difference(there: Found, here: Found) -> str:
    if there.definition == here.definition:
        return f"{_shown(there.unit)} and {_shown(here.unit)}"
    at = next((i for i, (a, b) in enumerate(zip(there.definition, here.definition, strict=False)) if a != b), None)
    start = max(0, min(len(there.definition), len(here.definition)) if at is None else at - 20)
    return f"{quote(there.definition[start:], 60)} and {quote(here.definition[start:], 60)}"


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
