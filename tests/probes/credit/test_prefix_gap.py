from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor, nn

from collapsekit.diagnosis import check_options
from collapsekit.errors import ConfigError
from tests.probes.planted import Planted, Study, linear, noise, plain, study

SIZES = {"train": 200, "val": 100, "test": 120}
QUICK = {"rates": (1e-2,), "epochs": 12}


def data(classes: int = 3, sizes: dict[str, int] = SIZES) -> dict[str, dict[str, Tensor]]:
    """Each modality sees the class through noise."""
    out = {}
    for k, (split, n) in enumerate(sizes.items()):
        y = torch.arange(n) % classes
        x = {m: noise(10 * k + i, n, 6) for i, m in enumerate("ab")}
        for m in x:
            x[m][:, :classes] += 2 * nn.functional.one_hot(y, classes)
        out[split] = {**x, "label": y}
    return out


def net() -> Planted:
    """Trainable encoders that start at random, but the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoders = {m: nn.Sequential(nn.Linear(6, 8), nn.ReLU()) for m in "ab"}
        return Planted(encoders, nn.Linear(16, 8), nn.Linear(8, 3))


FACTORY = """
from tests.probes.credit.test_prefix_gap import net
def build():
    return net()
"""


def built(folder: Path, model: nn.Module) -> Study:
    (folder / "gap_factory.py").write_text(FACTORY)
    return study(model, data(), factory="gap_factory:build", base=folder)


def sklearn_loss(s: Study, modality: str) -> tuple[float, float, float]:
    """Linear evaluation by scikit-learn: test loss, accuracy and the chosen penalty."""
    train, val = s.features.of("train"), s.features.of("val")
    mean, deviation = train.pooled[modality].double().numpy().mean(0), train.pooled[modality].double().numpy().std(0)

    def x(f: object) -> np.ndarray:
        return (f.pooled[modality].double().numpy() - mean) / deviation

    n, classes = len(train), int(train.targets.max()) + 1
    best = None
    for l2 in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        c = (2 if classes == 2 else 1) / (l2 * n)  # for two classes scikit-learn penalises the difference of columns
        fitted = LogisticRegression(C=c, max_iter=10_000, tol=1e-10).fit(x(train), train.targets)
        held = log_loss(val.targets, fitted.predict_proba(x(val)))
        if best is None or held < best[0]:
            y = s.features.targets
            best = (held, log_loss(y, fitted.predict_proba(x(s.features))), fitted.score(x(s.features), y), l2)
    return best[1:]


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_evaluation_is_that_of_scikit_learn(classes: int) -> None:
    s = study(Planted(plain("ab"), linear(noise(1, 4, 12)), linear(noise(2, classes, 4))), data(classes))
    found = s.run("prefix_gap")
    for m in "ab":
        loss, accuracy, l2 = sklearn_loss(s, m)
        assert found["prefix_loss", m, None].value == pytest.approx(loss, abs=1e-3)
        assert found["prefix_metric", m, None].value == pytest.approx(accuracy, abs=1e-9)
        assert f"penalty chosen: {l2:g}" in str(found["prefix_loss", m, None].note)


def test_the_quick_profile_trains_nothing_and_says_so() -> None:
    found = study(Planted(plain("ab"), linear(noise(1, 4, 12)), linear(noise(2, 3, 4))), data()).run("prefix_gap")
    for name in ("baseline_loss", "baseline_metric", "gap"):
        r = found[name, "a", None]
        assert r.skipped == "profile quick trains no encoders"
    assert found["gap", "a", None].definition != found["baseline_loss", "a", None].definition


def test_a_crippled_encoder_has_a_gap_and_a_trained_one_has_none(tmp_path: Path) -> None:
    model = net()
    with torch.no_grad():
        model.encoders["b"][0].weight.zero_()
    x = data()["train"]
    # a: trained alone until it says what there is to say.
    head = nn.Linear(8, 3)
    optimizer = torch.optim.Adam([*model.encoders["a"].parameters(), *head.parameters()], lr=0.01)
    for _ in range(60):
        loss = nn.functional.cross_entropy(head(model.encoders["a"](x["a"])), x["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    s = built(tmp_path, model)
    found = s.run("prefix_gap", profile="standard", **QUICK)
    gap = found["gap", "b", None]
    assert gap.interval[0] > 0.2
    assert found["prefix_metric", "b", None].value < 0.4
    assert found["baseline_metric", "b", None].value > 0.7
    assert abs(found["gap", "a", None].value) < 0.15
    for m in "ab":
        apart = found["prefix_loss", m, None].value - found["baseline_loss", m, None].value
        assert found["gap", m, None].value == pytest.approx(apart, abs=1e-9)
        assert "learning rate 0.01" in found["gap", m, None].note


def test_the_gaps_interval_is_of_paired_differences(tmp_path: Path) -> None:
    found = built(tmp_path, net()).run("prefix_gap", profile="standard", **QUICK)
    widths = {k: found[k, "a", None].interval[1] - found[k, "a", None].interval[0] for k in ("gap", "prefix_loss")}
    assert widths["gap"] < widths["prefix_loss"]


def test_encoders_without_weights_are_named() -> None:
    s = study(Planted(plain("ab"), linear(noise(1, 4, 12)), linear(noise(2, 3, 4))), data())
    reason = s.run("prefix_gap", profile="standard", **QUICK)["gap", "a", None].skipped
    assert "model.factory" in reason or "no encoder of its own" in reason


@pytest.mark.parametrize("rates", ["", "0.1,-1", "nan", "inf", "fast"])
def test_learning_rates_have_to_be_rates(rates: str) -> None:
    with pytest.raises(ConfigError, match="rates"):
        check_options({"prefix_gap": {"rates": rates}})
    assert check_options({"prefix_gap": {"rates": "1e-2, 0.1"}})["prefix_gap"].rates == (0.01, 0.1)


def test_renaming_modalities_renames_results() -> None:
    arrays = data()
    swapped = {s: {"b": x["a"], "a": x["b"], "label": x["label"]} for s, x in arrays.items()}
    fusion, head = linear(noise(1, 4, 12)), linear(noise(2, 3, 4))
    one = study(Planted(plain("ab"), fusion, head), arrays).run("prefix_gap")
    other = study(Planted(plain("ba"), fusion, head), swapped).run("prefix_gap")
    for m, n in (("a", "b"), ("b", "a")):
        assert one["prefix_loss", m, None].value == pytest.approx(other["prefix_loss", n, None].value, abs=1e-12)
