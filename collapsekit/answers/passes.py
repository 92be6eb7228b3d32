"""Splits of a model that is elsewhere: read as any other's, and answered from a book."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from collapsekit.adapters.base import ForwardPass
from collapsekit.adapters.build import preserve_rng_state
from collapsekit.adapters.caveats import absent_as
from collapsekit.adapters.predictions.probabilities import warn_of_answers
from collapsekit.adapters.validate import finite_pass
from collapsekit.answers.adapter import KINDS, AnswerBook, AnswersAdapter, check_elsewhere, find_text
from collapsekit.answers.manifest import AnswerShape, DataRead, Kind
from collapsekit.config.schema import Config
from collapsekit.context import Progress
from collapsekit.data.base import Source
from collapsekit.data.factory import make_source
from collapsekit.errors import DataError
from collapsekit.features.examples import Examples, SplitReader
from collapsekit.features.extraction import Extraction
from collapsekit.features.features import Features
from collapsekit.io.limits import MEMORY
from collapsekit.io.spill import SpillBuffer
from collapsekit.report.diagnosis import ReportWarning
from collapsekit.session.opening import Blueprint, OpenModel


class AnswersExtraction(Extraction):
    """The passes of a model that is elsewhere. Nothing of it can be checked but what its answers are."""

    def __init__(
        self, adapter: AnswersAdapter, reader: SplitReader, progress: Progress, warnings: Sequence[ReportWarning] = ()
    ) -> None:
        """``warnings``: what the report says of the answers."""
        super().__init__(adapter, reader, progress, reader.storage)
        self.asked, self.told = adapter, tuple(warnings)

    def _pass(self, examples: Examples, rows: Tensor, check: bool) -> ForwardPass:
        start, stop = int(rows[0]), int(rows[-1]) + 1
        batch = {k: examples.columns[k][start:stop] for k in self.adapter.columns}
        places = examples.order[start:stop]
        with torch.no_grad():
            result = replace(self.asked.run(batch), prediction=self.asked.answer_rows(examples.split, places))
        if check and not start:
            found = (absent_as(self.adapter), warn_of_answers(self.adapter.task, result.prediction.outputs))
            self._warnings[examples.split] = (*(w for w in found if w is not None), *self.told)
        finite_pass(result, examples.split, places)
        return result

    def _assembled(self, examples: Examples, kept: Any) -> Features:
        made = super()._assembled(examples, kept)
        text = find_text(self.asked, examples.columns)
        alone = None if text is None else self.asked.answer_alone(examples.split, examples.order, text)
        if text is not None and alone is not None:
            made = replace(made, alone={text: alone})
            self._tell_alone(made, text)
        self.asked.read_splits[examples.split] = made, examples.order
        return made

    def _tell_alone(self, features: Features, text: str) -> None:
        """Say how far the text alone brings the model, which is what people ask of it first."""
        task, split = self.asked.task, features.split
        alone, whole = (
            float(task.metric(task.expect(given), features.targets))
            for given in (features.alone[text], features.outputs)
        )
        sentence = f"With {text} alone the model reaches {alone:.2f} {task.metric_name}, with everything {whole:.2f}."
        told = ReportWarning(name="text_only", sentence=sentence)
        self._warnings[split] = (*self._warnings.get(split, ()), told)


def read_split(reader: SplitReader, split: str) -> DataRead:
    """Tell what a split was read as: its examples, and their order, by which questions name them."""
    examples = reader.of(split)
    told = examples.digest.encode() + examples.order.numpy().astype("<i8").tobytes()
    return DataRead(examples=len(examples.order), sha256=hashlib.sha256(told).hexdigest())


@dataclass
class ElsewhereSubject:
    """A subject whose model is elsewhere: its data are read here."""

    config: Config
    source: Source
    limit: int | None
    seed: int
    progress: Progress = field(default_factory=Progress)

    @classmethod
    def of(cls, config: Config, source: Source | None, limit: int | None, seed: int) -> ElsewhereSubject:
        """Open the data.

        Args:
            config: of the subject.
            source: data that are open already; None: those of the config.
            limit: at most so many examples a split.
            seed: of what is drawn.

        Returns:
            The subject.

        Raises:
            ConfigError: for a config that says something of the model's insides.
        """
        check_elsewhere(config)
        return cls(config, make_source(config) if source is None else source, limit, seed)

    @property
    def classes(self) -> tuple[str, ...]:
        """What the choices are called, in the order of labels."""
        return self.config.answers.choices

    @contextmanager
    def opened(
        self, shape: AnswerShape, make_book: Callable[[SplitReader], AnswerBook], warnings: Sequence[ReportWarning] = ()
    ) -> Iterator[OpenModel]:
        """Open it as a model that a book answers for.

        Args:
            shape: what an answer is.
            make_book: the book, once there is a reader.
            warnings: what the report says of the answers.

        Yields:
            The open model.
        """
        with preserve_rng_state():
            adapter = AnswersAdapter(self.config, self.source, AnswerBook(), shape.width)
            reader = SplitReader(adapter, self.limit, self.seed, SpillBuffer(MEMORY))
            adapter.book = make_book(reader)
            adapter.shape = self._shape_of(shape, reader)
            extraction = AnswersExtraction(adapter, reader, self.progress, warnings)
            blueprint = Blueprint(adapter.config, None, "cpu", self.seed)
            yield OpenModel(blueprint, adapter, extraction, self.config, MEMORY, self.progress, half=False)

    def _shape_of(self, shape: AnswerShape, reader: SplitReader) -> tuple[int, ...]:
        """The axes of one answer: those of a label of several axes, whose numbers were written down one after another."""
        if shape.kind != "values":
            return (shape.width,)
        label = reader.of(self.source.splits()[0]).columns[self.config.data.label]
        return tuple(label.shape[1:]) if label.ndim > 2 and label[0].numel() == shape.width else (shape.width,)

    def find_shape(self) -> AnswerShape:
        """Find what an answer has to be, from the labels of all splits. Raises DataError."""
        adapter = AnswersAdapter(self.config, self.source, AnswerBook(), 1)
        reader = SplitReader(adapter, self.limit, self.seed, SpillBuffer(MEMORY))
        labels = [reader.of(split).columns[self.config.data.label] for split in self.source.splits()]
        kind = cast(Kind, KINDS[self.config.task])
        if kind != "classes":
            width = max((label[0].numel() for label in labels), default=1)
            return AnswerShape(kind=kind, width=width, choices=self.classes)
        most = max(int(label.max()) for label in labels) + 1
        if self.classes and most > len(self.classes):
            raise DataError(
                f"label {most - 1} has no name: `answers.choices` of {self.config.origin} names {len(self.classes)}, "
                "expected one a class, in the order of labels."
            )
        return AnswerShape(kind=kind, width=max(2, most, len(self.classes)), choices=self.classes)
