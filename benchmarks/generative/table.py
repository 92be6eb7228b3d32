"""Records of subjects to the tables people read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.generative.competitors import NAMES
from benchmarks.generative.subjects import KINDS
from benchmarks.generative.truth import true_cause, truths
from benchmarks.planted.table import auroc, best_error

Record = dict[str, Any]
RIGHT = {"used": "used", "ignored": "collapsed"}


def by_kind(records: Sequence[Record]) -> str:
    """Write a row a kind, of modalities whose truth is known, and one of all that were planted."""
    lines = [
        "| what was planted | subjects | modalities | decided | right of decided | cause named | right of named |",
        "|---|---|---|---|---|---|---|",
    ]
    planted = [k for k in KINDS if k != "untrained"]
    for name, kinds in [*((k, [k]) for k in planted), ("all", planted)]:
        own = [r for r in records if r["kind"] in kinds]
        pairs = judged(own)
        decided = [(t, v) for t, v in pairs if v != "inconclusive"]
        right = sum(RIGHT[t] == v for t, v in decided)
        causes = judged_causes(own)
        named = [(t, c) for t, c in causes if c is not None]
        lines.append(
            f"| {name} | {len(own)} | {len(pairs)} | {len(decided)} | {right} | {len(named)} of {len(causes)} "
            f"| {sum(t == c for t, c in named)} |"
        )
    return "\n".join(lines)


def judged(records: Sequence[Record]) -> list[tuple[str, str]]:
    """List truth and verdict of every modality whose truth is known; a refusal counts as inconclusive."""
    pairs = []
    for r in records:
        for m, truth in truths(r["kind"], r["measured"]).items():
            if truth in RIGHT:
                pairs.append((truth, r["verdicts"][m]["verdict"] if m in r["verdicts"] else "inconclusive"))
    return pairs


def judged_causes(records: Sequence[Record]) -> list[tuple[str, str | None]]:
    """List the true cause and the one that is named: of pictures whose true cause is known, and that the verdict calls
    collapsed or underused."""
    pairs = []
    for r in records:
        cause, said = true_cause(r["kind"], r["measured"]), r["verdicts"].get("image")
        if cause is not None and said is not None and said["verdict"] in ("collapsed", "underused"):
            pairs.append((cause, said["cause"]))
    return pairs


def fooled(records: Sequence[Record]) -> tuple[int, int]:
    """Count untrained subjects, and those of which a modality is called used."""
    own = [r for r in records if r["kind"] == "untrained"]
    return len(own), sum(any(v["verdict"] == "used" for v in r["verdicts"].values()) for r in own)


def peers(records: Sequence[Record]) -> str:
    """Write how often each competitor mistakes a picture for ignored or used, at the threshold that is best for it, beside
    verdicts; undecided ones count in neither."""
    rows = []
    for r in records:
        truth = truths(r["kind"], r["measured"])["image"]
        said = r["verdicts"].get("image", {}).get("verdict", "inconclusive")
        if truth in RIGHT and said != "inconclusive":
            rows.append((r, truth == "ignored", said == "collapsed"))
    truth = [t for _, t, _ in rows]
    lines = ["| ignored or not, by | errors | of | AUROC |", "|---|---|---|---|"]
    lines.append(f"| verdict | {sum(t != s for _, t, s in rows)} | {len(rows)} | |")
    for name, what in NAMES.items():
        values = [r["others"][name] for r, _, _ in rows]
        area = auroc(values, truth)
        lines.append(
            f"| {what} | {round(best_error(values, truth) * len(rows))} | {len(rows)} | {max(area, 1 - area):.3f} |"
        )
    return "\n".join(lines)


def by_absent(records: Sequence[Record], usual: str) -> str:
    """Write a row for each thing that stood in the place of absent pictures: how its verdicts differ from the usual ones.

    Args:
        records: of one profile and as many examples; the same subject once for each thing.
        usual: which of them the others are held against.

    Returns:
        A table, and a line for each verdict or cause that is another one; nothing where there is the usual one alone.
    """
    found: dict[str, dict[str, Record]] = {}
    for r in records:
        found.setdefault(r.get("absent", usual), {})[r["subject"]] = r
    rows = ["| absent pictures are | subjects | refused | verdicts | changed | right of decided | causes changed |"]
    rows.append("|---|---|---|---|---|---|---|")
    lines = []
    for absent, own in found.items():
        both = [(found[usual][s], r) for s, r in own.items() if s in found.get(usual, {}) and r["refused"] is None]
        others, causes = (list(_changes(both, field)) for field in ("verdict", "cause"))
        count = sum(len(r["verdicts"]) for _, r in both)
        decided = [(t, v) for t, v in judged([r for _, r in both]) if v != "inconclusive"]
        right = sum(RIGHT[t] == v for t, v in decided)
        rows.append(
            f"| {absent} | {len(own)} | {len(own) - len(both)} | {count} | {len(others)} | {right} of {len(decided)} | "
            f"{len(causes)} |"
        )
        lines += [f"{absent}: {line}" for line in (*others, *causes)]
    return "\n".join([*rows, "", *lines]) if len(found) > 1 else ""


def _changes(pairs: Sequence[tuple[Record, Record]], field: str) -> Iterator[str]:
    """What of each modality's verdict is another one in the second record; a cause only where both name one."""
    for usual, other in pairs:
        for m, v in other["verdicts"].items():
            before, after = usual["verdicts"][m][field], v[field]
            if before != after and None not in (before, after):
                yield f"{other['subject']}, {m}: {after}, where it was {before}"


def wrong(records: Sequence[Record]) -> str:
    """Write a line for each modality that is judged wrongly or not at all, and each cause that is wrong."""
    lines = []
    for r in records:
        for m, truth in truths(r["kind"], r["measured"]).items():
            said = r["verdicts"].get(m, {"verdict": "refused", "reason": r["refused"], "cause": None})
            if truth in RIGHT and said["verdict"] != RIGHT[truth]:
                lines.append(f"{r['subject']}: {m} is {truth}, called {said['verdict']}: {said['reason']}")
        cause, said = true_cause(r["kind"], r["measured"]), r["verdicts"].get("image")
        if cause is not None and said is not None and said["verdict"] == "collapsed" and said["cause"] != cause:
            lines.append(f"{r['subject']}: the cause is {cause!r}, called {said['cause']!r}: {said['reason']}")
    return "\n".join(lines)
