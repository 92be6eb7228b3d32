"""What a baseline holds, and what an update changes in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from collapsekit.gating.criteria import DEFAULT, numbers, value_of
from collapsekit.io.safe_text import clean
from collapsekit.render.document import Detail, Document, Line, Paragraph, Section, Span, line
from collapsekit.render.numbers import ABSENT, fmt
from collapsekit.report.baseline import Baseline
from collapsekit.report.baseline import Run as BaselineRun


@dataclass(frozen=True)
class Update:
    """A baseline beside what it was before."""

    now: Baseline
    before: Baseline

    def to_json(self) -> str:
        """Write the baseline as it is now."""
        return self.now.to_json()


def view(report: Baseline | Update, detail: Detail) -> Document:
    """List runs and watched numbers (mean ± standard deviation) of a baseline; beside them, those of the earlier one."""
    del detail  # there is little to say
    now, before = (report.now, report.before) if isinstance(report, Update) else (report, None)
    subject = now.runs[0].report.subject
    runs = "1 run" if len(now.runs) == 1 else f"{len(now.runs)} runs"
    data = f"{clean(subject.split)} split, {subject.examples} examples"
    return Document(
        subject="Modality collapse baseline",
        title=f"Baseline: {runs}, {clean(subject.task)} ({clean(subject.metric)}), {data}.",
        sections=(
            Section((), tuple(Paragraph(text, "inset") for text in (*_runs(now, before), (), *_watched(now, before)))),
        ),
    )


def _runs(now: Baseline, before: Baseline | None) -> Iterator[Line]:
    old, new = ({r.report.subject.sha256 for r in b.runs} if b is not None else set() for b in (before, now))
    for run in now.runs:
        trained = "" if run.training_seed is None else f", training seed {run.training_seed}"
        kept = "" if run.records is not None else ", no records"
        added = " (new)" if before is not None and run.report.subject.sha256 not in old else ""
        yield line(*_name(run), trained, ": ", Span(run.report.verdict, run.report.verdict), kept, added)
    for run in before.runs if before is not None else ():
        if run.report.subject.sha256 not in new:
            yield line(*_name(run), ": replaced")


def _name(run: BaselineRun) -> Line:
    subject = run.report.subject
    return line(Span(clean(subject.checkpoint), "label"), f" {subject.sha256[:12]}")


def _watched(now: Baseline, before: Baseline | None) -> Iterator[Line]:
    for number in numbers(now.runs[0].report, DEFAULT):
        after, name = _spread([value_of(number, r.report) for r in now.runs]), f"{clean(number.name)}: "
        earlier = _spread([value_of(number, r.report) for r in before.runs]) if before is not None else after
        changed = f"{earlier} -> {after}" if earlier != after else f"{after}, as before"
        yield line(name, after if before is None else changed)


def _spread(values: Sequence[float | str]) -> str:
    known = [v for v in values if not isinstance(v, str)]
    if len(known) < len(values) or not known:
        return ABSENT
    mean = sum(known) / len(known)
    if len(known) == 1:
        return fmt(mean)
    sd = (sum((v - mean) ** 2 for v in known) / (len(known) - 1)) ** 0.5
    return f"{fmt(mean)} ± {fmt(sd)}"
