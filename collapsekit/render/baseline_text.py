"""What a baseline holds, and what an update changes, as plain text."""

from __future__ import annotations

from collapsekit.gating.criteria import DEFAULT, numbers, value_of
from collapsekit.render.numbers import ABSENT, fmt
from collapsekit.render.sanitize import clean
from collapsekit.report.baseline import Baseline


def render(now: Baseline, before: Baseline | None = None) -> str:
    """Runs and watched numbers (mean ± standard deviation) of a baseline; beside them, those of an earlier one."""
    subject = now.runs[0].report.subject
    lines = [
        f"Baseline: {_runs(len(now.runs))}, {clean(subject.task)} ({clean(subject.metric)}), {clean(subject.split)} split, "
        f"{subject.examples} examples.",
        "",
    ]
    old = {r.report.subject.sha256 for r in before.runs} if before is not None else set()
    for run in now.runs:
        s, seed = run.report.subject, run.training_seed
        new = " (new)" if before is not None and s.sha256 not in old else ""
        kept = "" if run.records is not None else ", no records"
        trained = "" if seed is None else f", training seed {seed}"
        lines.append(f"  {clean(s.checkpoint)} {s.sha256[:12]}{trained}: {run.report.verdict}{kept}{new}")
    gone = (
        [r for r in before.runs if r.report.subject.sha256 not in {n.report.subject.sha256 for n in now.runs}]
        if before
        else []
    )
    lines += [f"  {clean(r.report.subject.checkpoint)} {r.report.subject.sha256[:12]}: replaced" for r in gone]
    lines.append("")
    for number in numbers(now.runs[0].report, DEFAULT):
        after = _spread([value_of(number, r.report) for r in now.runs])
        name = clean(number.name)
        if before is None:
            lines.append(f"  {name}: {after}")
        else:
            earlier = _spread([value_of(number, r.report) for r in before.runs])
            lines.append(f"  {name}: {earlier} -> {after}" if earlier != after else f"  {name}: {after}, as before")
    return "\n".join(lines) + "\n"


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _spread(values: list[float | str]) -> str:
    known = [v for v in values if not isinstance(v, str)]
    if len(known) < len(values) or not known:
        return ABSENT
    mean = sum(known) / len(known)
    if len(known) == 1:
        return fmt(mean)
    sd = (sum((v - mean) ** 2 for v in known) / (len(known) - 1)) ** 0.5
    return f"{fmt(mean)} ± {fmt(sd)}"
