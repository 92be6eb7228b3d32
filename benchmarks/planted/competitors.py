"""What people use today to tell an ignored modality, one number a modality; which way and where the limit lies is
left to the comparison, which gives each its own best."""

from __future__ import annotations

from itertools import combinations
from math import factorial

import torch
from torch import Tensor

from collapsekit.adapters.module import ModuleAdapter
from collapsekit.features.features import Features
from collapsekit.interventions.replay import predict
from collapsekit.report.diagnosis import Report

NAMES = {
    "leave_one_out": "permutation leave-one-out drop of the metric (perceptual score, Gat et al. 2021)",
    "mm_shap": "unsigned Shapley share of the prediction (MM-SHAP, Parcalabescu & Frank 2023)",
    "ogm_ge": "unimodal-logit discrepancy ratio (OGM-GE, Peng et al. 2022)",
    "effective_rank": "effective rank of the fused representation alone",
    "prefix_gap": "prefix gap alone (Chaudhuri et al. 2025)",
}


def scores(adapter: ModuleAdapter, features: Features, report: Report) -> dict[str, dict[str, float]]:
    """Every competitor's number for every modality, on the examples of the diagnosis."""
    rank = report.find("spectrum.effective_rank")
    out = {
        "leave_one_out": _leave_one_out(adapter, features),
        "mm_shap": _mm_shap(adapter, features),
        "ogm_ge": _ogm_ge(adapter, features),
        "effective_rank": dict.fromkeys(features.modalities, rank.value if rank and rank.value else 0.0),
    }
    gaps = {m: report.find("prefix_gap.gap", modality=m) for m in features.modalities}
    out["prefix_gap"] = {m: g.value if g is not None and g.value is not None else 0.0 for m, g in gaps.items()}
    return out


def _shuffles(n: int, draws: int) -> list[Tensor]:
    return [torch.randperm(n, generator=torch.Generator().manual_seed(k)) for k in range(draws)]


def _leave_one_out(adapter: ModuleAdapter, features: Features, draws: int = 5) -> dict[str, float]:
    """Metric minus the mean metric with the modality permuted among examples."""
    task = adapter.task
    full = task.metric(task.expect(features.outputs), features.targets)
    out = {}
    for m in features.modalities:
        permuted = [
            task.metric(task.expect(predict(adapter, features, swap={m: p}).outputs), features.targets)
            for p in _shuffles(len(features), draws)
        ]
        out[m] = full - sum(permuted) / draws
    return out


def _mm_shap(adapter: ModuleAdapter, features: Features) -> dict[str, float]:
    """Mean over examples of |Shapley value| of the output the model chose, over its sum; absent features are zero,
    as MM-SHAP masks its inputs."""
    names, task = features.modalities, adapter.task
    chosen = task.expect(features.outputs).reshape(len(features), -1).argmax(1)

    def worth(present: frozenset[str]) -> Tensor:
        made = predict(adapter, features, scale={m: 0.0 for m in names if m not in present})
        values = task.expect(made.outputs).reshape(len(features), -1).double()
        return values.gather(1, chosen[:, None])[:, 0]

    known = {s: worth(s) for k in range(len(names) + 1) for s in map(frozenset, combinations(names, k))}
    size = len(names)
    phi = {}
    for m in names:
        phi[m] = torch.stack(
            [
                factorial(len(s)) * factorial(size - len(s) - 1) / factorial(size) * (known[s | {m}] - known[s])
                for s in known
                if m not in s
            ]
        ).sum(0)
    total = torch.stack([v.abs() for v in phi.values()]).sum(0).clamp_min(1e-12)
    return {m: float((v.abs() / total).mean()) for m, v in phi.items()}


def _ogm_ge(adapter: ModuleAdapter, features: Features) -> dict[str, float]:
    """Summed probability of the truth with only this modality's features, over the mean of the others'."""
    names, task = features.modalities, adapter.task
    alone = {}
    for m in names:
        outputs = predict(adapter, features, scale={k: 0.0 for k in names if k != m}).outputs
        loss = task.loss(task.expect(outputs), features.targets)
        alone[m] = float((-loss).exp().sum())
    return {m: alone[m] / max(1e-12, sum(v for k, v in alone.items() if k != m) / (len(names) - 1)) for m in names}
