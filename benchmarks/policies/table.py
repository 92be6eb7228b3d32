"""The records as a table, a row a world and training; and how often another seed changes a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

RIGHT = {"used": "used", "ignored": "collapsed", "nothing": "uninformative"}


def pairs(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The truth of each input that has one, and the verdict."""
    verdicts = record["verdicts"] or {}
    return [(t, verdicts.get(key, "refused")) for key, t in record["truth"].items() if t is not None]


def count_changes(records: Sequence[Mapping[str, Any]], by: str) -> tuple[int, int]:
    """Count verdicts that are not those of the first diagnosis, and how many there are.

    Args:
        records: of all diagnoses.
        by: what alone is another one: ``noise`` or ``diagnosis_seed``.
    """
    first = {_name(r): r["verdicts"] for r in records if _is_first(r) and r["verdicts"]}
    again = [r for r in records if r[by] > 0 and r["verdicts"] and _name(r) in first]
    both = [(first[_name(r)][m], v) for r in again for m, v in r["verdicts"].items()]
    return sum(a != b for a, b in both), len(both)


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row a world and training, and all of them."""
    firsts = [r for r in records if _is_first(r)]
    rows = dict.fromkeys((r["world"], r["training"]) for r in firsts)
    lines = [
        "| world | training | policies | inputs decided | right, of the decided | undecided | untrained `used` |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in [*rows, None]:
        own = [r for r in firsts if row in (None, (r["world"], r["training"]))]
        known = [p for r in own for p in pairs(r)]
        judged = [(t, v) for t, v in known if t != "untrained"]
        decided = [(t, v) for t, v in judged if v not in ("inconclusive", "refused")]
        right = sum(RIGHT[t] == v for t, v in decided)
        fooled = sum(t == "untrained" and v == "used" for t, v in known)
        name = "all | " if row is None else f"{row[0]} | {row[1].replace('observation.', '')}"
        lines.append(
            f"| {name} | {len(own)} | {len(decided)} of {len(judged)} | {right} of {len(decided)} "
            f"| {len(judged) - len(decided)} | {fooled} |"
        )
    for by, what in (("noise", "Other noise"), ("diagnosis_seed", "Another seed of the whole diagnosis")):
        changed, count = count_changes(records, by)
        if count:
            lines += ["", f"{what} changes {changed} of {count} verdicts."]
    return "\n".join(lines)


def _is_first(record: Mapping[str, Any]) -> bool:
    return record["diagnosis_seed"] == 0 and record["noise"] == 0


def _name(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return record["world"], record["kind"], record["training"], record["seed"]
