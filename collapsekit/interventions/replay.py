"""What if a modality were different: fusion and head run again on altered recordings; encoders do not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from collapsekit.adapters.base import Adapter, Prediction
from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.distributed.process_group import current
from collapsekit.errors import CollapsekitError
from collapsekit.features.batching import chunk_of, shared_rows
from collapsekit.features.features import Features
from collapsekit.interventions.edits import Edit, Piece, cut_pieces, gather_edits
from collapsekit.stats.threads import threads_for

SENDING = 400.0  # operations for every byte of an answer from which on processes answer in turn and tell one another


class EditAnswers(ABC):
    """An adapter whose model is not here: what was asked of it was answered already, edit by edit."""

    @abstractmethod
    def answer_edits(self, features: Features, index: Tensor, pieces: Sequence[Piece]) -> Prediction:
        """Look up what the model said to pieces of questions.

        Args:
            features: n examples.
            index: rows of them that each question is about, int64 (r,); pieces are parts of it.
            pieces: what is altered in which of these rows; b rows in all.

        Returns:
            The prediction for the pieces' rows, one after another, (b, ...).

        Raises:
            NumericsError: for what the model was never asked.
        """


def predict(
    adapter: Adapter,
    features: Features,
    *,
    scale: Mapping[str, float] | None = None,
    swap: Mapping[str, Tensor] | None = None,
    hold: Collection[str] = (),
    rows: Tensor | None = None,
    seed: int = 0,
) -> Prediction:
    """Run fusion and head on recorded features, altered as in ``Edit``, in chunks.

    Args:
        adapter: the model.
        features: n recorded examples.
        scale: by modality, what its features are multiplied by.
        swap: by modality, the rows that it is taken from instead, int64 (r,); its raw inputs move with it.
        hold: modalities that are held at their mean.
        rows: the examples to answer, int64 (r,); None: all.
        seed: of what a model draws that samples.

    Returns:
        The prediction for ``rows``, in float32 on the CPU: fused (r, D), outputs (r, ...).
    """
    index, size = torch.arange(len(features)) if rows is None else rows, chunk_of(features)
    pieces = cut_pieces([Edit(scale or {}, swap or {}, hold)], len(index), size, mixed=False)
    return next(_answers(adapter, features, index, pieces, size, seed))


def predict_many(adapter: Adapter, features: Features, asked: Iterable[Edit]) -> Iterator[Prediction]:
    """Answer many questions as ``predict`` does, up to rounding.

    Rows of many questions share a forward where the model answers each row by itself, since entering a model costs more
    than a few hundred rows of a small fusion.

    Args:
        adapter: the model.
        features: n recorded examples.
        asked: the questions, each about all examples.

    Returns:
        The prediction for each question, in order: fused (n, D), outputs (n, ...).
    """
    index = torch.arange(len(features))
    if not by_row(adapter, features):
        size = chunk_of(features)
        return _answers(adapter, features, index, cut_pieces(asked, len(index), size, mixed=False), size)
    size = shared_rows(features)
    return _answers(adapter, features, index, cut_pieces(asked, len(index), size, mixed=True), size)


def by_row(adapter: Adapter, features: Features) -> bool:
    """Tell whether the model answers an example alike in whatever company: a few, in two halves and together."""
    if features.facts.answers_by_row is None:
        features.facts.answers_by_row = _by_row(adapter, features)
    return features.facts.answers_by_row


def count_compared(features: Features, n: int) -> int:
    """Count the rows that ``by_row`` answers in two ways, of n examples such as these: 0 where it need not."""
    count = min(64, n // 2 * 2)
    return 0 if count < 4 or features.batch is not None else count


def _by_row(adapter: Adapter, features: Features) -> bool:
    count = count_compared(features, len(features))
    if not count:
        return False
    index = torch.arange(count)
    try:
        whole, *halves = (predict(adapter, features, rows=r) for r in (index, *index.chunk(2)))
    except CollapsekitError:  # a model that wants whole batches, say
        return False
    parts = ((whole.fused, [h.fused for h in halves]), (whole.outputs, [h.outputs for h in halves]))
    return all(torch.allclose(torch.cat(b), a, rtol=0, atol=1e-4 * float(a.abs().max())) for a, b in parts if a.numel())


def _answers(
    adapter: Adapter, features: Features, index: Tensor, forwards: Iterator[list[Piece]], size: int, seed: int = 0
) -> Iterator[Prediction]:
    """The prediction for each question, its pieces put together again; ``size``: rows of a full forward; ``seed``: of each
    question."""
    a_row = 2.0 * sum(p.numel() for p in adapter.fusion_parameters())

    def answer(pieces: list[Piece]) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        if isinstance(adapter, EditAnswers):
            known = adapter.answer_edits(features, index, pieces)
            return known.fused, known.outputs, [(p.start, p.stop) for p in pieces]
        with torch.no_grad(), threads_for(size * a_row), preserve_rng_state():
            recorded, inputs = gather_edits(adapter, features, index, pieces)
            seed_everything(seed)  # a model that is random in eval mode still answers the same question the same way
            result = adapter.rerun(recorded, inputs).on_cpu().single()
        return result.fused, result.outputs, [(p.start, p.stop) for p in pieces]

    fused: list[Tensor] = []
    outputs: list[Tensor] = []
    sent = 4 * (features.fused[0].numel() + features.outputs[0].numel())
    worth_sharing = a_row >= SENDING * sent
    for z_all, y_all, places in (current().map if worth_sharing else map)(answer, forwards):
        sizes = [stop - start for start, stop in places]
        for (_, stop), z, y in zip(places, z_all.split(sizes), y_all.split(sizes), strict=True):
            fused.append(z)
            outputs.append(y)
            if stop == len(index):
                yield Prediction(torch.cat(fused), torch.cat(outputs))
                fused, outputs = [], []
