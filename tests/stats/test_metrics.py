"""Metrics against scikit-learn."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from collapsekit.errors import NumericsError
from collapsekit.stats import metrics
from collapsekit.stats.metrics import accuracy, auroc, balanced_accuracy, macro_auroc, macro_auroc_left_out, r2

QUICK = settings(max_examples=25, deadline=None, derandomize=True)


@QUICK
@given(seed=st.integers(0, 999), n=st.integers(1, 60))
def test_accuracies_equal_scikit_learn(seed: int, n: int) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 5, generator=g)
    y = torch.randint(0, 4, (n,), generator=g)  # class 4 is never there
    predicted = logits.argmax(dim=1)
    assert accuracy(logits, y) == pytest.approx(sk.accuracy_score(y, predicted), abs=1e-12)
    recalls = sk.recall_score(y, predicted, labels=sorted(set(y.tolist())), average="macro", zero_division=0)
    assert balanced_accuracy(logits, y) == pytest.approx(recalls, abs=1e-12)


def test_balanced_accuracy_weighs_classes_alike() -> None:
    logits = torch.tensor([[1.0, 0.0]] * 10)
    y = torch.tensor([0] * 9 + [1])
    assert accuracy(logits, y) == pytest.approx(0.9)
    assert balanced_accuracy(logits, y) == pytest.approx(0.5)


@QUICK
@given(seed=st.integers(0, 999), levels=st.sampled_from([1, 2, 5, 1000]))
def test_auroc_equals_scikit_learn_with_ties(seed: int, levels: int) -> None:
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, levels, (50,), generator=g).float()
    y = torch.rand(50, generator=g) < 0.3
    y[:2] = torch.tensor([True, False])
    assert auroc(scores, y) == pytest.approx(sk.roc_auc_score(y, scores), abs=1e-12)
    assert auroc(-scores, y) == pytest.approx(1 - auroc(scores, y), abs=1e-12)
    assert auroc(scores**3 - 7, y.long()) == pytest.approx(auroc(scores, y), abs=1e-12)


def test_macro_auroc_skips_labels_of_one_class() -> None:
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 4, generator=g)
    y = (torch.rand(40, 4, generator=g) < 0.4).long()
    assert macro_auroc(scores, y) == pytest.approx(sk.roc_auc_score(y, scores, average="macro"), abs=1e-12)
    y[:, 1], y[:, 2] = 0, 1
    keep = [0, 3]
    assert macro_auroc(scores, y) == pytest.approx(sk.roc_auc_score(y[:, keep], scores[:, keep]), abs=1e-12)
    with pytest.raises(NumericsError, match="none of 2"):
        macro_auroc(scores[:, 1:3], y[:, 1:3])


@QUICK
@given(seed=st.integers(0, 999), levels=st.sampled_from([1, 3, 1000]), table=st.sampled_from([7, 130, 1 << 20]))
def test_macro_auroc_without_each_group_is_computing_anew(seed: int, levels: int, table: int) -> None:
    """In blocks of any width, with ties, groups of unlike sizes, and labels that lose a class with a group."""
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, levels, (40, 7), generator=g).double()
    y = torch.rand(40, 7, generator=g) < torch.linspace(0.02, 0.9, 7)
    groups = (torch.rand(40, generator=g) * 5).floor().long()
    groups[:5], y[:3, 6], y[3:6, 6] = torch.arange(5), True, False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_TABLE", table)
        found = macro_auroc_left_out(scores, y, groups)
    for k in range(-1, 5):
        kept = groups != k
        some, labels = scores[kept], y[kept]
        mixed = [c for c in range(7) if 0 < int(labels[:, c].sum()) < len(labels)]
        truth = sum(sk.roc_auc_score(labels[:, c], some[:, c]) for c in mixed) / len(mixed)
        assert float(found[1 + k]) == pytest.approx(truth, abs=1e-12)
        assert float(found[1 + k]) == macro_auroc(some, labels)


def test_macro_auroc_takes_time_linear_in_labels() -> None:
    """Four times as many labels take about four times as long, by the processor's own clock, and no call a label."""
    g, groups = torch.Generator().manual_seed(0), torch.arange(200) % 16
    scores, y = torch.rand(200, 2000, generator=g), torch.rand(200, 2000, generator=g) < 0.3

    def seconds(labels: int) -> float:
        times = []
        for _ in range(3):
            start = time.process_time()
            macro_auroc_left_out(scores[:, :labels], y[:, :labels], groups)
            times.append(time.process_time() - start)
        return min(times)

    seconds(20)
    few, many = seconds(500), seconds(2000)
    assert many < 10 * few
    assert many < 1.0  # a loop over labels and groups takes three


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_r2_equals_scikit_learn_on_outputs_that_vary(offset: float) -> None:
    g = torch.Generator().manual_seed(1)
    y = torch.randn(30, 3, generator=g, dtype=torch.float64) + offset
    pred = y + torch.randn(30, 3, generator=g, dtype=torch.float64)
    assert r2(pred, y) == pytest.approx(sk.r2_score(y, pred), rel=1e-7)
    y[:, 1] = offset + 0.1
    assert r2(pred, y) == pytest.approx(sk.r2_score(y[:, [0, 2]], pred[:, [0, 2]]), rel=1e-7)
    assert r2(y, y) == 1.0
    assert r2(y.mean(dim=0).expand_as(y), y) == pytest.approx(0.0, abs=1e-9)


def test_input_without_a_metric_is_refused() -> None:
    logits, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    for metric in (accuracy, balanced_accuracy):
        for bad_logits, bad_y in (
            (logits[:0], y[:0]),
            (logits, y[1:]),
            (logits, y + 1),
            (logits, y - 100),
            (logits, y.float()),
            (logits * float("nan"), y),
        ):
            with pytest.raises(NumericsError):
                metric(bad_logits, bad_y)
    for scores, labels in (
        (torch.ones(4), torch.ones(4)),
        (torch.ones(4), torch.zeros(4)),
        (torch.ones(0), torch.zeros(0)),
        (torch.ones(4), y),
        (torch.ones(4), torch.ones(3)),
        (logits, logits > 0),
        (torch.full((4,), float("nan")), y > 0),
    ):
        with pytest.raises(NumericsError):
            auroc(scores, labels)
    for pred, target in (
        (torch.ones(3, 2), torch.ones(3, 2)),
        (torch.ones(3, 2), torch.ones(3, 1)),
        (logits[:1], logits[:1]),
    ):
        with pytest.raises(NumericsError):
            r2(pred, target)
