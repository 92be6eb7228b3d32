"""Overlap of classes over places, against scikit-learn."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from collapsekit.errors import NumericsError
from collapsekit.stats.scores.overlap import confusion_tables, mean_dice, mean_iou, place_accuracy

G = torch.Generator().manual_seed(0)
Y = torch.randint(-1, 3, (30, 20), generator=G)
ANSWERS = torch.where(torch.rand(30, 20, generator=G) < 0.6, Y.clamp_min(0), torch.randint(0, 4, (30, 20), generator=G))


def test_equals_scikit_learn_over_the_classes_that_are_there() -> None:
    table = confusion_tables(ANSWERS, Y, torch.zeros(30).long(), 4)[0]
    there = Y >= 0
    y, said = Y[there].numpy(), ANSWERS[there].numpy()
    classes = [0, 1, 2]  # nothing is of the fourth
    assert place_accuracy(table) == pytest.approx(accuracy_score(y, said), abs=1e-12)
    assert mean_iou(table) == pytest.approx(jaccard_score(y, said, average="macro", labels=classes), abs=1e-12)
    assert mean_dice(table) == pytest.approx(f1_score(y, said, average="macro", labels=classes), abs=1e-12)


def test_tables_of_groups_add_up() -> None:
    groups = torch.arange(30) % 4
    tables = confusion_tables(ANSWERS, Y, groups, 4)
    assert torch.equal(tables.sum(0), confusion_tables(ANSWERS, Y, torch.zeros(30).long(), 4)[0])
    assert torch.equal(tables[2], confusion_tables(ANSWERS[2::4], Y[2::4], torch.zeros(len(Y[2::4])).long(), 4)[0])
    with pytest.raises(NumericsError, match="none"):
        mean_iou(torch.zeros(4, 4))
