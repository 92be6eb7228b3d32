"""Which run of one group belongs to which run of another."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from collapsekit.comparison.inputs import Group
from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.io.safe_text import quote
from collapsekit.report.comparison import Pairs


@dataclass(frozen=True)
class Matching:
    """``pairs`` has, for each group, (place in the reference, place in the group); None where it is not tested."""

    reference: int
    how: Pairs
    pairs: tuple[tuple[tuple[int, int], ...] | None, ...]


def match(groups: Sequence[Group], against: str | None = None) -> Matching | None:
    """Match runs of every group of several with those of the group called ``against`` (default: the first of several).

    By training seed where every run has one and no group has one twice; else by the runs' names where no group has one
    twice and each shares one with the reference; else in the order given. None where there are no two groups of several
    runs. Raises ConfigError for a name that no group has, and where only the order is left and numbers of runs differ.
    """
    reference = _reference(groups, against)
    several = [i for i, g in enumerate(groups) if len(g.runs) > 1]
    if reference not in several or len(several) < 2:
        return None
    seeds = {i: [run.training_seed for run in groups[i].runs] for i in several}
    names = {i: [run.name for run in groups[i].runs] for i in several}
    keys: dict[int, Sequence[Hashable]]
    how: Pairs
    if all(None not in s and len(set(s)) == len(s) for s in seeds.values()):
        how, keys = "training seed", dict(seeds)
    elif all(len(set(n)) == len(n) and set(n) & set(names[reference]) for n in names.values()):
        how, keys = "name", dict(names)
    else:
        how, keys = "order", {i: range(len(groups[i].runs)) for i in several}
        other = next((i for i in several if len(keys[i]) != len(keys[reference])), None)
        if other is not None:
            raise ConfigError(_unmatched(groups[reference], groups[other]))
    place = {key: at for at, key in enumerate(keys[reference])}
    pairs = [
        tuple((place[key], at) for at, key in enumerate(keys[i]) if key in place)
        if i in several and i != reference
        else None
        for i in range(len(groups))
    ]
    return Matching(reference, how, tuple(pairs))


def _reference(groups: Sequence[Group], against: str | None) -> int:
    if against is None:
        return next((i for i, g in enumerate(groups) if len(g.runs) > 1), 0)
    names = [g.name for g in groups]
    if against not in names:
        raise ConfigError(
            f"--against {quote(against)} names no column{did_you_mean(against, names)}: "
            f"there are {', '.join(map(quote, names))}."
        )
    return names.index(against)


def _unmatched(reference: Group, other: Group) -> str:
    return (
        f"the runs of {quote(reference.name)} ({len(reference.runs)}) and {quote(other.name)} ({len(other.runs)}) cannot "
        "be paired: not all have a training seed of their own, their names do not match, and by order there would have to "
        "be as many of each; diagnose them with --training-seed, or name their folders alike."
    )
