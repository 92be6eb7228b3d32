"""The planted benchmark's parts against outside code, and a reduced form of the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.metrics import roc_auc_score

from benchmarks.planted import table
from benchmarks.planted.measure import measure
from benchmarks.planted.models import FUSIONS, Model
from benchmarks.planted.real import draw_real
from benchmarks.planted.subjects import KINDS, Subject, draw, make
from benchmarks.planted.truth import truth
from benchmarks.planted.worlds import make_world


@pytest.mark.parametrize("kind", ["complementary", "redundant", "synergy", "mixed", "redundant+noise"])
@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_the_posterior_is_bayes_rule_by_scipy(kind: str, task: str) -> None:
    world = make_world(kind, 3, task=task, distances=(2.0, 3.0), dims=(3,), clusters=2, skew=1.5, seed=1)
    x = world.sample(5, 0)
    for present in ((), ("m0",), ("m1", "m2"), world.modalities):
        best = world.best(x, present).numpy()
        for row in range(5):
            weight = world.prior.double().numpy().copy()
            for m in present:
                i = world.modalities.index(m)
                for state in range(len(weight)):
                    codes = world.codes[i][world.symbols[state, i]].double().numpy()
                    weight[state] *= np.mean([multivariate_normal(c).pdf(x[m][row].numpy()) for c in codes])
            weight /= weight.sum()
            target = world.target.numpy()
            wanted = (
                np.array([weight[target == c].sum() for c in range(world.outputs)])
                if task == "classification"
                else weight @ target
            )
            assert best[row] == pytest.approx(wanted, abs=1e-8)


def test_roles_are_what_the_posterior_says_of_them() -> None:
    def gain(kind: str, m: int, present: list[int]) -> float:
        world = make_world(kind, m, distances=(8.0,), seed=3)
        x = world.sample(2000, 0)
        order = sorted(
            world.modalities, key=lambda name: ["synergy", "unique", "redundant", "noise"].index(world.roles[name])
        )
        p = world.best(x, [order[i] for i in present]).gather(1, x["label"][:, None]).clamp_min(1e-12).log().mean()
        base = world.best(x, []).gather(1, x["label"][:, None]).log().mean()
        return float(p - base)

    assert gain("synergy", 2, [0]) == pytest.approx(0, abs=0.01)
    assert gain("synergy", 2, [0, 1]) == pytest.approx(math.log(2), abs=0.02)
    assert gain("redundant", 2, [0]) == pytest.approx(gain("redundant", 2, [0, 1]), abs=0.02)
    assert gain("complementary", 2, [0]) == pytest.approx(math.log(2), abs=0.02)
    assert gain("complementary", 2, [0, 1]) == pytest.approx(2 * math.log(2), abs=0.02)
    assert gain("redundant+noise", 3, [2]) == 0


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_reads_every_modality(fusion: str) -> None:
    torch.manual_seed(0)
    model = Model({"a": 3, "b": 4, "c": 5}, 2, fusion)
    x = {"a": torch.randn(6, 3), "b": torch.randn(6, 4), "c": torch.randn(6, 5)}
    out = model(**x)
    assert out.shape == (6, 2)
    for m in x:
        assert not torch.allclose(model(**{**x, m: x[m] + 1}), out)


def test_a_bypassed_modality_reaches_the_fused_layer_and_not_the_output() -> None:
    torch.manual_seed(0)
    model = Model({"a": 3, "b": 4, "c": 5}, 2, "sum", bypass=["c"])
    x = {"a": torch.randn(6, 3), "b": torch.randn(6, 4), "c": torch.randn(6, 5)}
    other = {**x, "c": x["c"] + 1}
    assert torch.equal(model(**x), model(**other))
    fused = []
    model.fusion.register_forward_hook(lambda module, args, out: fused.append(out))
    model(**x), model(**other)
    assert not torch.allclose(*fused)


def test_subjects_are_drawn_the_same_twice_and_of_every_kind() -> None:
    drawn = draw(60, 5)
    assert drawn == draw(60, 5)
    assert drawn != draw(60, 6)
    assert {s.kind for s in drawn} == set(KINDS)
    assert {s.fusion for s in drawn} == set(FUSIONS)
    assert {s.world["task"] for s in drawn} == {"classification", "multilabel", "regression"}
    assert {s.world["modalities"] for s in drawn} >= {2, 3, 4, 5}
    assert all(s.world["kind"] in ("mfeat", "avmnist") for s in draw_real())


def test_truth_is_what_was_planted() -> None:
    base = {"kind": "redundant", "modalities": 2, "distances": (4.0,)}
    for kind, ignored, states in (("healthy", (), ("used", "used")), ("ignores", (1,), ("used", "collapsed"))):
        made = make(Subject("t", kind, base, 300, "concat", ignored, 1))
        assert tuple(v[0] for v in truth(made).values()) == states


def test_the_table_counts_as_scikit_learn_does() -> None:
    g = np.random.default_rng(0)
    scores, labels = g.integers(0, 6, 80) / 5, g.random(80) < 0.4
    assert table.auroc(scores.tolist(), labels.tolist()) == pytest.approx(roc_auc_score(labels, scores))
    errors = [np.mean((s * scores > t) != labels) for s in (1, -1) for t in (*np.unique(s * scores), -9, 9)]
    assert table.best_error(scores.tolist(), labels.tolist()) == pytest.approx(min(errors))


def test_wrong_verdicts_are_listed_also_where_no_posterior_is_known() -> None:
    row = {"truth": "used", "verdict": "collapsed", "true_ratio": None, "score": 1.0, "others": {}}
    about = {"subject": "s", "kind": "k", "world": "w", "task": "t", "fusion": "f", "n": 3}
    record = {**about, "modalities": {"m": row, "r": {**row, "true_ratio": 0.5}, "x": {**row, "verdict": "used"}}}
    assert table.wrong([record]).splitlines() == [
        "s k w t f n=3 m: used called collapsed",
        "s k w t f n=3 r: used (credit 0.50 of the best possible) called collapsed",
    ]


REDUCED = [
    Subject("a", "ignores", {"kind": "redundant", "modalities": 2, "distances": (4.0,)}, 400, "attention", (0,), 1),
    Subject("b", "healthy", {"kind": "redundant+noise", "modalities": 3, "distances": (3.0,)}, 400, "sum", (), 2),
    Subject("c", "high_rank", {"kind": "complementary", "modalities": 3, "distances": (4.0,)}, 400, "film", (1,), 3),
    Subject("d", "ignores", {"kind": "synergy", "modalities": 2, "distances": (6.0,)}, 600, "concat", (0,), 4),
    Subject(
        "e",
        "low_rank",
        {"kind": "complementary", "modalities": 2, "distances": (4.0,), "task": "regression"},
        300,
        "gated",
        (),
        5,
    ),
    Subject(
        "f",
        "healthy",
        {"kind": "redundant", "modalities": 2, "distances": (3.0,), "task": "multilabel"},
        400,
        "bilinear",
        (),
        6,
    ),
]


@pytest.mark.slow
def test_verdicts_are_right_on_a_reduced_benchmark() -> None:
    records = [measure(s, options={"prefix_gap": {"rates": [3e-3]}}) for s in REDUCED]
    found = table.summary(records)
    assert found["modalities"] >= 12
    assert found["accuracy"] == 1, table.wrong(records)
    assert found["inconclusive"] <= 0.1, table.confusion(records)
    assert found["auroc"] == 1
    assert found["error"] == 0
    assert found["prefix_gap.error"] > 0.1  # a competitor that errs: the subjects are not trivial
    text = "\n".join([table.confusion(records), table.peers(found), table.by(records, "kind"), table.wrong(records)])
    assert max(len(line) for line in text.splitlines()) <= 90
