"""A model that is elsewhere, as an adapter: its answers are looked up by what was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from collapsekit.adapters.base import Activations, Change, ForwardPass, Prediction, TrainPass
from collapsekit.adapters.live.inputs import record_inputs
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.answers.question import LEFT_OUT, STAND_IN, UNCHANGED, Codes
from collapsekit.config.schema import Config, ModelConfig
from collapsekit.data.base import Batch, Source, is_stored
from collapsekit.errors import ConfigError, NumericsError
from collapsekit.features.features import Features
from collapsekit.interventions.edits import Edit, Piece
from collapsekit.interventions.replay import EditAnswers

KINDS = {"classification": "classes", "multilabel": "labels", "regression": "values"}
NOT_ASKED = "its answers came through files, and this was not asked of it"


class AnswerBook:
    """Where answers are looked up, or questions written down; this one has none."""

    def is_complete(self, split: str, codes: Codes) -> bool:
        """Tell whether all questions with one modality alone are answered, in every split, these (q, 1 + m) among them."""
        del split, codes
        return True

    def look_up(self, split: str, codes: Codes) -> Tensor:
        """Return outputs (q, w) for what is asked, codes (q, 1 + m). Raises NumericsError for what was not asked."""
        raise NumericsError(NOT_ASKED)


class _NotHere(nn.Module):
    """Stands in a model's place, which is elsewhere."""


class AnswersAdapter(ModuleAdapter, EditAnswers):
    """A model that is asked through files: its inputs are at hand, its answers are looked up, and nothing else of it is."""

    why_not_fresh: ClassVar[str] = (
        "a model that is elsewhere cannot be trained here: name what one of your own says of each modality alone "
        "(`predictions` in the config)"
    )

    def __init__(self, config: Config, source: Source, book: AnswerBook, width: int) -> None:
        super().__init__(config, model=_NotHere(), source=source)
        self.book, self.width = book, width
        self.shape: tuple[int, ...] = (
            width,
        )  # of one answer: that of labels of several axes, such as chunks of actions
        self.read_splits: dict[str, tuple[Features, Tensor]] = {}  # features as they were read, and each one's place

    def run(self, batch: Batch) -> ForwardPass:
        """Record inputs as they are; outputs are nobody's, and 0."""
        self.cast = self.cast or frozenset(k for k in self.batch_keys if batch[k].dtype == torch.uint8)
        recorded = {m: record_inputs(self, m, batch) for m in self.modalities}
        pooled = {m: self.pool(m, self.features_of(m, recorded[m]), batch).float() for m in self.modalities}
        return ForwardPass(recorded, pooled, self._prediction_of(torch.zeros(_rows(batch), self.width)))

    def answer_rows(self, split: str, places: Tensor) -> Prediction:
        """Look up what the model said to examples as they are, by their places (r,)."""
        codes = np.full((len(places), 1 + len(self.modalities)), UNCHANGED, np.int64)
        codes[:, 0] = places.numpy()
        return self._prediction_of(self.book.look_up(split, codes))

    def answer_alone(self, split: str, places: Tensor, modality: str) -> Tensor | None:
        """Look up what the model said to one modality and nothing else.

        Args:
            split: of the examples.
            places: of each in its split, (r,).
            modality: that was given.

        Returns:
            Outputs (r, w); None where not all such questions are answered.
        """
        codes = np.full((len(places), 1 + len(self.modalities)), LEFT_OUT, np.int64)
        codes[:, 0], codes[:, 1 + self.modalities.index(modality)] = places.numpy(), UNCHANGED
        return self.book.look_up(split, codes) if self.book.is_complete(split, codes) else None

    def answer_edits(self, features: Features, index: Tensor, pieces: Sequence[Piece]) -> Prediction:
        known, places = self.read_splits[features.split]
        if known.recorded is not features.recorded:  # other rows, or altered ones: their numbers mean something else
            raise NumericsError(NOT_ASKED)
        parts = [self.encode_edit(features, places, p.asked, index[p.start : p.stop], p.start) for p in pieces]
        return self._prediction_of(self.book.look_up(features.split, np.concatenate(parts)))

    def encode_edit(self, features: Features, places: Tensor, edit: Edit, rows: Tensor, start: int) -> Codes:
        """Write what is asked of some examples as codes.

        Args:
            features: the examples.
            places: of each in its split, (n,).
            edit: what is asked, with lenders for these rows from ``start`` on.
            rows: of the examples, (r,).
            start: where the rows' lenders begin.

        Returns:
            Codes (r, 1 + m). Raises NumericsError for an edit that is no exchange.
        """
        if edit.scale or edit.hold:
            raise NumericsError(NOT_ASKED)
        codes = np.full((len(rows), 1 + len(self.modalities)), UNCHANGED, np.int64)
        codes[:, 0] = places[rows].numpy()
        for i, m in enumerate(self.modalities, 1):
            wanted = edit.find_lenders(m)
            if wanted is None:
                continue
            lenders = wanted[start : start + len(rows)]
            stand = features.substitutes.get(m) if m in edit.absent else None
            if stand is not None:
                there = features.present.get(m)
                code = STAND_IN - lenders % stand.count
                code = code if there is None else torch.where(there[rows], code, UNCHANGED)
            else:
                lent = features.lenders(m, rows, lenders)
                code = torch.where(lent == rows, UNCHANGED, places[lent])
            codes[:, i] = code.numpy()
        return codes

    def _prediction_of(self, outputs: Tensor) -> Prediction:
        return Prediction(torch.zeros(len(outputs), 0), outputs.reshape(len(outputs), *self.shape))

    def rerun(self, recorded: Mapping[str, Activations], inputs: Batch) -> NoReturn:
        raise NumericsError(NOT_ASKED)

    def outputs_of(self, recorded: Mapping[str, Activations], inputs: Batch) -> NoReturn:
        raise NumericsError(NOT_ASKED)

    def live(self, modality: str, recorded: Mapping[str, Activations], inputs: Batch) -> NoReturn:
        raise NumericsError(NOT_ASKED)

    def run_live(self, batch: Batch, change: Mapping[str, Change] | None = None) -> TrainPass:
        raise NumericsError(NOT_ASKED)

    def fresh(self, seed: int, *, trained: Any = None) -> None:
        return None


def find_text(adapter: AnswersAdapter, columns: Batch) -> str | None:
    """Find the modality that the model is asked about with nothing else: the only one of text, where choices are named."""
    config, objects = adapter.config, adapter.source.objects
    if not (config.answers.choices and config.answers.text_only):
        return None

    def is_text(key: str) -> bool:
        return is_stored(objects, key, columns[key]) and isinstance(objects[key].take(columns[key][:1])[0], str)

    texts = [m for m in adapter.modalities if all(map(is_text, adapter.input_keys(m)))]
    found = texts[0] if len(texts) == 1 < len(adapter.modalities) else None
    return None if found is None or config.modalities[found].predictions is not None else found


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def check_elsewhere(config: Config) -> None:
    """Raise ConfigError for a config that says something of the model's insides, which nobody sees from here."""
    where = f"{config.origin} names"
    why = "of which only its answers are known: leave it out, or give the questions a config of their own"
    named = [key for key in ("fusion", "head", "output") if getattr(config, key) is not None]
    named += ["subsets"] if config.subsets else []
    named += ["adapter"] if config.adapter != "module" else []
    own = config.model.model_dump(exclude_defaults=True)
    named += [f"model.{key}" for key in own if key != "seed" and key in ModelConfig.model_fields]
    named += [f"modalities.{m}.encoder" for m, section in config.modalities.items() if section.encoder is not None]
    if named:
        raise ConfigError(f"{where} {named[0]}, a part of a model that is elsewhere, {why}.")
    if config.task not in KINDS:
        raise ConfigError(
            f"{config.origin} has the task {config.task!r}, whose answers cannot be asked through files yet: expected "
            f"{', '.join(KINDS)}; diagnose a model of that task in process."
        )
    if config.data.edit == "examples":
        raise ConfigError(
            f"{config.origin} has `data.edit: examples`, which is for models here: leave it out, as each question is one "
            "example anyway."
        )
