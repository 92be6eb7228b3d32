"""The rank of the fused features, and how alike they are to a modality's, as one modality is upweighted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from collapsekit.errors import NumericsError
from collapsekit.report.diagnosis import Report
from collapsekit.reproduce.item import Point, Trial, columns_in_order, rows_in_order
from collapsekit.reproduce.methods import EBR, HEADS, KEPT, METHODS, OF_PAPER, VANILLA, over_repairs
from collapsekit.reproduce.studies.subjects import Bench, StudySubject, take_modalities, train_ordinarily
from collapsekit.stats.linalg.spectrum import effective_rank, singular_values_svd

BETAS = ("0", "1", "2", "4", "6", "8")
BASELINE = "unimodal baseline"
LIKENESS = {
    (row, side): f"{row}: likeness of the {side}est" for side in ("weak", "strong") for row in OF_PAPER
}  # a row of the paper's panels (b) and (d)
UP = ("1", "2", "4", "6", "8")
FACTS: dict[str, Any] = {
    "claim": "The rank of the vanilla network falls fast with β, most of all around 4, under that of the unimodal baseline; "
    "with KD and more so with EBR it is higher and stays. Both modalities are more like the fused features with EBR.",
    "rows": (*METHODS, BASELINE, *LIKENESS.values()),
    "columns": BETAS,
    "column_label": "β",
    "measured": "effective rank (likeness: CKA, %)",
    "orders": (
        over_repairs("rank", UP, rises=True),
        columns_in_order("the vanilla network's rank falls with β", UP, (VANILLA,), rises=False),
        rows_in_order(
            "at β = 8 the vanilla network's rank is under the baseline's", (BASELINE, VANILLA), ("8",), rises=False
        ),
        rows_in_order("rank with EBR is above that of heads alone (our control)", (HEADS, EBR), UP, rises=True),
        *(
            rows_in_order(
                f"the {side}est is more like the fused features from vanilla over KD to EBR",
                [LIKENESS[row, side] for row in OF_PAPER],
                UP,
                rises=True,
            )
            for side in ("weak", "strong")
        ),
    ),
    "notes": (KEPT, "The figure draws ranks; likeness stands in the table alone."),
    "drawn": "lines",
}
HOW = (
    "β multiplies the modality's features before the fusion, with all weights as they are; the rank is the effective one of "
    "64 fused neurons on test examples, the paper's is of another width. The baseline is a network of the weakest modality "
    "alone, with the same layers."
)


def follow_beta(trial: Trial, subject: StudySubject, strong: str) -> Iterator[Point]:
    """Yield rank over β for every row, and likeness for the paper's.

    Args:
        trial: Which seed.
        subject: Whose weak modality is upweighted.
        strong: The strongest modality.

    Yields:
        Points.

    Raises:
        NumericsError: Where a curve is not there.
    """
    bench = Bench(trial, subject)
    for repaired in bench.rows():
        betas = {"betas": tuple(map(float, BETAS)), "modality": subject.weak}
        report = bench.diagnose(repaired, ["rank_sweep"], rank_sweep=betas)
        for beta, rank in _curve(report, "rank_sweep.effective_rank", subject.weak, None):
            yield Point(repaired.row, beta, rank)
        for side, modality in (("weak", subject.weak), ("strong", strong)):
            if (repaired.row, side) in LIKENESS:
                for beta, cka in _curve(report, "rank_sweep.cka", subject.weak, modality):
                    yield Point(LIKENESS[repaired.row, side], beta, 100 * cka)
    alone = rank_alone(subject)
    for beta in BETAS:
        yield Point(BASELINE, beta, alone)


def rank_alone(subject: StudySubject) -> float:
    """Train a network of the weak modality alone.

    Args:
        subject: Whose.

    Returns:
        The effective rank of its last features before the head, on the test split.
    """
    single = StudySubject(
        take_modalities(subject.arrays, [subject.weak]), subject.weak, subject.seed, subject.epochs, subject.fusion
    )
    network = train_ordinarily(single)
    with torch.no_grad():
        features = network.fusion(network.encoders[subject.weak](subject.arrays[f"test/{subject.weak}"]))  # type: ignore[operator,index]
    return effective_rank(singular_values_svd(features))


def _curve(report: Report, name: str, modality: str, versus: str | None) -> Iterator[tuple[str, float]]:
    result = report.find(name, modality, versus)
    if result is None or result.curve is None:
        why = "it was not measured" if result is None else result.skipped or result.error
        raise NumericsError(f"{name} of {modality} is not there: {why}")
    for x, y in zip(result.curve.x, result.curve.y, strict=True):
        yield f"{x:g}", y
