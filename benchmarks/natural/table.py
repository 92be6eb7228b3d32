"""Results to the tables people read: truth beside verdicts, by profile and setting, and beside what people use today."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.natural.oracle import asked_of, evidence
from benchmarks.natural.peers import NAMES
from benchmarks.natural.settings import SETTINGS
from benchmarks.natural.truth import DUE, STATES, Truth, truth
from benchmarks.planted.table import auroc, best_error
from benchmarks.records import read_lines

VERDICTS = ("used", "underused", "collapsed", "uninformative", "inconclusive")
RIGHT = {"used": "used", "ignored": "collapsed", "nothing": "uninformative"}  # truth to the verdict that is right
Row = Mapping[str, Any]


def print_tables(out: Path, name: str) -> None:
    """Print what the folder's results say."""
    truths = known_truths(out)
    print(truth_table(truths))
    found = read_lines(out / name)
    for profile in dict.fromkeys(r["profile"] for r in found):
        rows = rows_of([r for r in found if r["profile"] == profile], truths)
        print(f"\n== profile {profile}: {len({(r['setting'], r['seed']) for r in rows})} models ==\n")
        print("\n\n".join(part(rows) for part in (confusion, summary, by_setting, stability, peers, wrong)))


def known_truths(out: Path) -> dict[tuple[str, int, str], Truth]:
    """Truth by setting, seed and modality, of settings whose every run was made."""
    from benchmarks.natural.data import load

    made, known = read_lines(out / "models.jsonl"), {}
    everything: dict[str, dict[str, Row]] = {setting.name: {} for setting in SETTINGS}
    for run in read_lines(out / "oracle.jsonl"):
        everything[run["setting"]][run["run"]] = run
    for setting in SETTINGS:
        runs = everything[setting.name]
        if not setting.counted or any(asked.key not in runs for asked in asked_of(setting.modalities)):
            continue
        data = load(setting)
        for model in made:
            if model["setting"] != setting.name:
                continue
            use = {m: torch.tensor(v, dtype=torch.float64) for m, v in model["use"].items()}
            for m, each in evidence(setting, data, runs, use).items():
                known[setting.name, model["seed"], m] = truth(each)
    return known


def rows_of(found: Iterable[Row], truths: Mapping[tuple[str, int, str], Truth]) -> list[dict[str, Any]]:
    """One row a modality of a model whose truth is known."""
    out = []
    for record in found:
        for m, row in record["modalities"].items():
            each = truths.get((record["setting"], record["seed"], m))
            if each is not None:
                about = {k: record[k] for k in ("setting", "seed", "seconds")}
                out.append({**row, **about, "modality": m, "truth": each.state, "known": each})
    return out


def judged(rows: Iterable[Row]) -> list[Row]:
    """Rows whose truth is one that a verdict can agree with."""
    return [r for r in rows if r["truth"] in RIGHT]


def is_partly(row: Row) -> bool:
    """Whether a verdict says of itself that something it needs is missing."""
    return row.get("missing") is not None


def is_decided(row: Row) -> bool:
    """Whether a verdict says what the modality is."""
    return row["verdict"] != "inconclusive"


def agrees(row: Row) -> bool:
    """Whether a decided verdict is the right one."""
    return row["verdict"] == RIGHT[row["truth"]]


def contradicts(row: Row) -> bool:
    """Whether the bound of an undecided verdict excludes the truth."""
    at_most, at_least = row.get("at_most") is not None, row.get("at_least") is not None
    return (row["truth"] == "used" and at_most) or (row["truth"] == "ignored" and at_least)


def truth_table(truths: Mapping[tuple[str, int, str], Truth]) -> str:
    """How many modalities are what, and what was found of each in the mean over seeds."""
    count = Counter(t.state for t in truths.values())
    lines = ["truth: " + ", ".join(f"{count[s]} {s}" for s in STATES) + f"; {len(truths)} in all", ""]
    lines.append(f"{'setting':<20}{'modality':<14}{'alone':>8}{'added':>8}{'due':>8}{'use':>8}{'ratio':>8}  states")
    for name, m in dict.fromkeys((s, m) for s, _, m in truths):
        own = [t for (s, _, k), t in truths.items() if (s, k) == (name, m)]
        means = [sum(getattr(t, f) for t in own) / len(own) for f in ("alone", "added", "due", "use", "ratio")]
        states = ", ".join(f"{n} {s}" for s, n in Counter(t.state for t in own).most_common())
        if means[2] < DUE:
            means[-1] = float("nan")  # of next to nothing
        lines.append(f"{name:<20}{m:<14}" + "".join(f"{v:>8.3f}" for v in means).replace("nan", "  -") + f"  {states}")
    return "\n".join(lines)


def confusion(rows: Sequence[Row]) -> str:
    """Truth down, verdict across; what is between or not sure is shown and not judged."""
    count = Counter((r["truth"], r["verdict"]) for r in rows)
    lines = [f"{'truth':<12}" + "".join(f"{s:>15}" for s in VERDICTS)]
    lines += [f"{t:<12}" + "".join(f"{count[t, s]:>15}" for s in VERDICTS) for t in STATES]
    return "\n".join(lines)


def summary(rows: Sequence[Row]) -> str:
    """Agreement of decided verdicts; undecided and partly judged apart."""
    own = judged(rows)
    if not own:
        return "no modality whose truth is sure"
    decided = [r for r in own if is_decided(r)]
    right, models = sum(map(agrees, decided)), {(r["setting"], r["seed"]): r["seconds"] for r in rows}
    undecided = [r for r in own if not is_decided(r)]
    partly = sum(map(is_partly, undecided))
    return "\n".join(
        (
            f"judged {len(own)} modalities; {len(rows) - len(own)} more are between or not sure and are left out",
            f"decided {len(decided)} ({len(decided) / len(own):.1%}), "
            f"right {right} of them ({right / max(1, len(decided)):.1%})",
            f"undecided {len(undecided) - partly} ({(len(undecided) - partly) / len(own):.1%}), "
            f"only partly judged {partly} ({partly / len(own):.1%}); "
            f"of both, a bound excludes the truth in {sum(map(contradicts, undecided))}",
            f"seconds a model: median {sorted(models.values())[len(models) // 2]:.1f}, most {max(models.values()):.1f}",
        )
    )


def by_setting(rows: Sequence[Row]) -> str:
    """The same for each setting."""
    lines = [f"{'setting':<20}{'judged':>8}{'decided':>9}{'right':>8}"]
    for name in dict.fromkeys(r["setting"] for r in rows):
        own = [r for r in judged(rows) if r["setting"] == name]
        decided = [r for r in own if is_decided(r)]
        lines.append(f"{name:<20}{len(own):>8}{len(decided):>9}{sum(map(agrees, decided)):>8}")
    return "\n".join(lines)


def stability(rows: Sequence[Row]) -> str:
    """How often two seeds of a setting get the same verdict of a modality, where their truths are the same and sure."""
    same = pairs = 0
    for name, m in dict.fromkeys((r["setting"], r["modality"]) for r in rows):
        own = [r for r in judged(rows) if (r["setting"], r["modality"]) == (name, m)]
        for i, a in enumerate(own):
            for b in own[:i]:
                if a["truth"] == b["truth"]:
                    pairs, same = pairs + 1, same + (a["verdict"] == b["verdict"])
    return f"two seeds of the same truth get the same verdict in {same} of {pairs} pairs ({same / max(1, pairs):.1%})"


def peers(rows: Sequence[Row]) -> str:
    """Ignored or not: the score and the verdict, beside each peer at the threshold that is best in hindsight."""
    own = judged(rows)
    is_ignored = [r["truth"] == "ignored" for r in own]
    if not any(is_ignored) or all(is_ignored):
        return "ignored or not: all are the same"
    lines = [f"{'ignored or not, ' + str(len(own)) + ' modalities, by':<84}{'AUROC':>7}{'error':>8}"]
    scores = [r["score"] if r["score"] is not None else 0.5 for r in own]
    lines.append(
        f"{'score, at its best threshold':<84}{auroc(scores, is_ignored):>7.3f}{best_error(scores, is_ignored):>8.1%}"
    )
    decided = [r for r in own if is_decided(r)]
    error = sum((r["verdict"] == "collapsed") != (r["truth"] == "ignored") for r in decided) / max(1, len(decided))
    lines.append(f"{f'verdict, no threshold chosen, {len(decided)} decided':<84}{'':>7}{error:>8.1%}")
    for name, what in NAMES.items():
        values = [r["peers"][name] for r in own]
        if len(set(values)) == 1:
            lines.append(f"{what:<84}{'not measured':>15}")
            continue
        area = auroc(values, is_ignored)
        lines.append(f"{what:<84}{max(area, 1 - area):>7.3f}{best_error(values, is_ignored):>8.1%}")
    return "\n".join(lines)


def wrong(rows: Sequence[Row]) -> str:
    """Every decided verdict that is not the truth."""
    lines = [
        f"  {r['setting']} seed {r['seed']} {r['modality']}: {r['truth']} "
        f"(alone {t.alone:.3f}, added {t.added:.3f}, due {t.due:.3f}, ratio {t.ratio:.2f}) called {r['verdict']}, "
        f"score {'none' if r['score'] is None else format(r['score'], '.2f')}"
        for r in judged(rows)
        for t in [r["known"]]
        if is_decided(r) and not agrees(r)
    ]
    return "wrong\n" + ("\n".join(lines) or "  none")
