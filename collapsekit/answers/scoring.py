"""score: a model judged by its answers to a plan's questions, as one that runs here is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collapsekit.adapters.base import Elsewhere
from collapsekit.answers.adapter import NOT_ASKED, AnswerBook
from collapsekit.answers.formats import get_format
from collapsekit.answers.manifest import Manifest, json_line, read_ids, read_shards
from collapsekit.answers.passes import ElsewhereSubject, read_split
from collapsekit.answers.planning import PROBES, config_digest, key_of, prepare
from collapsekit.answers.question import LEFT_OUT, UNCHANGED, Codes, number_questions, to_id
from collapsekit.answers.reading import ANSWERED, FAILED, REFUSED, UNREAD, AnswerTable, read_answers
from collapsekit.config.options import DiagnoseOptions
from collapsekit.config.schema import Config
from collapsekit.context import Progress
from collapsekit.data.base import Source
from collapsekit.data.memory import with_data
from collapsekit.diagnosis import choose_probes, report_on, settle_config
from collapsekit.errors import ConfigError, NothingEvaluatedError, NumericsError, RefusedError
from collapsekit.features.examples import SplitReader
from collapsekit.io.files import write_atomic
from collapsekit.io.safe_text import clean, some
from collapsekit.report.diagnosis import Report, ReportWarning
from collapsekit.tasks.base import Task

ENGINE = "answers"  # what a report calls it
MOST_REFUSED = 0.1  # share of questions that may have no usable answer


class AnswersMissingError(NothingEvaluatedError):
    """Questions of a plan have no answer yet (exit 5).

    Causes: a batch that has not ended, or ended early; lines that were cut; answers that are errors.

    What to do: ``collapsekit score --missing FILE`` writes what is still to be asked; answer that, and give its answers
    beside the others.
    """


@dataclass(frozen=True)
class AnsweredPlan:
    """A plan's questions, and all that was answered to them."""

    folder: Path
    manifest: Manifest
    table: AnswerTable

    @classmethod
    def read(cls, questions: Path, answers: Iterable[Path]) -> AnsweredPlan:
        """Read a folder of questions and files of answers. Raises ConfigError, RefusedError."""
        manifest = Manifest.load(questions)
        numbers = read_ids(questions, manifest)
        return cls(questions, manifest, read_answers(manifest, numbers, answers))

    @cached_property
    def text_only(self) -> NDArray[np.intp]:
        """Places in the table of the questions that give one modality and nothing else, ascending."""
        size, found = len(self.manifest.modalities), []
        for split, read in self.manifest.data.items() if self.manifest.cost.text_only else ():
            for i in range(1, size + 1):  # which of them is text, the manifest does not say
                codes = np.full((read.examples, 1 + size), LEFT_OUT, np.int64)
                codes[:, 0], codes[:, i] = np.arange(read.examples), UNCHANGED
                found.append(number_questions(self.manifest.key, split, codes))
        numbers = np.concatenate([np.empty(0, np.uint64), *found])
        return np.flatnonzero(np.isin(self.table.numbers, numbers))

    @property
    def lacking(self) -> int:
        """How many questions with the text alone have no answer: a verdict does without any of them."""
        return int((self.table.states[self.text_only] <= FAILED).sum())

    def write_missing(self, path: Path) -> int:
        """Write the questions that have to be asked, or asked again, as the plan has them; return how many there are."""
        kind, open_ = get_format(self.manifest.format), {to_id(int(n)) for n in self.table.open}
        lines = (line for line in read_shards(self.folder, self.manifest) if line[kind.id_key] in open_)
        write_atomic(path, kind.pack("".join(map(json_line, lines))))
        return len(open_)

    def need_answers(self, missing: Path | None = None) -> None:
        """Raise AnswersMissingError where a question has no answer, NothingEvaluatedError where too many say nothing.

        ``missing``: the file in which the unanswered ones were written; None: in none.
        """
        table = self.table
        if len(table.open) > self.lacking:
            damaged = f"; {table.tally.damaged:,} lines are no whole answers" if table.tally.damaged else ""
            failed = f", {table.count(FAILED):,} of them with an error" if table.count(FAILED) else ""
            raise AnswersMissingError(
                f"{len(table.open):,} of {len(table.numbers):,} questions have no answer{failed} (ids "
                f"{some([to_id(int(n)) for n in table.open])}){damaged}: "
                + ("write them with --missing FILE, and ask again." if missing is None else f"ask those in {missing}.")
            )
        asked = len(table.numbers) - len(self.text_only)
        silent = sum(self._silent())
        if silent > MOST_REFUSED * asked:
            raise NothingEvaluatedError(
                f"{silent:,} of {asked:,} answers are refusals or name none of the choices, more than "
                f"{MOST_REFUSED:.0%}: ask so that the model answers, or mend `answers.choices`."
            )

    def warnings(self) -> tuple[ReportWarning, ...]:
        """Say what of the answers says nothing, and which are not there."""
        return (*self._warn_of_silent(), *self._warn_of_text_only())

    def _silent(self, *, alone: bool = False) -> tuple[int, int]:
        """Refusals, and texts that name no choice: of questions with the text alone, or of all others."""
        states = self.table.states[self.text_only] if alone else np.delete(self.table.states, self.text_only)
        return int((states == REFUSED).sum()), int((states == UNREAD).sum())

    def _warn_of_silent(self) -> Iterator[ReportWarning]:
        (refused, unread), asked = self._silent(), len(self.table.numbers) - len(self.text_only)
        if refused + unread:
            yield ReportWarning(
                name="answers_refused",
                sentence=f"{refused + unread:,} of {asked:,} answers say nothing ({refused:,} refusals, {unread:,} texts "
                "that name none of the choices): each counts as the best constant answer.",
            )

    def _warn_of_text_only(self) -> Iterator[ReportWarning]:
        """A model may well decline where a picture is missing: that is no reason to judge nothing."""
        asked, silent = len(self.text_only), sum(self._silent(alone=True))
        if self.lacking:
            sentence = (
                f"{self.lacking:,} of {asked:,} questions with the text alone have no answer: what is due to the text is "
                "judged without them."
            )
            yield ReportWarning(name="text_only", sentence=sentence)
        elif silent:
            sentence = (
                f"{silent:,} of {asked:,} answers to the text alone are refusals or name none of the choices: each counts "
                "as the best constant answer."
            )
            yield ReportWarning(name="text_only", sentence=sentence)


class Transcript(AnswerBook):
    """Answers by the number of what was asked."""

    def __init__(self, answered: AnsweredPlan, subject: ElsewhereSubject, reader: SplitReader) -> None:
        self.plan, self.table, self.subject, self.reader = answered.manifest, answered.table, subject, reader
        self._silent: Tensor | None = None
        self._lacking = answered.lacking

    def is_complete(self, split: str, codes: Codes) -> bool:
        numbers = number_questions(self.plan.key, split, codes)
        return not self._lacking and bool(np.isin(numbers, self.table.numbers).all())

    def look_up(self, split: str, codes: Codes) -> Tensor:
        numbers = number_questions(self.plan.key, split, codes)
        places = np.searchsorted(self.table.numbers, numbers).clip(max=len(self.table.numbers) - 1)
        if not (self.table.numbers[places] == numbers).all():
            raise NumericsError(NOT_ASKED)
        out = torch.from_numpy(self.table.values[places])
        silent = torch.from_numpy(self.table.states[places] != ANSWERED)
        if bool(silent.any()):
            out[silent] = self._constant()
        return out

    def _constant(self) -> Tensor:
        """The best constant answer, (1, w), as outputs."""
        if self._silent is None:
            split = "train" if "train" in self.plan.data else self.plan.split
            label = self.reader.of(split).columns[self.subject.config.data.label]
            task: Task = self.reader.adapter.task
            width = self.plan.answer.width
            targets = task.check(label, torch.zeros(len(label), width), split)
            self._silent = task.to_natural(task.prior(targets, width)).float()
        return self._silent


def need_same_data(manifest: Manifest, reader: SplitReader) -> None:
    """Raise RefusedError unless the data are those that the questions were planned on."""
    for split, planned in manifest.data.items():
        reader.adapter.source.need(split)
        found = read_split(reader, split)
        if found != planned:
            raise RefusedError(
                f"split {split!r} is not what the questions were planned on: expected {planned.examples} examples with the "
                f"digest {planned.sha256[:12]}, found {found.examples} with {found.sha256[:12]}; give the same data in the "
                "same order, or plan again."
            )


def score(
    questions: str | Path,
    answers: Sequence[str | Path],
    *,
    config: str | Path | Mapping[str, Any] | Config | None = None,
    data: Mapping[str, Any] | str | Path | None = None,
    source: Source | None = None,
    progress: Progress | None = None,
    missing: str | Path | None = None,
) -> Report:
    """Judge a model by its answers to a plan's questions.

    Args:
        questions: The folder that ``collapsekit plan`` wrote.
        answers: Files of answers, in any order.
        config: As for ``diagnose``; the one that was planned with.
        data: As for ``diagnose``; the same as were planned with.
        source: Data that are open already, in the place of ``data``.
        progress: Told how far it is.
        missing: A file for the questions that have to be asked again, written where there are any.

    Returns:
        The report, as ``diagnose`` would make it of the same model.

    Raises:
        AnswersMissingError: Where questions have no answer.
        CollapsekitError: For whatever else the caller can mend.
    """
    settled, opened = with_data(settle_config(config, None, progress, command="score"), data)
    source = opened if source is None else source
    plan = AnsweredPlan.read(Path(questions), map(Path, answers))
    if missing is not None and len(plan.table.open):
        plan.write_missing(Path(missing))
    plan.need_answers(None if missing is None else Path(missing))
    manifest = plan.manifest
    if config_digest(settled) != manifest.config_sha256:
        raise ConfigError(f"{settled.origin} is not the config that {questions} was planned with: name that one.")
    options = DiagnoseOptions.make(split=manifest.split, seed=manifest.seed, limit=manifest.limit)
    all_options = prepare(settled, source, manifest.split, manifest.options)
    subject = ElsewhereSubject.of(settled, source, manifest.limit, manifest.seed)
    subject.progress = progress or Progress()

    def book(reader: SplitReader) -> Transcript:
        need_same_data(manifest, reader)
        if key_of(subject, manifest.data) != manifest.key:
            raise RefusedError(f"{questions} contradicts itself: its key is not that of its data; plan them again.")
        return Transcript(plan, subject, reader)

    with subject.opened(manifest.answer, book, plan.warnings()) as model:
        name = clean(plan.table.model or ENGINE)
        model.adapter.elsewhere = Elsewhere(name, plan.table.digest(), ENGINE)
        return report_on(model, options, choose_probes(PROBES, ()), all_options, typed=False)
