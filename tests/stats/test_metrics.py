"""Metrics against scikit-learn."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from collapsekit.errors import NumericsError
from collapsekit.stats import metrics
from collapsekit.stats.metrics import (
    accuracy,
    balanced_accuracy,
    count_rarer,
    macro_auroc,
    macro_auroc_left_out,
    macro_average_precision,
    macro_average_precision_left_out,
    macro_f1,
    macro_f1_of_labels,
    micro_average_precision,
    micro_average_precision_left_out,
    r2,
)


def auroc(scores: torch.Tensor, y: torch.Tensor) -> float:
    """Of one label."""
    return macro_auroc(scores[:, None], y[:, None])


def average_precision(scores: torch.Tensor, y: torch.Tensor) -> float:
    """Of one label."""
    return macro_average_precision(scores[:, None], y[:, None])


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
    assert macro_f1(logits, y) == pytest.approx(sk.f1_score(y, predicted, average="macro"), abs=1e-12)


@QUICK
@given(seed=st.integers(0, 999), n=st.integers(1, 40), share=st.sampled_from([0.05, 0.5, 0.9]))
def test_macro_f1_of_labels_equals_scikit_learn(seed: int, n: int, share: float) -> None:
    g = torch.Generator().manual_seed(seed)
    scores, y = torch.rand(n, 4, generator=g), torch.rand(n, 4, generator=g) < share
    scores[:, 2], y[:, 2] = 0.5, False  # not above the threshold: neither there nor answered
    answered = scores > 0.5
    if bool((y | answered).any()):
        truth = sk.f1_score(y, answered, average="macro", zero_division=float("nan"))
        assert macro_f1_of_labels(scores, y) == pytest.approx(truth, abs=1e-12)
    with pytest.raises(NumericsError, match="none of 1"):
        macro_f1_of_labels(scores[:, 2:3], y[:, 2:3])


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
@given(seed=st.integers(0, 999), levels=st.sampled_from([1, 2, 5, 1000]), share=st.sampled_from([0.02, 0.3, 0.95]))
def test_average_precision_equals_scikit_learn_with_ties(seed: int, levels: int, share: float) -> None:
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, levels, (50,), generator=g).float()
    y = torch.rand(50, generator=g) < share
    y[:2] = torch.tensor([True, False])
    found, order = average_precision(scores, y), torch.randperm(50, generator=g)
    assert found == pytest.approx(sk.average_precision_score(y, scores), abs=1e-12)
    assert found == average_precision(scores[order], y[order])  # to the last bit, however ties lie
    assert average_precision(scores**3 - 7, y.long()) == pytest.approx(found, abs=1e-12)
    if levels == 1:  # a constant says nothing
        assert found == pytest.approx(float(y.double().mean()), abs=1e-12)
    assert average_precision(y.float(), y) == 1.0


def test_average_precision_asks_more_of_the_rare_class_than_auroc() -> None:
    """Two positive examples, each behind five of 98 negative ones: a small area lost, and a poor precision."""
    y = torch.zeros(100).index_fill(0, torch.tensor([5, 11]), 1)
    scores = -torch.arange(100.0)
    assert auroc(scores, y) == pytest.approx(1 - (5 + 10) / (2 * 98))
    assert average_precision(scores, y) == pytest.approx((1 / 6 + 2 / 12) / 2)


def test_average_precision_of_several_labels_equals_scikit_learn() -> None:
    g = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 9, (40, 4), generator=g) / 9
    y = (torch.rand(40, 4, generator=g) < torch.tensor([0.1, 0.4, 0.5, 0.9])).long()
    for average, found in (("macro", macro_average_precision), ("micro", micro_average_precision)):
        assert found(scores, y) == pytest.approx(sk.average_precision_score(y, scores, average=average), abs=1e-12)
    assert macro_average_precision(scores, y) != pytest.approx(micro_average_precision(scores, y), abs=0.01)
    y[:, 1], y[:, 2] = 0, 1
    truth = sk.average_precision_score(y[:, [0, 3]], scores[:, [0, 3]])
    assert macro_average_precision(scores, y) == pytest.approx(truth, abs=1e-12)
    truth = sk.average_precision_score(y, scores, average="micro")
    assert micro_average_precision(scores, y) == pytest.approx(truth, abs=1e-12)
    with pytest.raises(NumericsError, match="macro average precision needs a label with both classes, found none of 2"):
        macro_average_precision(scores[:, 1:3], y[:, 1:3])
    with pytest.raises(NumericsError, match="none of 1"):
        micro_average_precision(scores[:, 2:3], y[:, 2:3])


def test_the_rarer_class_is_counted_over_labels_that_have_both() -> None:
    y = torch.zeros(100, 3)
    y[:20, 0], y[:95, 1] = 1, 1
    assert count_rarer(y) == pytest.approx(2 / (1 / 20 + 1 / 5))
    assert count_rarer(y[:, 2:]) == 100


@pytest.mark.parametrize(
    ("left_out", "anew", "average"),
    [
        (macro_average_precision_left_out, macro_average_precision, "macro"),
        (micro_average_precision_left_out, micro_average_precision, "micro"),
    ],
)
@QUICK
@given(seed=st.integers(0, 999), levels=st.sampled_from([1, 3, 1000]), table=st.sampled_from([7, 130, 1 << 20]))
def test_average_precision_without_each_group_is_computing_anew(
    left_out: Callable[..., torch.Tensor],
    anew: Callable[..., float],
    average: str,
    seed: int,
    levels: int,
    table: int,
) -> None:
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, levels, (40, 7), generator=g).double()
    y = torch.rand(40, 7, generator=g) < torch.linspace(0.02, 0.9, 7)
    groups = (torch.rand(40, generator=g) * 5).floor().long()
    groups[:5], y[:3, 6], y[3:6, 6] = torch.arange(5), True, False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_TABLE", table)
        found = left_out(scores, y, groups)
    for k in range(-1, 5):
        kept = groups != k
        some, labels = scores[kept], y[kept]
        mixed = [c for c in range(7) if average == "micro" or 0 < int(labels[:, c].sum()) < len(labels)]
        truth = sk.average_precision_score(labels[:, mixed], some[:, mixed], average=average)
        assert float(found[1 + k]) == pytest.approx(truth, abs=1e-12)
        assert float(found[1 + k]) == anew(some, labels)


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


@pytest.mark.parametrize("left_out", [macro_auroc_left_out, macro_average_precision_left_out])
def test_an_area_takes_time_linear_in_labels(left_out: Callable[..., torch.Tensor]) -> None:
    """Four times as many labels take about four times as long, by the processor's own clock, and no call a label."""
    g, groups = torch.Generator().manual_seed(0), torch.arange(200) % 16
    scores, y = torch.rand(200, 2000, generator=g), torch.rand(200, 2000, generator=g) < 0.3

    def seconds(labels: int) -> float:
        times = []
        for _ in range(3):
            start = time.process_time()
            left_out(scores[:, :labels], y[:, :labels], groups)
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
    for metric in (accuracy, balanced_accuracy, macro_f1):
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
        for area in (auroc, average_precision):
            with pytest.raises(NumericsError):
                area(scores, labels)
    for pred, target in (
        (torch.ones(3, 2), torch.ones(3, 2)),
        (torch.ones(3, 2), torch.ones(3, 1)),
        (logits[:1], logits[:1]),
    ):
        with pytest.raises(NumericsError):
            r2(pred, target)
