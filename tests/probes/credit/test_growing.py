from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.diagnosis import choose_probes
from collapsekit.errors import ConfigError
from collapsekit.features.extraction import extract
from collapsekit.probes.credit.growing import _session_of
from collapsekit.session.session import Session
from tests.probes.planted import Planted, Study, linear, noise, refusal, study

VIEWS = "abcd"
SIZES = {"train": 150, "val": 90, "test": 130}
CLEAR = {"a": 2.5, "b": 1.6, "c": 1.0, "d": 0.0}  # how plainly each view shows the class: a the strongest, d nothing
CURVES = ("vif_mean", "effective_rank", "numerical_rank", "loss", "metric")
STANDARD = {"rates": (1e-2,), "epochs": 8}


def data(clear: dict[str, float] = CLEAR) -> dict[str, dict[str, Tensor]]:
    """Three classes, each view with 4 numbers; every fourth example repeats the one before it in all but d."""
    out = {}
    for k, (split, n) in enumerate(SIZES.items()):
        y = torch.arange(n) % 3
        y[3::4] = y[2::4][: len(y[3::4])]
        x = {m: noise(10 * k + i, n, 4) for i, m in enumerate(clear)}
        for m, strength in clear.items():
            x[m][:, :3] += strength * F.one_hot(y, 3)
            if m != "d":
                x[m][3::4] = x[m][2::4][: len(x[m][3::4])]
        out[split] = {**x, "label": y}
    return out


def build(views: Sequence[str] = VIEWS, width: int = 6) -> Planted:
    """A model of some views, with random weights, but the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(len(views))
        encoders = {m: nn.Sequential(nn.Linear(4, 5), nn.Tanh()) for m in views}
        fusion = nn.Sequential(nn.Linear(5 * len(views), width), nn.Tanh())
        return Planted(encoders, fusion, nn.Linear(width, 3))


def given(folder: Path, views: str, model: nn.Module | None = None, **more: object) -> dict[str, object]:
    """A line of the config's ``subsets``, with its checkpoint in ``folder``."""
    torch.save((model or build(views)).state_dict(), folder / f"{views}.pt")
    return {"modalities": list(views), "checkpoint": f"{views}.pt", "kwargs": {"views": list(views)}, **more}


def grown(folder: Path, *subsets: dict[str, object], arrays: dict[str, dict[str, Tensor]] | None = None) -> Study:
    return study(
        build(), arrays or data(), factory="tests.probes.credit.test_growing:build", base=folder, subsets=list(subsets)
    )


def alone(views: str, model: nn.Module | None = None) -> Study:
    """A model of some views diagnosed by itself, as a user would without the growing probe."""
    arrays = {s: {k: x[k] for k in (*views, "label")} for s, x in data().items()}
    return study(model or build(views), arrays)


def test_the_points_are_what_other_probes_say_of_each_model(tmp_path: Path) -> None:
    s = grown(tmp_path, given(tmp_path, "ab"), given(tmp_path, "abc"))
    found = s.run("growing")
    for views, label in (("ab", "a+b"), ("abc", "a+b+c"), ("abcd", "a+b+c+d")):
        own = s if views == "abcd" else alone(views)
        spectrum, reliance, prefixes = own.run("spectrum"), own.run("reliance", draws=2), own.run("prefix_gap")
        others = {
            "vif_mean": own.run("vif")["mean", None, None],
            "effective_rank": spectrum["effective_rank", None, None],
            "numerical_rank": spectrum["numerical_rank", None, None],
            "loss": reliance["full_loss", None, None],
            "metric": reliance["full_metric", None, None],
        }
        keys = [((k, None, None), r) for k, r in others.items()]
        keys += [(("prefix_loss", m, None), prefixes["prefix_loss", m, None]) for m in views]
        for key, expected in keys:
            curve = found[key].curve
            at = curve.x.index(label)
            assert curve.y[at] == pytest.approx(expected.value, rel=1e-5), key
            assert curve.lower[at] <= curve.y[at] <= curve.upper[at]
            if views == "abcd":  # the rows in the same order, so the same groups
                assert (curve.lower[at], curve.upper[at]) == pytest.approx(expected.interval, rel=1e-5)
    assert found["prefix_loss", "c", None].curve.x == ("a+b+c", "a+b+c+d")
    assert "Table 7" in found["vif_mean", None, None].source
    assert "Figure 4" in found["prefix_loss", "a", None].source


def test_modalities_are_added_strongest_first(tmp_path: Path) -> None:
    # The names say nothing: here d is the plainest, then c, and a is noise.
    clear = {"a": 0.0, "b": 1.0, "c": 1.6, "d": 2.5}
    s = grown(tmp_path, given(tmp_path, "bcd"), given(tmp_path, "cd"), arrays=data(clear))
    found = s.run("growing")
    for name in CURVES:
        assert found[name, None, None].curve.x == ("d+c", "d+c+b", "d+c+b+a")
    assert "linear readout of its encoder in the model" in found["metric", None, None].definition
    assert "held-out losses: d 0." in found["metric", None, None].note


def test_subsets_off_the_way_and_missing_ones_are_named(tmp_path: Path) -> None:
    s = grown(tmp_path, given(tmp_path, "bd"), given(tmp_path, "ab"), given(tmp_path, "bcd"))
    metric = s.run("growing")["metric", None, None]
    assert metric.curve.x == ("a+b", "a+b+c+d")
    assert "left out: b+d, b+c+d" in metric.note
    assert "give checkpoints of a+b+c" in metric.note
    assert "ab.pt (SHA-256 " in metric.note
    why = refusal(grown(tmp_path, given(tmp_path, "cd")), "growing")
    assert "none of the given subsets lies on the way" in why
    assert "a, b, c, d" in why
    assert "a+b and a+b+c" in why


def test_another_order_can_be_asked_for(tmp_path: Path) -> None:
    s = grown(tmp_path, given(tmp_path, "cd"), given(tmp_path, "ab"))
    found = s.run("growing", order="d, c,b,a")
    assert found["metric", None, None].curve.x == ("d+c", "d+c+b+a")
    assert "in the order asked for" in found["metric", None, None].definition
    for order, says in (("d,c,x,a", "'x'"), ("d,c", "name each of a, b, c, d once"), ("a,a,b,c", "once")):
        with pytest.raises(ConfigError, match=says):
            s.run("growing", order=order)


def test_the_gap_is_to_the_encoders_trained_alone_and_its_interval_is_paired(tmp_path: Path) -> None:
    s = grown(tmp_path, given(tmp_path, "ab"), given(tmp_path, "abc"))
    options = {"prefix_gap": STANDARD, "growing": {}}
    found = {(r.name, r.modality): r for r in s.results("growing", options, profile="standard")}
    baselines = s.run("prefix_gap", profile="standard", **STANDARD)
    gap = found["growing.prefix_gap", None]
    for views, at in (("ab", 0), ("abc", 1), ("abcd", 2)):
        each = []
        for m in views:
            curve = found["growing.prefix_loss", m].curve
            loss = curve.y[curve.x.index("+".join(views))]
            each.append(loss - baselines["baseline_loss", m, None].value)
        assert gap.curve.y[at] == pytest.approx(np.mean(each), abs=1e-9)
    # Losses of one example under both readouts go up and down together: in pairs they say more.
    apart = [r.interval[1] - r.interval[0] for m in "ab" for r in [baselines["baseline_loss", m, None]]]
    assert gap.curve.upper[0] - gap.curve.lower[0] < np.mean(apart)
    assert "its encoder trained alone" in gap.definition
    quick = s.run("growing")["prefix_gap", None, None]
    assert quick.skipped == "profile quick trains no encoders"


def test_a_held_back_encoder_shows_where_its_modality_joins_others(tmp_path: Path) -> None:
    """b's encoder is sound in the model of a and b, and dead once c is there."""
    dead = build("abc")
    with torch.no_grad():
        dead.encoders["b"][0].weight.zero_()
    s = grown(tmp_path, given(tmp_path, "ab"), given(tmp_path, "abc", dead))
    found = s.run("growing", order="a,b,c,d")
    b, a = found["prefix_loss", "b", None].curve, found["prefix_loss", "a", None].curve
    assert b.lower[1] > b.upper[0]
    assert b.y[1] == pytest.approx(np.log(3), abs=0.05)
    assert a.upper[1] < b.lower[1]


def test_collinear_neurons_show_where_they_come_in(tmp_path: Path) -> None:
    twins = build("abc")
    with torch.no_grad():
        twins.fusion[0].weight[1] = twins.fusion[0].weight[0] + 1e-3 * twins.fusion[0].weight[2]
        twins.fusion[0].bias[1] = twins.fusion[0].bias[0]
    found = grown(tmp_path, given(tmp_path, "ab"), given(tmp_path, "abc", twins)).run("growing")
    vifs, ranks = found["vif_mean", None, None].curve, found["effective_rank", None, None].curve
    assert vifs.lower[1] > 10 * vifs.upper[0]
    assert ranks.y[1] < ranks.y[0]


def test_every_model_sees_the_same_examples_in_the_same_order(tmp_path: Path) -> None:
    s = grown(tmp_path, given(tmp_path, "ab"))
    features = extract(s.adapter, "test", limit=50)  # and not all 130
    subset = s.adapter.config.subsets[0]
    there = _session_of(Session.of(s.adapter, features), subset)
    twin, own = there.adapter, there.features
    for split in ("test", "train", "val"):
        mine, theirs = own.of(split), features.of(split)
        assert len(theirs) == 50
        assert torch.equal(mine.targets, theirs.targets)
        for m in "ab":
            assert torch.equal(mine.inputs[m], theirs.inputs[m])
            with torch.no_grad():
                assert torch.allclose(mine.pooled[m], twin.model.encoders[m](theirs.inputs[m]), atol=1e-6)
        with torch.no_grad():
            outputs = twin.model(**{m: theirs.inputs[m] for m in "ab"})
        assert torch.allclose(mine.outputs, outputs, atol=1e-6)
    assert own.of("train") is own.of("train")


def test_a_subset_may_have_a_factory_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "grow_other.py").write_text(
        "from tests.probes.credit.test_growing import build\ndef make(names):\n    return build(names, width=4)\n"
    )
    line = given(tmp_path, "ab", build("ab", width=4), factory="grow_other:make", kwargs={"names": ["a", "b"]})
    found = grown(tmp_path, line).run("growing")
    assert found["effective_rank", None, None].curve.y[0] <= 4
    assert "fused widths differ (4, 6)" in found["metric", None, None].note


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"checkpoint": "none.pt"}, "none.pt"),
        ({"kwargs": {}}, "encoders.c"),
        ({"kwargs": {"viewz": "ab"}}, "viewz"),
        ({"factory": "tests.probes.credit.test_growing:nothing"}, "nothing"),
    ],
)
def test_a_subset_that_cannot_be_built_is_named(change: dict[str, object], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^subset a\+b \(\w+\.pt\): ") as caught:
        grown(tmp_path, given(tmp_path, "ab") | change).run("growing")
    assert says in str(caught.value)


def test_what_cannot_be_had_is_skipped_and_the_rest_stays(tmp_path: Path) -> None:
    # The model of a and b only concatenates: it has no fused representation of its own.
    flat = Planted({m: nn.Linear(4, 5) for m in "ab"}, nn.Identity(), linear(noise(3, 3, 10)))
    (tmp_path / "grow_flat.py").write_text(
        "from torch import nn\nfrom tests.probes.planted import Planted\ndef make():\n"
        "    return Planted({m: nn.Linear(4, 5) for m in 'ab'}, nn.Identity(), nn.Linear(10, 3))\n"
    )
    line = given(tmp_path, "ab", flat, factory="grow_flat:make", kwargs={})
    found = grown(tmp_path, line).run("growing", order="a,b,c,d")
    assert found["metric", None, None].curve.x == ("a+b", "a+b+c+d")
    for name in ("vif_mean", "effective_rank"):
        assert found[name, None, None].curve.x == ("a+b+c+d",)
        assert "not to be had for a+b: the fusion point only concatenates" in found[name, None, None].note
    # Without a train split there are no readouts, so no order either, unless it is given.
    arrays = {"test": data()["test"]}
    bare = grown(tmp_path, given(tmp_path, "ab"), arrays=arrays)
    assert "train split" in refusal(bare, "growing")
    some = bare.run("growing", order="a,b,c,d")
    assert some["metric", None, None].curve.x == ("a+b", "a+b+c+d")
    assert "train split" in some["prefix_loss", "a", None].skipped


def test_it_runs_only_when_asked(tmp_path: Path) -> None:
    everything = {spec.name for spec in choose_probes(None, [])}
    assert "growing" not in everything
    assert "vif" in everything
    assert [spec.name for spec in choose_probes(["growing"], [])] == ["growing"]
    assert {spec.name for spec in choose_probes(None, [], also=["growing"])} == everything | {"growing"}
    assert [spec.name for spec in choose_probes(["vif"], [], also=["growing"])] == ["growing", "vif"]
    with pytest.raises(ConfigError, match=r"no `subsets`.*modalities: \[a, b\], checkpoint: a_b\.pt"):
        grown(tmp_path).run("growing")


def test_ranks_count_as_in_the_spectrum_probe(tmp_path: Path) -> None:
    s = grown(tmp_path, given(tmp_path, "ab"))
    found = {r.name: r for r in s.results("growing", {"spectrum": {"rtol": 0.3}})}
    expected = s.run("spectrum", rtol=0.3)["numerical_rank", None, None]
    assert found["growing.numerical_rank"].curve.y[-1] == expected.value
    assert "0.3" in found["growing.numerical_rank"].definition
