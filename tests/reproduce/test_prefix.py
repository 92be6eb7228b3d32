"""The loss of an encoder's features by linear evaluation, and training with a loss of its own beside."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import nn

from collapsekit.readouts.linear import L2_GRID
from collapsekit.reproduce.studies.prefix import read_out, train_along
from collapsekit.reproduce.studies.subjects import StudySubject
from tests.reproduce.synthetic import make_synthetic


def weights(subject: StudySubject, unimodal: float, marks: tuple[int, ...] = ()) -> dict[int, torch.Tensor]:
    """The weak encoder's first layer, by epoch; whoever looks at it draws numbers of its own."""
    out = {}
    for epoch, network in train_along(subject, marks, unimodal=unimodal):
        out[epoch] = network.encoders[subject.weak][0].weight.detach().clone()
        torch.rand(7)
    return out


def test_a_readout_is_scikit_learns_with_the_penalty_that_val_chooses() -> None:
    arrays = make_synthetic().arrays
    split = {s: (arrays[f"{s}/a"].double().numpy(), arrays[f"{s}/label"].numpy()) for s in ("train", "val", "test")}
    mean, deviation = split["train"][0].mean(0), split["train"][0].std(0)
    losses = []
    for l2 in L2_GRID:
        model = LogisticRegression(C=1 / (l2 * 60), tol=1e-10, max_iter=5000)
        model.fit((split["train"][0] - mean) / deviation, split["train"][1])
        of = {s: log_loss(y, model.predict_proba((x - mean) / deviation)) for s, (x, y) in split.items()}
        losses.append((of["val"], of["test"]))
    assert len({round(test, 6) for _, test in losses}) == len(L2_GRID)
    assert np.isclose(read_out(nn.Identity(), arrays, "a"), min(losses)[1], atol=1e-4)


def test_both_networks_begin_with_the_same_weights_and_batches() -> None:
    subject = make_synthetic()
    alone, nearly, beside = (weights(subject, weight)[2] for weight in (0.0, 1e-12, 1.0))
    assert torch.allclose(alone, nearly, atol=1e-5)
    assert not torch.allclose(alone, beside, atol=1e-4)


def test_a_loss_of_its_own_lowers_the_encoders_loss() -> None:
    subject = make_synthetic(epochs=30)
    prefix, baseline = (
        [read_out(n.encoders["b"], subject.arrays, "b") for _, n in train_along(subject, (), unimodal=w)][-1]
        for w in (0.0, 20.0)
    )
    assert prefix != baseline
    one = next(iter(train_along(make_synthetic(epochs=1), (), unimodal=0.0)))[1]
    x, y = subject.arrays["train/b"], subject.arrays["train/label"]
    fits = [_training_loss(n.encoders["b"](x), y) for n in (one, _last(subject, 0.0), _last(subject, 20.0))]
    assert fits[2] < fits[1] < fits[0]


def _last(subject: StudySubject, unimodal: float) -> nn.Module:
    return [n for _, n in train_along(subject, (), unimodal=unimodal)][-1]


def _training_loss(features: torch.Tensor, labels: torch.Tensor) -> float:
    """Of a linear readout of the features a network has."""
    x = features.detach().numpy()
    model = LogisticRegression(C=1.0, max_iter=2000).fit(x, labels.numpy())
    return float(log_loss(labels.numpy(), model.predict_proba(x)))


def test_what_is_yielded_are_the_marks_and_the_last_epoch() -> None:
    subject = make_synthetic(epochs=3)
    by_epoch = weights(subject, 0.0, (1, 7))
    assert list(by_epoch) == [1, 3]
    assert torch.equal(by_epoch[3], weights(subject, 0.0)[3])
    assert torch.equal(by_epoch[1], weights(make_synthetic(epochs=1), 0.0)[1])
