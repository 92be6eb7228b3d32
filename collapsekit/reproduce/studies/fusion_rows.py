"""Rows of tables that repair networks of several fusions, and what they answer where modalities are missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from collapsekit.adapters.inserts import posts_of, substitute_missing
from collapsekit.reproduce.item import Order, Trial, rows_in_order
from collapsekit.reproduce.methods import METHODS, OF_PAPER, VANILLA
from collapsekit.reproduce.studies.subjects import Bench, Repaired, StudySubject


def row_of(model: str, method: str) -> str:
    """Name the row of a paper's model after a repair."""
    return f"{model}-like" if method == VANILLA else f"{model}-like + {method}"


def rows_of(models: Mapping[str, str]) -> tuple[str, ...]:
    """Name every row, model by model."""
    return tuple(row_of(model, method) for model in models for method in METHODS)


def printed_for(numbers: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, tuple[float, ...]]:
    """Lay a paper's numbers out by row: of each model as it is, with KD and with EBR."""
    return {row_of(m, way): tuple(r) for m, rows in numbers.items() for way, r in zip(OF_PAPER, rows, strict=True)}


def orders_of(models: Mapping[str, str], columns: Sequence[str], what: str) -> tuple[Order, ...]:
    """Claim that a number rises from a model as it is over KD to EBR: over all models, and for each.

    Args:
        models: A fusion a paper's model.
        columns: The mean over which is compared.
        what: The number, in a word or two.

    Returns:
        The orders.
    """
    steps = {way: [(row_of(m, way), c) for m in models for c in columns] for way in OF_PAPER}
    each = [
        rows_in_order(f"{what} rises from {m} over KD to EBR", [row_of(m, w) for w in steps], columns, rises=True)
        for m in models
    ]
    return Order(f"{what} rises from vanilla over KD to EBR, mean of the models", steps, True), *each


def repaired_fusions(
    trial: Trial, subject: StudySubject, models: Mapping[str, str]
) -> Iterator[tuple[str, Repaired, StudySubject]]:
    """Train a network a fusion, and repair each by every method; in a smoke run the first fusion alone.

    Args:
        trial: Which seed.
        subject: Data and training, the same for all.
        models: A fusion a paper's model.

    Yields:
        The row's name, the network, and what it was trained on.
    """
    for model, fusion in list(models.items())[: 1 if trial.quick else None]:
        own = replace(subject, fusion=fusion)
        for repaired in Bench(trial, own).rows():
            yield row_of(model, repaired.row), repaired, own


def answer(repaired: Repaired, arrays: Mapping[str, Tensor], split: str, absent: Sequence[str] = ()) -> Tensor:
    """Compute logits where modalities are missing from every example.

    A missing modality is zeros. In a network with heads, another modality's encoding stands in for it (Chaudhuri et al.
    2025, section 4.4): its input is ones then, and is not read.

    Args:
        repaired: The network.
        arrays: By SPLIT/NAME.
        split: On which.
        absent: What is missing.

    Returns:
        Logits (n, classes).
    """
    model = repaired.adapter.model
    heads = bool(posts_of(model, "basis"))
    fill = torch.ones_like if heads else torch.zeros_like
    n = len(arrays[f"{split}/label"])
    x = {m: fill(v) if m in absent else v for m, v in _inputs(arrays, split).items()}
    masks = {m: torch.ones(n, dtype=torch.bool) for m in absent}
    model.eval()
    with torch.no_grad(), substitute_missing(model, masks) if heads else nullcontext():
        logits: Tensor = model(**x)
    return logits


def _inputs(arrays: Mapping[str, Tensor], split: str) -> dict[str, Tensor]:
    begin = f"{split}/"
    return {k.removeprefix(begin): v for k, v in arrays.items() if k.startswith(begin) and k != f"{begin}label"}
