from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from collapsekit.adapters.inserts import capture_latents, posts_of
from collapsekit.adapters.inserts import substitute_missing as without
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.data.arrays import ArraySource
from collapsekit.features.content_seeds import modality_seeds
from collapsekit.features.extraction import extract
from collapsekit.games.balanced_reference import make_reference
from collapsekit.interventions.imputation import (
    BackgroundSet,
    can_substitute,
    find_neighbours,
    impute,
    make_background_set,
)
from collapsekit.interventions.replay import predict
from collapsekit.probes.robustness.missing import MissingOptions, absent_sets
from collapsekit.session.session import Session
from collapsekit.stats.inference.jackknife import assign_groups, interval
from tests.probes.planted import Apply, Planted, Study, linear, noise, plain, study

SIZES = {"train": 120, "val": 60, "test": 80}
RATES = (0.2, 0.6, 0.9)


def data(modalities: str, seed: int = 0, sizes: dict[str, int] | None = None) -> dict[str, dict[str, Tensor]]:
    out = {}
    for k, (split, n) in enumerate((sizes or SIZES).items()):
        x = {m: noise(100 * seed + 10 * k + i, n, 3) for i, m in enumerate(modalities)}
        label = (sum(v[:, 0] for v in x.values()) > 0).long() + (x[modalities[0]][:, 1] > 1).long()
        out[split] = {**x, "label": label}
    return out


def nonlinear(modalities: str, arrays: dict[str, dict[str, Tensor]] | None = None) -> Study:
    """Encoders with weights of their own, so that filling inputs differs from filling features."""
    encoders = {m: nn.Sequential(linear(noise(10 + i, 4, 3)), nn.Tanh()) for i, m in enumerate(modalities)}
    fusion = nn.Sequential(linear(noise(20, 8, 4 * len(modalities))), nn.ReLU())
    return study(Planted(encoders, fusion, linear(noise(21, 3, 8))), arrays or data(modalities))


def bars(result: Any) -> dict[str, float]:
    return dict(zip(result.curve.x, result.curve.y, strict=True))


def encoded(s: Study, split: str) -> dict[str, np.ndarray]:
    f = s.features.of(split)
    with torch.no_grad():
        return {m: e(f.inputs[m]).numpy() for m, e in s.adapter.model.encoders.items()}


def answer(s: Study, features: dict[str, np.ndarray]) -> Tensor:
    """What the model says of features put together by hand."""
    with torch.no_grad():
        x = torch.cat([torch.as_tensor(v, dtype=torch.float32) for v in features.values()], 1)
        return s.adapter.model.head(s.adapter.model.fusion(x))


def by_hand(s: Study, fill: str, absent: tuple[str, ...]) -> Tensor:
    ours, theirs = encoded(s, "test"), encoded(s, "train")
    given = dict(ours)
    scaled = {m: ((ours[m] - x.mean(0)) / x.std(0), (x - x.mean(0)) / x.std(0)) for m, x in theirs.items()}
    there = [m for m in ours if m not in absent]
    near = NearestNeighbors(n_neighbors=1).fit(np.hstack([scaled[m][1] for m in there]))  # all are 4 wide
    rows = near.kneighbors(np.hstack([scaled[m][0] for m in there]), return_distance=False)[:, 0]
    for m in absent:
        given[m] = {
            "zeros": np.zeros_like(ours[m]),
            "mean": np.tile(theirs[m].mean(0), (80, 1)),
            "neighbour": theirs[m][rows],
        }[fill]
    return answer(s, given)


def proper(modalities: str) -> list[tuple[str, ...]]:
    return [c for k in range(1, len(modalities)) for c in itertools.combinations(modalities, k)]


@pytest.mark.parametrize("modalities", ["ab", "abc"])
@pytest.mark.parametrize("fill", ["zeros", "mean", "neighbour"])
def test_patterns_are_those_of_the_model_on_features_filled_by_hand(modalities: str, fill: str) -> None:
    s = nonlinear(modalities)
    found = s.run("missing", fills=fill, rates="0.5")
    y = s.features.targets
    accuracies, losses = {}, {}
    for absent in proper(modalities):
        out = by_hand(s, fill, absent).double()
        accuracies["+".join(absent)] = float((out.argmax(1) == y).double().mean())
        losses["+".join(absent)] = float(nn.functional.cross_entropy(out, y))
    metric, loss = found[f"patterns.{fill}", None, None], found[f"patterns_loss.{fill}", None, None]
    assert bars(metric) == pytest.approx(accuracies, abs=1e-9)
    assert bars(loss) == pytest.approx(losses, abs=1e-5)
    assert metric.value == pytest.approx(np.mean(list(accuracies.values())))
    if len(accuracies) > 1:
        assert f"{np.std(list(accuracies.values()), ddof=1):.3g}" in metric.note


def test_class_means_are_those_of_training_examples_with_the_example_s_own_label() -> None:
    """An oracle: tried where it is asked for, and never chosen as the best fill."""
    arrays = data("abc")
    arrays["train"]["label"][arrays["train"]["label"] == 2] = 1  # nobody lends to the third class
    s = nonlinear("abc", arrays)
    found = s.run("missing", fills="mean,class_mean", rates="0.5")
    y, label = s.features.targets, s.features.of("train").targets.numpy()
    assert set(y.tolist()) == {0, 1, 2}
    ours, theirs = encoded(s, "test"), encoded(s, "train")
    losses = {}
    for absent in proper("abc"):
        given = dict(ours)
        for m in absent:
            means = [theirs[m][label == c].mean(0) for c in (0, 1)] + [theirs[m].mean(0)]
            given[m] = np.stack([means[c] for c in y.tolist()])
        losses["+".join(absent)] = float(nn.functional.cross_entropy(answer(s, given).double(), y))
    assert bars(found["patterns_loss.class_mean", None, None]) == pytest.approx(losses, abs=1e-5)
    assert "an oracle" in found["patterns.class_mean", None, None].definition
    assert "fill 'mean'" in found["drop", "a", None].note
    assert not [key for key in s.run("missing", rates="0.5", draws=1) if "class_mean" in key[0]]
    alone = s.run("missing", fills="class_mean", rates="0.5")
    assert "needs no labels was asked for" in alone["drop", "a", None].skipped
    assert alone["patterns.class_mean", None, None].value == found["patterns.class_mean", None, None].value


def test_class_means_need_classes() -> None:
    arrays = {k: {"a": noise(i, n, 2), "b": noise(40 + i, n, 2)} for i, (k, n) in enumerate(SIZES.items())}
    arrays = {k: {**x, "label": x["a"] + x["b"]} for k, x in arrays.items()}
    model = Planted(plain("ab"), linear([[1.0, 0, 1, 0], [0, 1, 0, 1]]))
    found = study(model, arrays, task="regression").run("missing", fills="mean,class_mean", rates="0.5")
    skipped = found["patterns.class_mean", None, None].skipped
    assert skipped == "fill 'class_mean' needs labels that are classes, and task 'regression' has none"
    assert found["patterns.mean", None, None].value is not None


def test_random_examples_are_whole_training_examples_and_metrics_are_averaged() -> None:
    s = nonlinear("abc")
    draws = 3
    found = s.run("missing", fills="sample", rates="0.5", draws=draws)
    bank = make_background_set(s.adapter, s.features, 4096)
    rows = find_neighbours(s.features, bank, "sample", torch.zeros(1, 80, 3, dtype=torch.bool), draws, 0)[0]
    ours, theirs = encoded(s, "test"), encoded(s, "train")
    expected = {}
    for absent in proper("abc"):
        each = [
            answer(s, {m: theirs[m][r] if m in absent else ours[m] for m in ours}).argmax(1) == s.features.targets
            for r in rows
        ]
        expected["+".join(absent)] = float(torch.stack(each).double().mean())
    assert bars(found["patterns.sample", None, None]) == pytest.approx(expected, abs=1e-9)
    assert not torch.equal(rows[0], rows[1])
    assert len(rows.unique()) > 80  # of 120: drawn from all of them


def test_late_fusion_with_one_modality_left_is_its_calibrated_readout() -> None:
    s = nonlinear("ab")
    found = s.run("missing", fills="late", rates="0.5")
    readouts = {m: Session.of(s.adapter, s.features).prefix(m) for m in "ab"}
    reference = make_reference(s.adapter, s.features, readouts, [])
    metric, loss = bars(found["patterns.late", None, None]), bars(found["patterns_loss.late", None, None])
    for absent, left in (("a", "b"), ("b", "a")):
        assert metric[absent] == pytest.approx(float(reference.alone(left).metric[0]), abs=1e-9)
        assert loss[absent] == pytest.approx(float(reference.alone(left).loss[0]), abs=1e-6)
    assert "no fill that runs the model" in found["drop", "a", None].skipped


@pytest.mark.parametrize("fill", ["zeros", "neighbour"])
def test_at_a_rate_every_example_meets_its_own_pattern(fill: str) -> None:
    s = nonlinear("abc")
    found = s.run("missing", fills=fill, rates=RATES)
    own = modality_seeds(s.adapter, s.features, 0)
    u = np.stack([torch.rand(80, generator=torch.Generator().manual_seed(own[m]), dtype=torch.float64) for m in "abc"])
    outputs = {absent: by_hand(s, fill, absent).double() for absent in proper("abc")}
    outputs[()] = s.features.outputs.double()
    for k, rate in enumerate(RATES):
        said = []
        for i in range(80):
            gone = tuple(m for j, m in enumerate("abc") if u[j, i] < rate and j != u[:, i].argmax())
            said.append(outputs[gone][i])
        p, y = torch.stack(said), s.features.targets
        accuracy, loss = found[f"rates.{fill}", None, None], found[f"rates_loss.{fill}", None, None]
        assert accuracy.curve.x == RATES
        assert accuracy.curve.y[k] == pytest.approx(float((p.argmax(1) == y).double().mean()), abs=1e-9)
        assert loss.curve.y[k] == pytest.approx(float(nn.functional.cross_entropy(p, y)), abs=1e-5)


def reader(modalities: str, read: str) -> Planted:
    """The label is the sign of the first number of the modality that is read; others never reach the output."""
    at = 2 * modalities.index(read)
    return Planted(plain(modalities), Apply(lambda x: torch.stack([-3 * x[:, at], 3 * x[:, at]], 1)))


def signs(modalities: str, copied: bool) -> dict[str, dict[str, Tensor]]:
    out = {}
    for k, (split, n) in enumerate(SIZES.items()):
        a = noise(k, n, 2)
        x = {m: noise(50 + 10 * k + i, n, 2) for i, m in enumerate(modalities)} | {"a": a}
        if copied:
            x["b"] = a @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]]) + 0.01 * noise(90 + k, n, 2)
        out[split] = {**x, "label": (a[:, 0] > 0).long()}
    return out


def test_what_the_model_does_not_read_costs_nothing_when_it_is_missing() -> None:
    found = study(reader("abc", "a"), signs("abc", copied=False)).run("missing", draws=2)
    for m in "bc":
        assert found["drop", m, None].value == 0
        assert found["drop", m, None].interval == (0, 0)
        assert set(found["drop", m, None].curve.y) == {1.0}
    for fill in ("zeros", "mean", "neighbour", "sample"):
        got = bars(found[f"patterns.{fill}", None, None])
        assert {got[k] for k in ("b", "c", "b+c")} == {1.0}
        assert max(got[k] for k in ("a", "a+b", "a+c")) < 0.75
    drop = found["drop", "a", None]
    assert drop.value > 0.3
    assert drop.interval[0] > 0.1
    assert drop.curve.y[0] - drop.curve.y[-1] == pytest.approx(drop.value)
    assert drop.curve.x[0] == 0
    assert drop.curve.x[-1] == 1


def test_a_neighbour_restores_what_another_modality_repeats_and_is_chosen() -> None:
    repeated = study(reader("ab", "a"), signs("ab", copied=True)).run("missing")
    assert bars(repeated["patterns.neighbour", None, None])["a"] > 0.9
    assert bars(repeated["patterns.zeros", None, None])["a"] < 0.7
    assert repeated["drop", "a", None].value < 0.1
    assert "fill 'neighbour', the best on split 'val'" in repeated["drop", "a", None].note
    apart = study(reader("ab", "a"), signs("ab", copied=False)).run("missing")
    assert bars(apart["patterns.neighbour", None, None])["a"] < 0.7


def test_no_fill_looks_at_training_labels_and_readouts_do() -> None:
    arrays = signs("ab", copied=True)
    turned = {**arrays, "train": {**arrays["train"], "label": 1 - arrays["train"]["label"]}}
    before, after = (study(reader("ab", "a"), x).run("missing") for x in (arrays, turned))
    for fill in ("zeros", "mean", "neighbour", "sample"):
        # The order of examples follows the whole content, labels too: only the random fill may notice.
        tolerance = 0.2 if fill == "sample" else 1e-12
        a, b = (bars(f[f"patterns.{fill}", None, None]) for f in (before, after))
        assert a == pytest.approx(b, abs=tolerance)
    assert abs(bars(before["patterns.late", None, None])["a"] - bars(after["patterns.late", None, None])["a"]) > 0.3


def test_the_best_fill_is_chosen_on_held_out_examples_not_on_the_diagnosed() -> None:
    # In val the modality is always positive when absent means 1, in test always negative: mean and zeros disagree.
    def world(val: int, test: int) -> Study:
        out = {}
        for split, sign, n in (("train", 1, 100), ("val", val, 60), ("test", test, 80)):
            a = 3.0 + 0.2 * noise(len(out), n, 1)
            label = torch.full((n,), int(sign > 0))
            label[:6] = 1 - label[:6]
            out[split] = {"a": a, "b": noise(9 + len(out), n, 1), "label": label}
        fusion = Apply(lambda x: torch.stack([1.0 - x[:, 0], x[:, 0] - 1.0], 1))
        return study(Planted(plain("ab"), fusion), out)

    # a near 3 says class 1, as its mean does; zeros say class 0.
    chosen = world(val=1, test=-1).run("missing", fills="zeros,mean")["drop", "a", None]
    assert "fill 'mean', the best on split 'val'" in chosen.note
    chosen = world(val=-1, test=1).run("missing", fills="zeros,mean")["drop", "a", None]
    assert "fill 'zeros', the best on split 'val'" in chosen.note


def test_fills_of_equal_metric_are_told_apart_by_their_loss() -> None:
    # b decides, a near 3 only says how surely: without a, all is right still, and at its mean as sure as before.
    arrays = {}
    for k, (split, n) in enumerate(SIZES.items()):
        b = noise(k, n, 1)
        arrays[split] = {"a": 3 + 0.2 * noise(9 + k, n, 1), "b": b, "label": (b[:, 0] > 0).long()}
    fusion = Apply(lambda x: torch.stack([-x[:, 1] * (1 + x[:, 0]), x[:, 1] * (1 + x[:, 0])], 1))
    found = study(Planted(plain("ab"), fusion), arrays).run("missing", fills="zeros,mean")
    assert bars(found["patterns.zeros", None, None])["a"] == bars(found["patterns.mean", None, None])["a"] == 1
    assert "fill 'mean'" in found["drop", "a", None].note


def test_a_drop_has_the_jackknife_interval_of_paired_differences() -> None:
    s = nonlinear("ab")
    found = s.run("missing", fills="mean", rates="0.5")["drop", "a", None]
    y, groups = s.features.targets, assign_groups(80, 16)
    lost = (s.features.outputs.argmax(1) == y).double() - (by_hand(s, "mean", ("a",)).argmax(1) == y).double()
    low, high = interval(float(lost.mean()), [float(lost[groups != g].mean()) for g in range(16)])
    assert found.value == pytest.approx(float(lost.mean()), abs=1e-12)
    m, half = found.value, (high - low) / 2
    low, high = (math.tanh(math.atanh(m) + sign * half / (1 - m * m)) for sign in (-1, 1))  # Fisher's z: within -1 to 1
    assert found.interval == pytest.approx((low, high), abs=1e-9)


def test_renaming_modalities_renames_results() -> None:
    arrays = data("abc")
    one = nonlinear("abc", arrays)
    name = {"a": "b", "b": "a", "c": "c"}
    encoders = {name[m]: e for m, e in one.adapter.model.encoders.items()}
    model = Planted(encoders, one.adapter.model.fusion, one.adapter.model.head)
    other = study(model, {s: {name.get(k, k): v for k, v in x.items()} for s, x in arrays.items()})
    before, after = one.run("missing", draws=2), other.run("missing", draws=2)
    for (kind, m, versus), r in before.items():
        same = after[kind, name.get(m, m), versus]
        assert same.value == pytest.approx(r.value, abs=1e-9)
        assert same.interval == pytest.approx(r.interval, abs=1e-9)
        renamed = {
            "+".join(name[p] for p in str(x).split("+")) if isinstance(x, str) else x: y for x, y in bars(r).items()
        }
        assert {_label(k): v for k, v in bars(same).items()} == pytest.approx(
            {_label(k): v for k, v in renamed.items()}, abs=1e-9
        )
    assert before["drop", "a", None].value != before["drop", "b", None].value


def _label(x: str | float) -> str:
    return "+".join(sorted(x.split("+"))) if isinstance(x, str) else repr(x)


def test_the_same_numbers_again_and_other_draws_under_another_seed() -> None:
    s = nonlinear("ab")
    options = {"missing": {"rates": "0.5"}}
    first = s.results("missing", options)
    assert s.results("missing", options) == first
    again = {r.name: r for r in s.results("missing", options, seed=1)}
    for r in first:
        same = r.name.endswith((".zeros", ".mean", ".neighbour", ".late")) and "patterns" in r.name
        assert not same or again[r.name] == r
    assert any(again[r.name] != r for r in first if r.name.startswith("missing.rates"))


# -- where examples come from ---------------------------------------------------------------------------------------


def test_without_training_examples_others_of_the_split_lend_and_it_is_said() -> None:
    arrays = data("ab")
    found = nonlinear("ab", {"test": arrays["test"]}).run("missing", draws=2)
    assert "other examples of split 'test': the data has no train split" in found["patterns.neighbour", None, None].note
    assert "these very examples" in found["drop", "a", None].note
    assert "no train split" in found["patterns.late", None, None].skipped
    assert "train" in found["rates_loss.late", None, None].skipped
    only = study(nonlinear("ab").adapter.model, arrays, split="train").run("missing", draws=2)
    assert "it is the train split" in only["patterns.mean", None, None].note


@pytest.mark.parametrize("fill", ["neighbour", "sample"])
def test_no_example_lends_to_itself(fill: str) -> None:
    s = nonlinear("ab", {"test": data("ab")["test"]})
    bank = make_background_set(s.adapter, s.features, 4096)
    assert bank.own
    absent = torch.zeros(2, 80, 2, dtype=torch.bool)
    absent[0, :, 0] = absent[1, :, 1] = True
    rows = find_neighbours(s.features, bank, fill, absent, 40, 0)
    assert not bool((rows == torch.arange(80)).any())
    assert int(rows.min()) >= 0
    assert int(rows.max()) < 80
    if fill == "sample":  # all others do, the last and the first too
        assert len(rows.unique()) == 80


def test_without_val_the_fill_is_chosen_on_a_fifth_of_train() -> None:
    arrays = data("ab")
    found = nonlinear("ab", {k: arrays[k] for k in ("train", "test")}).run("missing", draws=2)
    assert "a fifth of the train split" in found["drop", "a", None].note


def test_a_train_split_of_another_shape_does_not_lend() -> None:
    def padded(n: int, t: int, seed: int) -> dict[str, Tensor]:
        a, b = noise(seed, n, t, 2), noise(seed + 1, n, 2)
        return {"a": a, "b": b, "label": (a.mean((1, 2)) + b[:, 0] > 0).long()}

    encoders = {"a": Apply(lambda x: x), "b": nn.Identity()}

    class Model(Planted):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            said = self.encoders["a"](a).mean(1)
            return self.head(self.fusion(torch.cat([said, self.encoders["b"](b)], 1)))

    arrays = {"train": padded(60, 7, 0), "val": padded(40, 5, 2), "test": padded(50, 5, 4)}
    s = study(Model(encoders, linear(noise(5, 3, 4)), linear(noise(6, 2, 3))), arrays)
    found = s.run("missing", draws=2)
    assert "another shape" in found["patterns.sample", None, None].note
    assert found["patterns.late", None, None].value is not None


def test_a_long_train_split_is_cut_and_it_is_said() -> None:
    found = nonlinear("ab").run("missing", bank=50, draws=2)
    assert "taken from 50 of 120 training examples" in found["patterns.neighbour", None, None].note
    assert "50 of" not in (found["patterns.zeros", None, None].note or "")


class Padded(nn.Module):
    """Tokens and a whole-number mask leave the encoder together; the raw mask is read again after the fusion."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.sight = Keep(), nn.Identity()
        self.fusion = linear(noise(5, 4, 4))
        self.head = linear(noise(6, 2, 4))

    def forward(self, tokens: Tensor, mask: Tensor, sight: Tensor) -> Tensor:
        said = self.words(tokens, mask)
        keep = said["keep"][..., None].float()
        pooled = (said["x"] * keep).sum(1) / keep.sum(1).clamp_min(1)
        return self.head(self.fusion(torch.cat([pooled, self.sight(sight)], 1))) + mask.float().sum(1, keepdim=True)


class Keep(nn.Module):
    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"x": tokens.float(), "keep": mask.long()}


def padded_study() -> Study:
    arrays = {}
    for k, (split, n) in enumerate(SIZES.items()):
        mask = (torch.arange(5) < torch.randint(1, 6, (n, 1), generator=torch.Generator().manual_seed(k))).float()
        sight = noise(30 + k, n, 2)
        arrays[split] = {
            "tokens": noise(20 + k, n, 5, 2),
            "mask": mask,
            "sight": sight,
            "label": (sight[:, 0] > 0).long(),
        }
    raw = {
        "modalities": {"words": {"encoder": "words", "input": "tokens", "mask": "mask"}, "sight": "sight"},
        "fusion": "fusion",
        "data": {"path": "unused.npz", "also": ["mask"]},
    }
    source = ArraySource(arrays, "memory")
    adapter = ModuleAdapter(check_config(raw, base=Path()), model=Padded(), source=source)
    return Study(adapter, extract(adapter, "test"))


def test_masks_and_raw_inputs_move_with_the_lender_and_stay_under_constants() -> None:
    s = padded_study()
    f, train = s.features, s.features.of("train")
    absent = torch.zeros(80, 2, dtype=torch.bool)
    absent[::2, 0] = True
    rows = torch.arange(80) + 7
    lent = impute(s.adapter, f, BackgroundSet(train, False), "sample", absent, rows)
    for own, other, got in [
        *zip(f.recorded["words"], train.recorded["words"], lent.recorded["words"], strict=True),
        *((f.inputs[k], train.inputs[k], lent.inputs[k]) for k in ("tokens", "mask")),
    ]:
        assert got.dtype == own.dtype
        assert torch.equal(got[::2], other[rows][::2])
        assert torch.equal(got[1::2], own[1::2])
    assert lent.recorded["sight"] is f.recorded["sight"]
    assert torch.equal(lent.inputs["sight"], f.inputs["sight"])
    for fill in ("zeros", "mean"):
        got = impute(s.adapter, f, BackgroundSet(train, False), fill, absent)
        for own, known, now in zip(f.recorded["words"], train.recorded["words"], got.recorded["words"], strict=True):
            if not own.is_floating_point():
                assert torch.equal(now, own)
                continue
            to = known.double().mean(0).float() if fill == "mean" else torch.zeros_like(known[0])
            assert torch.equal(now[::2], to.expand(40, -1, -1))
            assert torch.equal(now[1::2], own[1::2])
        assert torch.equal(got.inputs["mask"], f.inputs["mask"])
        assert not torch.equal(got.inputs["tokens"], f.inputs["tokens"])
    assert all(r.skipped is None for r in s.run("missing", draws=2).values())


def test_part_of_a_split_is_a_split() -> None:
    s = nonlinear("ab")
    some = s.features.taken(torch.tensor([5, 2, 9]))
    assert len(some) == 3
    assert torch.equal(some.pooled["a"], s.features.pooled["a"][[5, 2, 9]])
    assert torch.equal(some.inputs["b"], s.features.inputs["b"][[5, 2, 9]])
    assert some.facts is not s.features.facts


# -- patterns, options, tasks ---------------------------------------------------------------------------------------


def test_all_patterns_up_to_five_modalities_then_singles_pairs_and_all_but_one() -> None:
    assert [len(absent_sets(m)) for m in (2, 3, 4, 5, 6, 8)] == [2, 6, 14, 30, 6 + 15 + 6, 8 + 28 + 8]
    assert {len(gone) for gone in absent_sets(7)} == {1, 2, 6}
    assert len(set(absent_sets(7))) == len(absent_sets(7))
    found = nonlinear("abcdef").run("missing", fills="mean,late", rates="0.5")
    assert len(found["patterns.mean", None, None].curve.x) == 27
    assert "singles, pairs and all but one" in found["patterns.mean", None, None].definition


def test_copies_of_a_modality_go_missing_independently() -> None:
    x = noise(0, 200, 2)
    arrays = {"test": {"a": x, "b": x.clone(), "label": (x[:, 0] > 0).long()}}
    fusion = Apply(lambda z: torch.stack([-(z[:, 0] + z[:, 2]), z[:, 0] + z[:, 2]], 1))
    own = modality_seeds(*(lambda s: (s.adapter, s.features, 0))(study(Planted(plain("ab"), fusion), arrays)))
    assert own["a"] != own["b"]


def test_an_output_that_is_not_finite_skips_the_fill_and_no_other() -> None:
    def divide(x: Tensor) -> Tensor:
        said = x[:, 0] / x[:, :2].abs().sum(1)  # 0/0 where the modality is 0
        return torch.stack([-said, said + x[:, 2]], 1)

    found = study(Planted(plain("ab"), Apply(divide)), signs("ab", copied=False)).run("missing", draws=2)
    for kind in ("patterns", "patterns_loss", "rates", "rates_loss"):
        assert "not finite" in found[f"{kind}.zeros", None, None].skipped
        assert found[f"{kind}.mean", None, None].skipped is None
    assert "zeros" not in found["drop", "a", None].note


@pytest.mark.parametrize("task", ["regression", "multilabel", "contrastive"])
def test_other_tasks(task: str) -> None:
    arrays = {}
    for k, (split, n) in enumerate(SIZES.items()):
        a, b = noise(k, n, 2), noise(40 + k, n, 2)
        arrays[split] = {"a": a, "b": b}
        if task != "contrastive":
            y = a + b
            arrays[split]["label"] = y if task == "regression" else (y > 0).long()
    if task == "contrastive":
        model = Planted(plain("ab"), linear(torch.eye(4)))
    else:
        model = Planted(plain("ab"), linear([[1.0, 0, 1, 0], [0, 1, 0, 1]]))
    found = study(model, arrays, task=task).run("missing", draws=2)
    assert found["drop", "a", None].value is not None
    assert (found["patterns.late", None, None].skipped is None) == (task != "contrastive")
    if task == "regression":  # y = a + b: without a, its mean explains half
        assert bars(found["patterns.mean", None, None])["a"] == pytest.approx(0.5, abs=0.12)
        assert found["drop", "a", None].value == pytest.approx(0.5, abs=0.12)
        assert "fill 'mean'" in found["drop", "a", None].note or "fill 'zeros'" in found["drop", "a", None].note


def test_options() -> None:
    assert MissingOptions(fills="late, zeros").fills == ("zeros", "late")
    assert MissingOptions(fills="late,class_mean").fills == ("class_mean", "late")
    assert MissingOptions(rates="0.5,0.1,0.5").rates == (0.1, 0.5)
    assert MissingOptions(rates="paper").rates == (0.1, 0.2, 0.3, 0.4, 0.7)
    for bad in (
        {"fills": "zeroes"},
        {"rates": "0,0.5"},
        {"rates": "1"},
        {"rates": ""},
        {"rates": "paper,0.5"},
        {"draws": 0},
    ):
        with pytest.raises(ValidationError):
            MissingOptions(**bad)
    with pytest.raises(ValidationError, match="did you mean 'zeros'"):
        MissingOptions(fills="zeroes")


# -- models in which one modality stands in for another ---------------------------------------------------------------


def with_heads(s: Study) -> Study:
    """The study's model with heads whose weights are any, each with an order of substitutes of its own."""
    structure = [
        {
            "kind": "basis",
            "modality": m,
            "path": f"encoders.{m}",
            "part": None,
            "channels": None,
            "features": 4,
            "latent": 5,
            "hidden": 10,
        }
        for m in s.features.modalities
    ]
    s.adapter.insert(structure)
    g = torch.Generator().manual_seed(5)
    for i, post in enumerate(posts_of(s.adapter.model, "basis").values()):
        for p in post.insert.parameters():
            p.data += 0.3 * torch.randn(p.shape, generator=g)
        post.insert.order.copy_(post.insert.order.roll(i))
    return Study(s.adapter, extract(s.adapter, "test"))


class Laid(nn.Module):
    """Features of 4 channels: tokens of a length, or maps."""

    def __init__(self, weight: Tensor, length: int, layout: str) -> None:
        super().__init__()
        self.linear, self.length, self.layout = linear(weight), length, layout

    def forward(self, x: Tensor) -> Tensor:
        made = torch.tanh(self.linear(x))[:, None] * torch.linspace(0.2, 1.4, self.length)[:, None]
        return made if self.layout == "tokens" else made.movedim(-1, 1)[..., None].expand(-1, -1, -1, 2).contiguous()


def laid(layout: str) -> Study:
    if layout == "vector":
        return nonlinear("abc")
    lengths = {"a": 3, "b": 5, "c": 5} if layout == "tokens" else dict.fromkeys("abc", 3)
    encoders = {m: Laid(noise(10 + i, 4, 3), lengths[m], layout) for i, m in enumerate("abc")}
    kind = (lambda x: x.flatten(1)) if layout == "map" else (lambda x: torch.cat([x[:, :4].flatten(1), x.mean(1)], 1))
    width = 72 if layout == "map" else 20
    fusion = nn.Sequential(Apply(kind), linear(noise(20, 8, width) / 3), nn.ReLU())
    return study(Planted(encoders, fusion, linear(noise(21, 3, 8))), data("abc"))


def raw(s: Study, gone: Tensor) -> Tensor:
    """Outputs of the model itself on raw inputs, its heads told what is absent, (n, modalities)."""
    with torch.no_grad(), without(s.adapter.model, {m: gone[:, i] for i, m in enumerate("abc")}):
        return s.adapter.model(**{m: s.features.inputs[m] for m in "abc"})


@pytest.mark.parametrize("layout", ["vector", "tokens", "map"])
def test_substitution_is_what_the_model_itself_does(layout: str) -> None:
    """Every pattern from every example, and each example a pattern of its own, on features and on raw inputs."""
    s = with_heads(laid(layout))
    found = s.run("missing", fills="substitution", rates=RATES)
    y, n = s.features.targets, len(s.features)
    accuracies, losses, outputs = {}, {}, {}
    for absent in proper("abc"):
        gone = torch.tensor([m in absent for m in "abc"]).expand(n, -1)
        outputs[absent] = out = raw(s, gone)
        given = impute(s.adapter, s.features, BackgroundSet(s.features, True), "substitution", gone)
        torch.testing.assert_close(predict(s.adapter, given).outputs, out, rtol=1e-4, atol=1e-5)
        accuracies["+".join(absent)] = float((out.argmax(1) == y).double().mean())
        losses["+".join(absent)] = float(nn.functional.cross_entropy(out.double(), y))
    assert bars(found["patterns.substitution", None, None]) == pytest.approx(accuracies, abs=1e-9)
    assert bars(found["patterns_loss.substitution", None, None]) == pytest.approx(losses, abs=1e-5)
    assert len(set(losses.values())) == 6
    own = modality_seeds(s.adapter, s.features, 0)
    u = torch.stack(
        [torch.rand(n, generator=torch.Generator().manual_seed(own[m]), dtype=torch.float64) for m in "abc"]
    )
    for k, rate in enumerate(RATES):
        gone = (u < rate).T.clone()
        gone[torch.arange(n), u.argmax(0)] = False
        accuracy = float((raw(s, gone).argmax(1) == y).double().mean())
        assert found["rates.substitution", None, None].curve.y[k] == pytest.approx(accuracy, abs=1e-9)
    whole = torch.zeros(n, 3, dtype=torch.bool)
    given = impute(s.adapter, s.features, BackgroundSet(s.features, True), "substitution", whole)
    assert torch.equal(predict(s.adapter, given).outputs, predict(s.adapter, s.features).outputs)


def test_what_lies_in_an_absent_modality_s_place_is_not_looked_at() -> None:
    """Other values of one modality: the same losses wherever it is absent, and others wherever it is not."""
    arrays = data("abc")
    other = {split: {**x, "b": 3 * x["b"].flip(0)} for split, x in arrays.items()}
    found = []
    for given in (arrays, other):
        results = with_heads(nonlinear("abc", given)).run("missing", fills="substitution", rates="0.5")
        found.append(bars(results["patterns_loss.substitution", None, None]))
    for absent in proper("abc"):
        a, b = (losses["+".join(absent)] for losses in found)
        assert (abs(a - b) < 1e-6) is ("b" in absent)


def test_without_heads_there_is_no_substitution() -> None:
    plain_ = nonlinear("ab").run("missing", draws=1)
    assert not [k for k in plain_ if "substitution" in k[0]]
    asked = nonlinear("ab").run("missing", fills="zeros,substitution", rates="0.5")
    for kind in ("patterns", "patterns_loss", "rates", "rates_loss"):
        said = asked[f"{kind}.substitution", None, None].skipped
        assert "the model has no heads by which a modality could be substituted" in said
        assert "repair --method substitute" in said
        assert asked[f"{kind}.zeros", None, None].value is not None
    assert "fill 'zeros'" in asked["drop", "a", None].note
    only = nonlinear("ab").run("missing", fills="substitution")
    assert "no fill that runs the model" in only["drop", "a", None].skipped


def test_with_heads_it_is_among_the_fills_and_may_be_the_best() -> None:
    """Two modalities that say the same in other words, and heads that translate."""
    turn = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
    s = study(reader("ab", "a"), signs("ab", copied=True))
    s.adapter.insert(
        [
            {"kind": "basis", "modality": m, "path": f"encoders.{m}", "part": None, "channels": None}
            | {"features": 2, "latent": 2, "hidden": 4}
            for m in "ab"
        ]
    )
    for m, post in posts_of(s.adapter.model, "basis").items():
        if m == "b":  # b = a @ turn, so the latent space is a's own
            post.insert.h[0].weight.data @= turn
            post.insert.back[2].weight.data = turn.T @ post.insert.back[2].weight.data
    s = Study(s.adapter, extract(s.adapter, "test"))
    assert can_substitute(s.adapter)
    found = s.run("missing", draws=1)
    assert bars(found["patterns.substitution", None, None])["a"] > 0.97
    assert bars(found["patterns.zeros", None, None])["a"] < 0.7
    assert "h⁻¹" in found["patterns.substitution", None, None].definition


def test_heads_that_are_not_behind_every_encoder_are_none() -> None:
    """As a file may say: of other modalities, behind other modules, or behind some encoders only."""
    base = {"kind": "basis", "part": None, "channels": None, "features": 4, "latent": 5, "hidden": 10}
    for structure in (
        [base | {"modality": m, "path": f"encoders.{m}"} for m in "ab"],
        [base | {"modality": m.upper(), "path": f"encoders.{m}"} for m in "abc"],
        [base | {"modality": m, "path": f"encoders.{p}"} for m, p in zip("abc", "bca", strict=True)],
        [base | {"modality": m, "path": p} for m, p in zip("ab", ("encoders.a", "encoders.b"), strict=True)]
        + [base | {"modality": "c", "path": "fusion", "features": 8, "latent": 8, "hidden": 16}],
    ):
        s = nonlinear("abc")
        s.adapter.insert(structure)
        s = Study(s.adapter, extract(s.adapter, "test"))
        assert not can_substitute(s.adapter)
        assert (
            "no heads"
            in s.run("missing", fills="substitution", rates="0.5")["patterns.substitution", None, None].skipped
        )
        assert ("patterns.substitution", None, None) not in s.run("missing", rates="0.5", draws=1)


def test_an_order_of_substitutes_that_makes_no_sense_is_no_traceback() -> None:
    for order in ([99, -7], [1, 1], [2**62, -(2**62)]):
        s = with_heads(nonlinear("abc"))
        posts_of(s.adapter.model, "basis")["a"].insert.order.copy_(torch.tensor(order))
        found = s.run("missing", fills="substitution", rates="0.5")
        assert found["patterns.substitution", None, None].value is not None


def test_latent_encodings_are_those_of_the_features() -> None:
    """Not of a smaller batch run beside, and in the examples' order."""
    s = with_heads(nonlinear("abc"))
    gone = torch.tensor([True, False, False]).expand(80, -1)
    given = impute(s.adapter, s.features, BackgroundSet(s.features, True), "substitution", gone)
    post = posts_of(s.adapter.model, "basis")["a"]
    first = post.insert.others[int(post.insert.order[0])]
    with torch.no_grad(), capture_latents(s.adapter.model) as heard:
        s.adapter.run(s.features.inputs)
        expected = post.insert.back(heard[first])
    torch.testing.assert_close(given.recorded["a"][0], expected, rtol=1e-5, atol=1e-6)
    assert given.recorded["b"] is s.features.recorded["b"]
    assert not bool(given.inputs["a"].any())
