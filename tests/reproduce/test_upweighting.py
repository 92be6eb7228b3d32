"""The unimodal baseline of the sweeps over β, and the areas of Table 5."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from collapsekit.reproduce.items.s1_table5 import areas_of
from collapsekit.reproduce.studies.subjects import StudySubject, take_modalities, train_ordinarily
from collapsekit.reproduce.studies.upweighting import rank_alone
from tests.reproduce.synthetic import make_synthetic


def test_the_baseline_is_the_rank_of_a_network_of_the_weak_modality_alone() -> None:
    subject = make_synthetic(epochs=5)
    single = StudySubject(take_modalities(subject.arrays, ["b"]), "b", 0, 5)
    network: Any = train_ordinarily(single)
    with torch.no_grad():
        x = network.fusion.layers(network.encoders["b"](subject.arrays["test/b"])).double().numpy()
    sigma = np.linalg.svd(x - x.mean(0), compute_uv=False)
    p = sigma / sigma.sum()
    p = p[p > 1e-12]
    assert np.isclose(rank_alone(subject), np.exp(-(p * np.log(p)).sum()), rtol=1e-4)
    noise = {**subject.arrays, "train/a": torch.zeros_like(subject.arrays["train/a"])}
    assert rank_alone(StudySubject(noise, "b", 0, 5)) == rank_alone(subject)


def test_the_areas_are_scikit_learns_of_probabilities() -> None:
    subject = make_synthetic(epochs=1)
    network = train_ordinarily(subject)
    bench = SimpleNamespace(subject=subject)
    repaired = SimpleNamespace(row="random", adapter=SimpleNamespace(model=network))
    points = {p.column: p.value for p in areas_of(cast(Any, bench), cast(Any, repaired))}
    with torch.no_grad():
        scores = network(a=subject.arrays["test/a"], b=subject.arrays["test/b"]).double().softmax(1).numpy()
    truth = np.eye(3)[subject.arrays["test/label"].numpy()]
    assert np.isclose(points["AUC-ROC"], roc_auc_score(truth, scores, average="macro"))
    assert np.isclose(points["AUC-PRC"], average_precision_score(truth, scores, average="macro"))
