"""What records of the planted benchmark say: who counts as repaired or made worse, and in how many subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scipy.stats import binomtest

Record = dict[str, Any]
SHARE = 0.9  # of the reference's gain
LITTLE = 0.02  # gain of the metric under which a share of it is noise; and the most that may be lost then
LEVEL = 0.95
ORDER = {"collapsed": 0, "underused": 1, "used": 2}


def judged(record: Record) -> dict[str, bool]:
    """What the table counts of a record (see benchmarks.repair.planted)."""
    if record["refused"] is not None:
        return dict.fromkeys(("accepted", "used", "reached", "of_prior", "repaired", "worse", "worse_if_kept"), False)
    used = all(record["verdicts"][m][1] == "used" for m in record["repaired"])
    gain, surely_below = record["metric_reference"] - record["metric_before"], record["interval"][1] < 0
    reached = record["difference"] >= SHARE * gain
    if gain < LITTLE:
        reached = not surely_below and record["difference"] >= -LITTLE
    constant = record["metric_constant"]
    of_prior = record["metric_after"] - constant >= SHARE * (record["metric_reference"] - constant)
    fell = any(a in ORDER and ORDER.get(b, 2) < ORDER[a] for a, b in record["verdicts"].values())
    accepted, worse = record["accepted"], surely_below or fell
    return {
        **{"accepted": accepted, "used": used, "reached": reached, "of_prior": of_prior},
        **{"repaired": accepted and used and reached, "worse": accepted and worse, "worse_if_kept": worse},
    }


def table(records: Sequence[Record]) -> str:
    """Markdown: a row a method, shares of the subjects; the interval is Wilson's, 95 %, of the share repaired. Last, those
    repaired of the subjects whose architecture can reach the gain (``can``)."""
    titles = (
        "accepted | used | gain reached | of prior gain | used and gain | repaired | 95 % | worse | or kept | of able"
    )
    lines = [f"| method | subjects | {titles} |", "|---" * 12 + "|"]
    for method in dict.fromkeys(r["method"] for r in records):
        own = [r for r in records if r["method"] == method]
        rows = [judged(r) for r in own]
        n = len(rows)
        count = {key: sum(row[key] for row in rows) for key in rows[0]}
        both = sum(row["used"] and row["reached"] for row in rows)
        low, high = wilson(count["repaired"], n)
        shares = [count["accepted"], count["used"], count["reached"], count["of_prior"], both, count["repaired"]]
        cells = [f"{k / n:.0%}" for k in shares] + [f"{low:.0%} to {high:.0%}"]
        those = [row["repaired"] for r, row in zip(own, rows, strict=True) if can(r)]
        cells += [str(count["worse"]), str(count["worse_if_kept"]), f"{sum(those)} of {len(those)}"]
        lines.append(f"| {method} | {n} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by(records: Sequence[Record], key: str) -> str:
    """Markdown: subjects repaired of those there are, for each value of a property and each method."""
    methods = list(dict.fromkeys(r["method"] for r in records))
    lines = [f"| {key} | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for value in dict.fromkeys(r[key] for r in records):
        each = [[judged(r)["repaired"] for r in records if (r[key], r["method"]) == (value, m)] for m in methods]
        lines.append(f"| {value} | " + " | ".join(f"{sum(rows)} of {len(rows)}" for rows in each) + " |")
    return "\n".join(lines)


def can(record: Record) -> bool:
    """Whether the architecture, trained healthily from scratch, gets 90 % of the reference's gain."""
    before, healthy, reference = (record[f"metric_{k}"] for k in ("before", "healthy", "reference"))
    gain = reference - before
    return bool(healthy - before >= (SHARE * gain if gain >= LITTLE else -LITTLE))


def able(records: Sequence[Record]) -> str:
    """In how many subjects the architecture can (see ``can``)."""
    each = {r["subject"]: can(r) for r in records}
    return f"{sum(each.values())} of {len(each)}"


def wilson(count: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    found = binomtest(count, of).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def explained(record: Record) -> str:
    """One line on a subject that was not repaired, or got worse."""
    about = "{subject} {kind} {world} {task} {fusion} {method}: ".format(**record)
    if record["refused"] is not None:
        return f"{about}{record['refused']}"
    now = ", ".join(f"{m} {a}->{b}" for m, (a, b) in record["verdicts"].items())
    metrics = "{metric_before:.3f}->{metric_after:.3f}, reference {metric_reference:.3f}".format(**record)
    return f"{about}{now}; metric {metrics}{'' if record['accepted'] else '; rejected'}"
