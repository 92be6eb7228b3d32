"""Rounds: more questions only while the answers so far leave a verdict open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from collapsekit.answers.formats import get_format
from collapsekit.answers.manifest import Manifest, read_ids, write_shards
from collapsekit.answers.planning import QuestionPlan, make_plan
from collapsekit.answers.question import number_questions
from collapsekit.answers.scoring import score
from collapsekit.config.options import PlanOptions
from collapsekit.config.schema import Config
from collapsekit.context import Progress
from collapsekit.data.base import Source
from collapsekit.report.diagnosis import Report


@dataclass(frozen=True)
class NextRound:
    """What is still to be asked, with twice the draws; nothing, where every verdict stands or there are no more draws."""

    report: Report  # by the answers so far
    before: Manifest
    plan: QuestionPlan | None  # the new questions alone

    @property
    def undecided(self) -> tuple[str, ...]:
        """The modalities whose verdict is open."""
        return tuple(m for m, v in self.report.modalities.items() if v.verdict == "inconclusive")

    @property
    def count(self) -> int:
        """How many questions are new."""
        return 0 if self.plan is None else sum(map(len, self.plan.codes.values()))

    def save(self, folder: Path) -> Manifest:
        """Add the new questions to their folder: shards first, and then the manifest that names them."""
        assert self.plan is not None
        shards = write_shards(folder, self.plan.lines(), get_format(self.before.format), len(self.before.shards))
        total = self.before.cost.questions + self.count
        cost = self.plan.manifest.cost.model_copy(update={"questions": total, "forwards": total})
        manifest = self.plan.manifest.model_copy(update={"shards": (*self.before.shards, *shards), "cost": cost})
        manifest.save(folder)
        read_ids(folder, manifest)
        return manifest


def plan_next(
    folder: Path,
    answers: Sequence[Path],
    config: Config,
    source: Source | None = None,
    progress: Progress | None = None,
) -> NextRound:
    """Find what still matters: twice the draws of each absent modality, where a verdict is open.

    Args:
        folder: the questions so far.
        answers: files of their answers, all of them.
        config: the one that was planned with.
        source: data that are open already; None: those of the config.
        progress: told how far it is.

    Returns:
        The round, of which nothing is written yet.

    Raises:
        AnswersMissingError: where a question has no answer yet.
        CollapsekitError: for whatever else the caller can mend.
    """
    before = Manifest.load(folder)
    report = score(folder, answers, config=config, source=source, progress=progress)
    found = NextRound(report, before, None)
    if not found.undecided:
        return found
    options = {name: dict(values) for name, values in before.options.items()}
    options.setdefault("reliance", {})["draws"] = 2 * max(before.draws.values())
    words = {"split": before.split, "seed": before.seed, "limit": before.limit, "format": before.format}
    plan = make_plan(config, PlanOptions.make(**words, options=options), source, progress)
    known = read_ids(folder, before)
    codes = {
        split: rows[~np.isin(number_questions(before.key, split, rows), known)] for split, rows in plan.codes.items()
    }
    more = replace(found, plan=replace(plan, codes=codes))
    return more if more.count else found
