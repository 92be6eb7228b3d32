"""How often the gate raises a false alarm, and how often it finds a planted collapse.

python -m benchmarks.gate --folder gate-benchmark

- *paired*: pairs of reports of one training seed between which nothing that matters changed (models.NULLS): the plain one
  against each that was changed in one way, and all 15 pairs among the six; a failed gate is a false alarm.
- *retrained*: a model of a new seed against a baseline of ``--runs`` others of the same training; a failed gate is a false
  alarm (family-wise: whatever check failed). Each of the models is the new one in turn, against random baselines of the
  others; the interval is a jackknife over models.
- *power*: models trained while a view was another example's, so that they ignore it, though others of the same training use
  it for more than the gate's effect (0.4 of its due); found where the check of that view's use fails.

Reports are kept in the folder, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import binomtest
from scipy.stats import t as student_t

from benchmarks.gate.models import NULLS, Shelf, with_records
from collapsekit.gating.baseline import make_baseline
from collapsekit.gating.criteria import numbers, value_of
from collapsekit.gating.decide import gate
from collapsekit.report.baseline import Run
from collapsekit.report.gate import GateReport

VIEWS = ("pix", "fou", "zer")
PER_MODEL = 20  # random baselines each model is held against


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where reports are kept")
    parser.add_argument("--models", type=int, default=80, help="models trained plainly")
    parser.add_argument(
        "--paired", type=int, default=20, help="of these, how many are changed in every way that is none"
    )
    parser.add_argument("--collapsed", type=int, default=30, help="models with a planted collapse")
    parser.add_argument("--runs", type=int, nargs="+", default=[3, 5, 10], help="runs of a baseline")
    given = parser.parse_args(arguments)
    if given.models < 2 * max(given.runs) + 2 or given.models < max(given.paired, given.collapsed):
        parser.error(
            "there must be more than twice as many models as runs of a baseline, and at least as many as are changed"
        )
    began, shelf = time.perf_counter(), Shelf.at(given.folder)
    pool = [shelf.healthy(seed) for seed in range(given.models)]
    planted = [(VIEWS[i % len(VIEWS)], shelf.collapsed(i, VIEWS[i % len(VIEWS)])) for i in range(given.collapsed)]
    print("use and accuracy over seeds, mean ± sd: " + "; ".join(_spread(pool)), end="\n\n")
    print(_table(("setting", "models or pairs", "failed", "rate [95 %]", "inconclusive", "passed")))
    changed = [[pool[s], *(shelf.null(kind, s) for kind in NULLS)] for s in range(given.paired)]
    for i, kind in enumerate(NULLS):
        print(_row(f"paired, {kind}", [_pair(of_seed[0], of_seed[i + 1]) for of_seed in changed]))
    every = [_pair(a, b) for of_seed in changed for a, b in itertools.combinations(of_seed, 2)]
    print(_row("**paired, all pairs of a seed**", every))
    for runs in given.runs:
        print(_retrained_row(pool, runs))
    print()
    print(_table(("power", "models", "found", "rate [95 %]", "inconclusive", "missed")))
    print(_power_row("paired", [_state(_pair(pool[i], run), view) for i, (view, run) in enumerate(planted)]))
    for runs in given.runs:
        found = [_state(_against(run, pool, i, runs), view) for i, (view, run) in enumerate(planted)]
        print(_power_row(f"retrained, {runs} runs", found))
    print(f"\n{time.perf_counter() - began:.0f} s")


def _pair(base: Run, new: Run) -> GateReport:
    return gate(with_records(new), baseline=make_baseline([base]))


def _against(new: Run, pool: Sequence[Run], number: int, runs: int, draw: int = 0) -> GateReport:
    """A run against ``runs`` others at random, none of its own seed."""
    others = [run for i, run in enumerate(pool) if i != number]
    chosen = random.Random(f"{number} {runs} {draw}").sample(others, runs)
    return gate(new.report, baseline=make_baseline(chosen), situation="retrained")


def _state(found: GateReport, view: str) -> str:
    return next(c.state for c in found.checks if c.modality == view)


def _spread(pool: Sequence[Run]) -> list[str]:
    shown = []
    for number in numbers(pool[0].report, ("metric", "use")):
        values = [v for r in pool if not isinstance(v := value_of(number, r.report), str)]
        shown.append(f"{number.name} {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}")
    return shown


def _table(columns: Sequence[str]) -> str:
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def _row(name: str, found: Sequence[GateReport]) -> str:
    failed = sum(f.outcome == "failed" for f in found)
    rest = [sum(f.outcome == o for f in found) for o in ("inconclusive", "passed")]
    return f"| {name} | {len(found)} | {failed} | {_rate(failed, len(found))} | {rest[0]} | {rest[1]} |"


def _rate(count: int, of: int) -> str:
    ends = binomtest(count, of).proportion_ci(0.95, method="exact")
    return f"{count / of:.1%} [{ends.low:.1%}, {ends.high:.1%}]"


def _retrained_row(pool: Sequence[Run], runs: int) -> str:
    """Each model against random baselines of the others; a jackknife over models, each left out as new and in baselines."""
    trials = []
    for i, new in enumerate(pool):
        for draw in range(PER_MODEL):
            others = [k for k in range(len(pool)) if k != i]
            chosen = random.Random(f"{i} {runs} {draw}").sample(others, runs)
            found = gate(new.report, baseline=make_baseline([pool[k] for k in chosen]), situation="retrained")
            trials.append(({i, *chosen}, found.outcome))
    states = [o for _, o in trials]
    rate = states.count("failed") / len(states)
    left = []
    for i in range(len(pool)):
        kept = [o for members, o in trials if i not in members]
        left.append(kept.count("failed") / len(kept))
    n = len(pool)
    half = float(student_t.ppf(0.975, n - 1)) * float(
        np.sqrt((n - 1) / n * np.square(np.array(left) - np.mean(left)).sum())
    )
    shares = f"{states.count('inconclusive') / len(states):.0%} | {states.count('passed') / len(states):.0%}"
    ends = f"{rate:.1%} [{max(0, rate - half):.1%}, {rate + half:.1%}]"
    return f"| retrained, {runs} runs | {n} × {PER_MODEL} | {states.count('failed')} | {ends} | {shares} |"


def _power_row(name: str, states: Sequence[str]) -> str:
    failed = list(states).count("failed")
    rest = [list(states).count(s) for s in ("inconclusive", "passed")]
    return f"| {name} | {len(states)} | {failed} | {_rate(failed, len(states))} | {rest[0]} | {rest[1]} |"


if __name__ == "__main__":
    main()
