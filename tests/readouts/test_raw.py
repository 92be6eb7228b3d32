"""Readouts of raw inputs: what the encoder under suspicion is never asked for alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import collapsekit
from collapsekit.diagnosis import check_options
from collapsekit.errors import ConfigError
from collapsekit.readouts.choosing import ChosenReadout
from collapsekit.readouts.linear import make_split
from collapsekit.readouts.raw import FAMILIES, BoostedTrees, RawModality, ReadoutOptions, fit_families
from collapsekit.report.diagnosis import Report
from collapsekit.session.session import Session
from collapsekit.tasks.retrieval import Retrieval
from tests.probes.credit.test_utilisation import late, world
from tests.probes.planted import Apply, Planted, Study, linear, study

SIZES = {"train": 500, "val": 250, "test": 250}
World = tuple[Tensor, Tensor]  # inputs (n, ...) and labels (n,)


def xor(n: int, g: torch.Generator) -> World:
    """Two signs that say something only together."""
    x = torch.randn(n, 3, generator=g)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def shapes(n: int, g: torch.Generator) -> World:
    """A plus or a cross, at a random place of an image."""
    y = torch.randint(0, 2, (n,), generator=g)
    x = 0.1 * torch.randn(n, 1, 16, 16, generator=g)
    plus, cross = torch.tensor([[0, 1, 0], [1, 1, 1], [0, 1, 0.0]]), torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1.0]])
    for i in range(n):
        r, c = torch.randint(0, 14, (2,), generator=g).tolist()
        x[i, 0, r : r + 3, c : c + 3] += plus if y[i] else cross
    return x, y


def waves(n: int, g: torch.Generator) -> World:
    """One of two frequencies, at a random phase."""
    y = torch.randint(0, 2, (n,), generator=g)
    turns = torch.where(y == 1, 0.11, 0.16)[:, None] * torch.arange(120.0) + torch.rand(n, 1, generator=g)
    return torch.sin(2 * torch.pi * turns)[:, None] + 0.7 * torch.randn(n, 1, 120, generator=g), y


def words(n: int, g: torch.Generator) -> World:
    """A token that says it, somewhere among others whose numbers say nothing."""
    y = torch.randint(0, 2, (n,), generator=g)
    x = torch.randint(0, 300, (n, 12), generator=g)
    x[torch.arange(n), torch.randint(0, 12, (n,), generator=g)] = torch.where(y == 1, 150, 151)
    return x, y


class Blind(nn.Module):
    """An encoder that gives zeros, whatever it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 2)


def opened(make: Callable[[int, torch.Generator], World], sizes: dict[str, int] = SIZES, **config: Any) -> Study:
    """A model whose encoder of ``b`` is blind; ``a`` is noise."""
    g = torch.Generator().manual_seed(0)
    arrays = {}
    for split, n in sizes.items():
        x, y = make(n, g)
        arrays[split] = {"a": torch.randn(n, 2, generator=g), "b": x, "label": y}
    return study(Planted({"a": nn.Identity(), "b": Blind()}, linear(torch.randn(2, 4, generator=g))), arrays, **config)


def families_of(s: Study, modality: str = "b", seed: int = 0) -> dict[str, ChosenReadout]:
    return fit_families(s.adapter, make_split(s.adapter, s.features), modality, seed)


def accuracy(s: Study, chosen: ChosenReadout) -> float:
    expected = chosen.read(s.adapter.task, s.features).expected
    return float((expected.argmax(1) == s.features.targets).double().mean())


@pytest.mark.parametrize(
    ("make", "family", "least"),
    [
        (xor, "random Fourier features", 0.9),
        (shapes, "random convolutions", 0.8),
        (waves, "random convolutions", 0.95),
        (words, "token counts", 0.9),
    ],
)
def test_a_family_sees_what_a_linear_readout_does_not(
    make: Any, family: str, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collapsekit.readouts.raw.ENOUGH", 0.0)  # each is asked
    s = opened(make)
    found = families_of(s)
    assert accuracy(s, found["raw numbers"]) < 0.65
    assert accuracy(s, found[family]) > least


def test_what_a_dead_encoder_loses_is_due_all_the_same() -> None:
    s = opened(xor)
    session = Session.of(s.adapter, s.features)
    strength = session.reference("b")
    assert strength.used.family == "random Fourier features"
    assert strength.independent
    assert strength.gains["the checkpoint's own encoder"] < 0.05
    assert next(iter(strength.gains)) == strength.used.family


@pytest.mark.usefixtures("brief_joint_here")
def test_a_modality_lost_before_its_encoder_is_collapsed_and_not_uninformative() -> None:
    g = torch.Generator().manual_seed(0)
    arrays = {}
    for split, n in SIZES.items():
        x, y = xor(n, g)
        arrays[split] = {
            "a": torch.randn(n, 2, generator=g) + 2.0 * torch.nn.functional.one_hot(y, 2),
            "b": x,
            "label": y,
        }
    model = Planted({"a": nn.Identity(), "b": Blind()}, linear([[2.0, 0, 0, 0], [0, 2.0, 0, 0]]))
    config = {"modalities": {"a": "encoders.a", "b": "encoders.b"}, "fusion": "fusion"}
    probes = ["reliance", "utilisation"]
    report = collapsekit.diagnose(model=model, data=arrays, config=config, profile="quick", probes=probes)
    assert report.modalities["a"].verdict == "used"
    assert report.modalities["b"].verdict == "collapsed"
    assert report.modalities["b"].reference is not None
    assert report.modalities["b"].reference.family == "random Fourier features"
    assert Report.from_json(report.to_json()) == report


def test_fourier_features_do_as_well_as_those_of_scikit_learn() -> None:
    s = opened(xor)
    at = make_split(s.adapter, s.features)
    raw = RawModality.of(s.adapter, at, "b", 0)
    ours = families_of(s)["random Fourier features"].fitted.loss
    x = {k: f.inputs["b"].numpy() for k, f in (("train", at.train), ("held", at.held))}
    z = StandardScaler().fit(x["train"]).transform(x["train"])
    gap = torch.pdist(torch.as_tensor(z)).median()
    theirs = []
    for multiple in (0.25, 0.5, 1.0):
        for c in (1e-2, 1e-1, 1.0, 10.0, 100.0):
            model = make_pipeline(
                StandardScaler(),
                RBFSampler(gamma=float(1 / (2 * (multiple * gap) ** 2)), n_components=400, random_state=0),
                StandardScaler(),
                LogisticRegression(C=c, max_iter=2000),
            ).fit(x["train"], at.train.targets)
            theirs.append(log_loss(at.held.targets, model.predict_proba(x["held"])))
    assert raw.width == 3
    assert ours == pytest.approx(min(theirs), abs=0.08)


def test_raw_inputs_are_tried_beside_an_encoder_that_hands_them_on() -> None:
    arrays = world({"a": 1.5, "b": 1.0}, sizes={"train": 200, "val": 100, "test": 80})
    s = study(late({"a": 1.5, "b": 1.0}), arrays)
    strength = Session.of(s.adapter, s.features).reference("b")
    own, raw = (strength.gains[k] for k in ("the checkpoint's own encoder", "raw numbers"))
    assert own == pytest.approx(raw, abs=1e-4)
    assert strength.used.family == "the checkpoint's own encoder"  # of equal ones the encoder's


def test_padding_is_not_counted() -> None:
    def padded(n: int, g: torch.Generator) -> World:
        x, y = words(n, g)
        return torch.cat([x, y[:, None] + 7], 1), torch.randint(0, 2, (n,), generator=g)

    g = torch.Generator().manual_seed(0)
    arrays = {}
    for split, n in SIZES.items():
        x, y = padded(n, g)
        arrays[split] = {"a": torch.randn(n, 2, generator=g), "b": x, "keep": torch.ones_like(x), "label": x[:, -1] - 7}
        arrays[split]["keep"][:, -1] = 0
        del y
    model = Planted({"a": nn.Identity(), "b": Apply(lambda x: x[:, :2] * 0.0)}, linear(torch.randn(2, 4)))
    config = {"modalities": {"a": {"encoder": "encoders.a"}, "b": {"encoder": "encoders.b", "mask": "keep"}}}
    s = study(model, arrays, **config)
    at = make_split(s.adapter, s.features)
    raw = RawModality.of(s.adapter, at, "b", 0)
    counted = next(iter(FAMILIES["token counts"](raw, at))).of(at.train)
    assert raw.mask == "keep"
    assert float(counted.sum(1).max()) <= 12


def test_wide_inputs_are_projected_and_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collapsekit.readouts.raw.WIDEST", 60)
    monkeypatch.setattr("collapsekit.readouts.raw.SUMS", 50)

    def wide(n: int, g: torch.Generator) -> World:
        y = torch.randint(0, 2, (n,), generator=g)
        return torch.randn(n, 80, generator=g) + 0.5 * y[:, None], y

    s = opened(wide)
    found = families_of(s)["raw numbers"]
    assert found.width == 50
    assert "80 numbers projected at random" in found.described
    assert accuracy(s, found) > 0.9


def test_whole_numbers_of_a_float_model_are_numbers_in_the_units_of_the_config() -> None:
    def pixels(n: int, g: torch.Generator) -> World:
        y = torch.randint(0, 2, (n,), generator=g)
        x = (100 + 40 * y[:, None, None, None] + 20 * torch.randn(n, 1, 12, 12, generator=g)).clamp(0, 255)
        return x.to(torch.uint8), y

    s = opened(pixels)
    assert accuracy(s, families_of(s)["raw numbers"]) > 0.95
    assert "token counts" not in families_of(s)


@pytest.mark.parametrize("make", [xor, waves, words])
def test_order_of_rows_and_size_of_batches_change_nothing(make: Any) -> None:
    sizes = {"train": 120, "val": 60, "test": 60}
    one = families_of(opened(make, sizes))
    g = torch.Generator().manual_seed(0)
    arrays = {}
    for split, n in sizes.items():
        x, y = make(n, g)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
        arrays[split] = {"a": torch.randn(n, 2, generator=g)[order], "b": x[order], "label": y[order]}
    model = Planted({"a": nn.Identity(), "b": Blind()}, linear(torch.randn(2, 4, generator=g)))
    other = families_of(study(model, arrays, data={"path": "unused.npz", "batch_size": 7}))
    assert one.keys() == other.keys()
    for family, chosen in one.items():
        assert other[family].fitted.loss == pytest.approx(chosen.fitted.loss, rel=1e-9), family


BOOSTED = ReadoutOptions(boosting=True)


@pytest.mark.parametrize("task", ["classification", pytest.param("multilabel", marks=pytest.mark.slow), "regression"])
def test_boosting_is_tried_where_it_is_asked_for(task: str) -> None:
    def steps(n: int, g: torch.Generator) -> World:
        x = torch.rand(n, 3, generator=g)
        y = (x[:, 0] > 0.5).long() ^ (x[:, 1] > 0.3).long()
        if task == "classification":
            return x, y
        both = torch.stack([y, (x[:, 2] > 0.7).long()], 1).double()
        return x, both

    s = opened(steps, task=task)
    at = make_split(s.adapter, s.features)
    assert "gradient boosting" not in fit_families(s.adapter, at, "b", 0)
    found = fit_families(s.adapter, at, "b", 0, BOOSTED)["gradient boosting"]
    read = found.read(s.adapter.task, s.features)
    assert read.validation_loss < fit_families(s.adapter, at, "b", 0)["raw numbers"].fitted.loss / 2
    test = float(s.adapter.task.loss(read.expected, s.features.targets).mean())
    assert test == pytest.approx(read.validation_loss, abs=0.1)


def test_boosting_gives_the_probabilities_of_scikit_learn() -> None:
    s = opened(xor)
    at = make_split(s.adapter, s.features)
    trees = BoostedTrees.fit(s.adapter.task, at.train.inputs["b"], at.targets, 3, {"max_iter": 20, "random_state": 0})
    assert trees is not None
    theirs = HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(at.train.inputs["b"], at.targets)
    x = at.held.inputs["b"]
    ours = s.adapter.task.expect(trees.predict(x))
    assert torch.allclose(ours[:, :2], torch.as_tensor(theirs.predict_proba(x)), atol=2e-3)
    assert float(ours[:, 2].max()) < 1e-3  # a class that no training example is of is not impossible
    assert float(ours[:, 2].min()) > 0
    assert BoostedTrees.fit(Retrieval(0.07), x, at.held_targets, 2, {}) is None


def test_boosting_without_scikit_learn_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collapsekit.readouts.raw.find_spec", lambda _name: None)
    with pytest.raises(ConfigError) as caught:
        check_options({"utilisation": {"boosting": True}})
    text = str(caught.value)
    assert "needs scikit-learn, which is not installed: pip install 'collapsekit[boosting]'" in text
    assert text.count(". ") == 0
    check_options({"utilisation": {"boosting": False}})


def test_where_hardly_anything_is_left_to_gain_no_further_family_is_asked() -> None:
    def clear(n: int, g: torch.Generator) -> World:
        y = torch.randint(0, 2, (n,), generator=g)
        return torch.randn(n, 2, generator=g) + 20.0 * y[:, None], y

    assert list(families_of(opened(clear))) == ["raw numbers"]
    assert len(families_of(opened(xor))) == 2


def test_readouts_are_remembered_for_another_model_on_the_same_examples() -> None:
    s = opened(xor)
    one, other = families_of(s), families_of(s)
    assert all(other[family] is chosen for family, chosen in one.items())
    assert families_of(s, seed=1)["raw numbers"] is not one["raw numbers"]
    assert families_of(opened(xor))["raw numbers"] is not one["raw numbers"]  # other tensors


def test_another_seed_draws_other_features_that_say_as_much() -> None:
    s = opened(xor)
    losses = [families_of(s, seed=seed)["random Fourier features"].fitted.loss for seed in (0, 1)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.1)
