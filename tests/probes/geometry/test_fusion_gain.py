"""Gains against NumPy's SVD, and exchanges of which it is known whether they can raise a rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy, hmean
from torch import Tensor, nn

from collapsekit.stats.inference.jackknife import interval
from tests.probes.planted import Key, Planted, Study, linear, noise, plain, study

N = 240
NAMES = ("gain", "random_gain", "excess", "harmonic_mean", "random_harmonic_mean")


class Pooled(nn.Module):
    """Tokens of two modalities, their means side by side into a linear layer."""

    def __init__(self, width: int, modalities: str = "ab") -> None:
        super().__init__()
        self.encoders, self.fusion = nn.ModuleDict(plain(modalities)), linear(noise(5, 3, width))

    def forward(self, **x: Tensor) -> Tensor:
        means = [e(x[m]) for m, e in self.encoders.items()]
        return self.fusion(torch.cat([v.mean(1) if v.ndim == 3 else v for v in means], 1))


def of(n: int = N, **x: Tensor) -> Study:
    model = Planted(plain(list(x)), linear(noise(5, 3, sum(v.shape[1] for v in x.values()))))
    return study(model, {"test": {**x, "label": torch.arange(n) % 3}})


def tokens(**x: Tensor) -> Study:
    model = Pooled(sum(v.shape[-1] for v in x.values()), "".join(x))
    return study(model, {"test": {**x, "label": torch.arange(len(x["a"])) % 3}})


def pooled_rank(x: np.ndarray) -> float:
    return float(np.exp(entropy(np.linalg.svd(x - x.mean(0), compute_uv=False))))


def arrays(s: Study, m: str) -> np.ndarray:
    return s.features.recorded[m][0].double().numpy()


def test_the_gain_is_that_of_numpys_ranks_after_and_before() -> None:
    s = of(a=noise(0, N, 10) * torch.linspace(3, 0.1, 10), b=noise(1, N, 10))
    found = s.run("fusion_gain", score="magnitude", blend=1)
    a, b = arrays(s, "a"), arrays(s, "b")
    gains = []
    for x, y in ((a, b), (b, a)):
        chosen = np.argsort(np.abs(x).mean(0))[:3]
        after = x.copy()
        after[:, chosen] = y[:, chosen]
        gains.append(pooled_rank(after) - pooled_rank(x))
    assert found["gain", "a", "b"].value == pytest.approx(gains[0], rel=1e-6)
    assert found["gain", "b", "a"].value == pytest.approx(gains[1], rel=1e-6)
    expected = hmean(gains) if min(gains) > 0 else 0.0
    for pair in ("ab", "ba"):
        assert found["harmonic_mean", *pair].value == pytest.approx(expected, rel=1e-6)
        differing = found["gain", *pair].value - found["random_gain", *pair].value
        assert found["excess", *pair].value == pytest.approx(differing, rel=1e-9)


def test_the_interval_is_the_jackknife_of_the_gain() -> None:
    s = of(a=noise(0, N, 6) * torch.linspace(3, 0.1, 6), b=noise(1, N, 6))
    a, b, groups = arrays(s, "a"), arrays(s, "b"), s.features.groups.numpy()
    after = a.copy()
    after[:, 5] = b[:, 5]
    left = [pooled_rank(after[groups != g]) - pooled_rank(a[groups != g]) for g in range(16)]
    se = np.sqrt(15 / 16 * np.sum((left - np.mean(left)) ** 2))
    r = s.run("fusion_gain", score="std", proportion=0.17, blend=1)["gain", "a", "b"]
    assert r.interval == pytest.approx(interval(r.value, left), rel=1e-5)
    assert (r.interval[1] - r.interval[0]) / 2 == pytest.approx(2.1314495 * se, rel=0.1)


def test_a_low_rank_receiver_gains_from_an_independent_giver() -> None:
    s = of(a=noise(0, N, 2) @ noise(1, 2, 10) + 0.05 * noise(2, N, 10), b=noise(3, N, 10))
    found = s.run("fusion_gain", blend=1)
    assert found["gain", "a", "b"].interval[0] > 1
    assert found["gain", "b", "a"].interval[1] < found["gain", "a", "b"].interval[0]
    # Independent channels raise it whichever they replace: the reason for the control.
    assert found["random_gain", "a", "b"].interval[0] > 1


@pytest.mark.parametrize("definition", ["pooled", "kim2025"])
def test_identical_modalities_gain_nothing(definition: str) -> None:
    x = noise(0, N, 5, 4)
    found = tokens(a=x, b=x).run("fusion_gain", definition=definition)
    for name in NAMES:
        assert found[name, "a", "b"].value == 0
        assert found[name, "a", "b"].interval == (0, 0)


def test_names_swap_results() -> None:
    a, b = noise(0, N, 8) * torch.linspace(3, 0.1, 8), noise(1, N, 5)
    one, other = of(a=a, b=b).run("fusion_gain"), of(a=b, b=a).run("fusion_gain")
    for name in NAMES:
        assert one[name, "a", "b"].value == pytest.approx(other[name, "b", "a"].value, rel=1e-9)
        assert one[name, "a", "b"].interval == pytest.approx(other[name, "b", "a"].interval, rel=1e-6)
    assert one["gain", "a", "b"].value != pytest.approx(one["gain", "b", "a"].value)


@pytest.mark.parametrize("score", ["energy", "spectral", "std", "magnitude", "random"])
def test_kim2025_is_the_mean_gain_of_every_clip(score: str) -> None:
    a, b = noise(0, 60, 7, 5) * torch.linspace(2, 0.2, 5) + 1, noise(1, 60, 7, 5)
    s = tokens(a=a, b=b)
    found = s.run("fusion_gain", definition="kim2025", score=score, select="dataset", proportion=0.2, blend=1)
    x, y = arrays(s, "a"), arrays(s, "b")

    def clip(t: np.ndarray) -> np.ndarray:
        return np.exp(entropy(np.linalg.svd(t, compute_uv=False), axis=1))

    gains = []
    for channel in range(5):
        after = x.copy()
        after[..., channel] = y[..., channel]
        gains.append(float(np.mean(clip(after) - clip(x))))
    value = found["gain", "a", "b"].value
    if score != "random" and score != "spectral":
        by = {"std": x.std(1).mean(0), "energy": x.var(1).mean(0), "magnitude": np.abs(x).mean((0, 1))}
        channel = int(by[score].argmin())
        assert value == pytest.approx(gains[channel], rel=1e-6)
    assert min(abs(value - g) for g in gains) < 1e-6


@pytest.mark.parametrize("blend", [0.3, 1.0])
@pytest.mark.parametrize("score", ["energy", "std"])
def test_of_tokens_channels_are_chosen_in_each_example_as_rtf_chooses_them(score: str, blend: float) -> None:
    a, b = noise(0, 60, 7, 5) * torch.linspace(2, 0.2, 5) + 1, noise(1, 60, 7, 5)
    s = tokens(a=a, b=b)
    found = s.run("fusion_gain", definition="kim2025", score=score, proportion=0.4, blend=blend)
    x, y = arrays(s, "a"), arrays(s, "b")
    gains = []
    for own, other in zip(x, y, strict=True):
        to = np.argsort(own.std(0))[:2]
        after = own.copy()
        after[:, to] = (1 - blend) * own[:, to] + blend * other[:, to]
        ranks = [np.exp(entropy(np.linalg.svd(t, compute_uv=False))) for t in (own, after)]
        gains.append(ranks[1] - ranks[0])
    r = found["gain", "a", "b"]
    assert r.value == pytest.approx(np.mean(gains), rel=1e-6)
    assert "in each example" in r.definition


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "one vector an example"),
        ({"definition": "kim2025", "score": "spectral"}, "score spectral"),
        ({"definition": "kim2025", "pairing": "strongest"}, "pairing strongest"),
    ],
)
def test_what_cannot_be_chosen_in_each_example_is_said(options: dict[str, Any], words: str) -> None:
    s = tokens(a=noise(0, 60, 7, 5), b=noise(1, 60, 7, 5))
    assert words in s.run("fusion_gain", select="example", **options)["gain", "a", "b"].skipped
    assert s.run("fusion_gain", **options)["gain", "a", "b"].value is not None


def test_kim2025_needs_tokens_and_as_many_of_both() -> None:
    found = tokens(a=noise(0, 60, 7, 5), b=noise(1, 60, 5), c=noise(2, 60, 7, 5), d=noise(3, 60, 4, 5)).run(
        "fusion_gain", definition="kim2025"
    )
    for name in NAMES:
        assert found[name, "a", "c"].skipped is None
        for pair in ("ab", "ba"):
            assert "without a token axis" in found[name, *pair].skipped
        assert "as many tokens" in found[name, "a", "d"].skipped


@pytest.mark.parametrize("select", ["example", "dataset"])
def test_padding_tokens_are_left_out(select: str) -> None:
    a, b, mask = noise(0, 60, 7, 5), noise(1, 60, 7, 5), torch.arange(7)[None].expand(60, 7) < 4
    cut = tokens(a=a[:, :4], b=b[:, :4]).run("fusion_gain", definition="kim2025", select=select)
    junk = torch.where(mask[..., None], a, 100.0)
    sections = {"a": {"encoder": "encoders.a", "mask": "mask"}, "b": "encoders.b"}
    test = {"a": junk, "b": b, "mask": mask.long(), "label": torch.arange(60) % 3}
    masked = study(Pooled(10), {"test": test}, modalities=sections).run(
        "fusion_gain", definition="kim2025", select=select
    )
    # What is drawn in each example is drawn in another order, as that is by content.
    for name in ("gain", "random_gain") if select == "dataset" else ("gain",):
        assert masked[name, "a", "b"].value == pytest.approx(cut[name, "a", "b"].value, rel=1e-6)
    whole = study(Pooled(10), {"test": test}).run("fusion_gain", definition="kim2025", select=select)
    assert whole["gain", "a", "b"].value != pytest.approx(cut["gain", "a", "b"].value, rel=0.1)


def blends(**options: Any) -> dict[Key, Any]:
    a, b = noise(0, N, 2) @ noise(1, 2, 9) + 0.05 * noise(2, N, 9), noise(3, N, 9)
    return of(a=a, b=b).run("fusion_gain", score="magnitude", **options)


def test_more_of_the_giver_gains_more() -> None:
    gains = [blends(blend=blend)["gain", "a", "b"].value for blend in (0.05, 0.3, 1.0)]
    assert gains == sorted(gains)
    counts = [blends(proportion=p)["gain", "a", "b"].note.split(";")[0] for p in (0.12, 0.5)]
    assert counts == ["k = 1", "k = 4"]


@pytest.mark.parametrize("score", ["magnitude", "random"])
def test_a_gain_has_the_control_beside_it(score: str) -> None:
    found = of(a=noise(0, N, 9), b=noise(3, N, 9)).run("fusion_gain", score=score)
    for name, control in (("gain", "random_gain"), ("harmonic_mean", "random_harmonic_mean")):
        gain, random = found[name, "a", "b"], found[control, "a", "b"].value
        assert f"random channels {random:+.3g}" in gain.note
        assert ("as much or more" in gain.note) == (random >= gain.value)
        assert "random channels" not in found[control, "a", "b"].note


def test_the_strongest_channels_of_the_giver_can_be_asked_for() -> None:
    a, b = noise(0, N, 6) * torch.linspace(3, 0.1, 6), noise(1, N, 9) * torch.linspace(0.01, 2, 9)
    s = of(a=a, b=b)
    r = s.run("fusion_gain", score="magnitude", pairing="strongest", proportion=0.17, blend=1)["gain", "a", "b"]
    x, y = arrays(s, "a"), arrays(s, "b")
    after = x.copy()
    after[:, np.abs(x).mean(0).argmin()] = y[:, np.abs(y).mean(0).argmax()]
    assert r.value == pytest.approx(pooled_rank(after) - pooled_rank(x), rel=1e-6)


def test_the_control_is_the_mean_over_its_draws() -> None:
    s = of(a=noise(0, N, 6) * torch.linspace(3, 0.1, 6), b=noise(1, N, 6))
    a, b = arrays(s, "a"), arrays(s, "b")
    single = []
    for channel in range(6):
        after = a.copy()
        after[:, channel] = b[:, channel]
        single.append(pooled_rank(after) - pooled_rank(a))
    found = s.run("fusion_gain", proportion=0.17, draws=60, blend=1)["random_gain", "a", "b"].value
    assert found == pytest.approx(np.mean(single), abs=3 * np.std(single) / 60**0.5)


def test_few_examples_and_constant_features_are_a_reason() -> None:
    few = of(n=20, a=noise(0, 20, 12), b=noise(1, 20, 4)).run("fusion_gain")
    assert "at least 2·d = 24" in few["gain", "a", "b"].skipped
    assert "at least 2·d = 24" in few["harmonic_mean", "b", "a"].skipped
    still = of(a=torch.ones(N, 4), b=noise(1, N, 4)).run("fusion_gain")
    assert "constant" in still["gain", "a", "b"].skipped
