"""A subject's examples as users hold them: batches of tensors, or a DataLoader whose collate_fn makes those of examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.generative.models import labels_of
from benchmarks.generative.subjects import SIZES, Subject
from benchmarks.generative.worlds import Examples

AT_ONCE = 100


def hand_over(subject: Subject, diagnosed: int) -> dict[str, Any]:
    """Make the splits that a diagnosis is given, of which the last has as many examples as are to be diagnosed."""
    sizes = {**SIZES, "test": diagnosed}
    splits = {s: subject.sample(n, 100 * subject.seed + 50 + i) for i, (s, n) in enumerate(sizes.items())}
    return {s: _collated(subject, e) if subject.of.in_examples else _batches(subject, e) for s, e in splits.items()}


def _batches(subject: Subject, examples: Examples) -> Iterable[dict[str, Tensor]]:
    return [_with_labels(subject, examples.take(rows)) for rows in torch.arange(len(examples)).split(AT_ONCE)]


def _with_labels(subject: Subject, examples: Examples) -> dict[str, Tensor]:
    batch = subject.of.batch(examples, subject.masked)
    return {**batch, "labels": labels_of(examples, batch["input_ids"].shape[1])}


def _collated(subject: Subject, examples: Examples) -> Any:
    each = [
        {"image": image, "question": words, "answer": answer}
        for image, words, answer in zip(examples.images, examples.words, examples.answers, strict=True)
    ]

    def collate(some: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        fields = [[one[name] for one in some] for name in ("image", "question", "answer")]
        return _with_labels(subject, Examples(fields[0], torch.stack(fields[1]), torch.stack(fields[2])))

    return DataLoader(each, batch_size=AT_ONCE, collate_fn=collate)  # type: ignore[arg-type]
