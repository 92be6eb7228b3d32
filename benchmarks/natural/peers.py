"""What people use today to tell an ignored modality: those of the planted benchmark, and how redundant its features are."""

from __future__ import annotations

import torch

from benchmarks.planted import competitors
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.features.features import Features
from collapsekit.report.diagnosis import Report

REDUNDANCY = "redundancy"
NAMES = {**competitors.NAMES, REDUNDANCY: "redundancy of its features (variance inflation beside the others)"}


def scores(adapter: ModuleAdapter, features: Features, report: Report) -> dict[str, dict[str, float]]:
    """Find every peer's number for every modality, on the examples of the diagnosis."""
    out = competitors.scores(adapter, features, report)
    out[REDUNDANCY] = {m: redundancy(features, m) for m in features.modalities}
    return out


def redundancy(features: Features, modality: str) -> float:
    """How much of a modality's features the others' say: R² of the best linear readout, over all its columns.

    That is 1 - 1/VIF of a block instead of a column (Belsley, Kuh & Welsch 1980, 3.2), with a ridge of a hundredth.
    """
    own = features.pooled[modality].double()
    others = torch.cat([v.double() for m, v in features.pooled.items() if m != modality], 1)
    own, others = own - own.mean(0), others - others.mean(0)
    spread = others.std(0)
    others = others / torch.where(spread > 1e-12, spread, 1.0)
    gram = others.T @ others + 1e-2 * len(others) * torch.eye(others.shape[1], dtype=torch.float64)
    left = own - others @ torch.linalg.solve(gram, others.T @ own)
    return float(1 - left.square().sum() / own.square().sum().clamp_min(1e-24))
