"""Models that sample in eval mode: each answer is the mean over fixed seeds, and no verdict rests on what seeds alone do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from collapsekit import Report, diagnose
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.adapters.predictions.sampling import STEP
from collapsekit.config.load import check_config
from collapsekit.context import Progress
from collapsekit.data.memory import MemorySource
from collapsekit.errors import ConfigError
from collapsekit.features.extraction import extract
from collapsekit.games import coalitions
from collapsekit.games.coalitions import CoalitionGame
from collapsekit.games.seed_noise import SeedNoise
from collapsekit.interventions.replay import predict
from collapsekit.tasks.classification import Classification
from collapsekit.tasks.multilabel import Multilabel

N = 300


class Policy(nn.Module):
    """An action that is read off both, and noise that is drawn anew, for each example or for all of them."""

    def __init__(self, noise: float = 0.5, shared: bool = False, uses: float = 1.0) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.noise, self.shared, self.uses = noise, shared, uses
        with torch.no_grad():
            for layer in (self.a, self.b):
                layer.weight.copy_(torch.eye(2))
                layer.bias.zero_()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out = self.a(a) + self.uses * self.b(b)
        drawn = torch.randn(1, 1).expand(len(out), 1) if self.shared else torch.randn(len(out), 1)
        return out[:, :1] + self.noise * drawn


class Scaled(Policy):
    """What it says, multiplied by a number that is drawn once for all examples."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (1 + 0.4 * torch.randn(1, 1)) * (self.a(a) + self.b(b))[:, :1]


class SamplingEncoder(Policy):
    """One whose encoder draws."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Sequential(self.b, Drawing())


class Drawing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


def data() -> dict[str, dict[str, Tensor]]:
    out = {}
    for split, seed in (("train", 0), ("val", 1), ("test", 2)):
        g = torch.Generator().manual_seed(seed)
        a, b = torch.randn(N, 2, generator=g), torch.randn(N, 2, generator=g)
        label = a[:, 0] + b[:, 0] + 0.1 * torch.randn(N, generator=g)
        out[split] = {"a": a, "b": b, "label": label}
    return out


def config(samples: int, **more: Any) -> dict[str, Any]:
    modalities: Any = more.pop("modalities", {"a": "a", "b": "b"})
    return {"modalities": modalities, "task": "regression", "model": {"samples": samples}, **more}


def report(model: nn.Module, samples: int, **more: Any) -> Report:
    probes = ["reliance", "utilisation"]
    return diagnose(model=model, data=data(), config=config(samples, **more), profile="quick", probes=probes)


def value(found: Report, name: str, modality: str | None = None) -> tuple[float, tuple[float, float] | None]:
    result = next(r for r in found.results if r.name == name and r.modality == modality)
    assert result.value is not None
    return result.value, result.interval


def test_a_model_that_samples_is_refused_unless_it_is_said() -> None:
    with pytest.raises(ConfigError, match=r"random in eval mode.*samples: 8"):
        report(Policy(), 1)


def test_an_answer_is_the_mean_over_its_seeds() -> None:
    source = MemorySource({"test": data()["test"]})
    adapter = ModuleAdapter(check_config(config(4), base=Path()), model=Policy(), source=source)
    features = extract(adapter, "test")
    found = predict(adapter, features).outputs
    each = []
    for i in range(4):
        torch.manual_seed(STEP * i)
        with torch.no_grad():
            each.append(adapter.model(features.inputs["a"], features.inputs["b"]))
    assert torch.equal(found, torch.stack(each).mean(0))
    assert torch.equal(found, predict(adapter, features).outputs)  # the same question, the same answer
    assert not torch.equal(found, predict(adapter, features, seed=1).outputs)


@pytest.mark.parametrize("at", ["encoders", "inputs"])
def test_a_sampling_model_is_judged_by_the_mean(at: str) -> None:
    modalities: Any = {"a": "a", "b": "b"} if at == "encoders" else {"a": None, "b": None}
    both = report(Policy(), 8, modalities=modalities)
    assert {m: v.verdict for m, v in both.modalities.items()} == {"a": "used", "b": "used"}
    ignores = report(Policy(uses=0.0), 8, modalities=modalities)
    assert {m: v.verdict for m, v in ignores.modalities.items()} == {"a": "used", "b": "collapsed"}
    assert "samples_answers" in {w.name for w in both.warnings}
    assert value(both, "reliance.seed_noise")[0] > 0


def test_more_samples_make_less_noise() -> None:
    few, many = (value(report(Policy(), n), "reliance.seed_noise")[0] for n in (2, 32))
    assert many < few / 2


def scaled_noise() -> Report:
    """Noise that multiplies what the model says, drawn once for all examples: no difference is free of it."""
    return report(Scaled(), 2)


def test_noise_that_examples_share_widens_credits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jackknife over examples cannot see what is drawn once for all of them."""
    found = scaled_noise()
    monkeypatch.setattr(coalitions, "measure_seed_noise", lambda *_: SeedNoise())
    blind = scaled_noise()
    assert blind.modalities["b"].verdict == "used"
    assert found.modalities["b"].verdict == "inconclusive"
    for name in ("utilisation.score", "reliance.shapley", "reliance.leave_one_out", "reliance.shapley_metric"):
        (one, wide), (other, narrow) = value(found, name, "b"), value(blind, name, "b")
        assert wide is not None
        assert narrow is not None
        assert one == other
        assert wide[1] - wide[0] > 1.2 * (narrow[1] - narrow[0]), name


def test_what_differences_do_not_see_widens_nothing() -> None:
    """Noise that is added to every answer alike falls out of a difference of squares, errors being about 0 on average."""
    noise = value(report(Policy(0.6, shared=True), 4), "reliance.seed_noise")[0]
    assert noise < 0.1 * 0.36  # the loss itself moves by about twice that much


def test_seed_noise_is_the_spread_of_a_difference() -> None:
    """Measured anew by 2,000 sets of seeds, without the game."""
    source = MemorySource({"test": data()["test"]})
    adapter = ModuleAdapter(check_config(config(2), base=Path()), model=Scaled(), source=source)
    features = extract(adapter, "test")
    game = CoalitionGame(adapter, features, 2, 0, Progress())
    a, b, y = (features.inputs["a"][:, 0], features.inputs["b"][:, 0], features.targets.reshape(-1))
    factor = 1 + 0.4 * torch.from_numpy(np.random.default_rng(0).standard_normal((2000, 2)).mean(1))[:, None]
    other = game.donors[0]
    plain = (factor * (a + b) - y).square().mean(1)
    moved = [(factor * x - y).square().mean(1) for x in ((a + b)[other], a[other] + b, a + b[other])]
    true = max(float((x - plain).std()) for x in moved)
    assert true / 2 < game.seed_noise.loss < true * 2.5  # of eight sets, widened as Student's t


def test_an_encoder_that_samples_is_named() -> None:
    with pytest.raises(ConfigError, match="the encoder of modality 'b' samples"):
        report(SamplingEncoder(), 4)
    found = report(SamplingEncoder(), 8, modalities={"a": "a", "b": None})
    assert found.modalities["b"].verdict == "used"


def test_a_model_without_chance_is_told_that_samples_change_nothing() -> None:
    one, several = report(Policy(0.0), 1), report(Policy(0.0), 3)
    sentence = {w.name: w.sentence for w in several.warnings}["samples_answers"]
    assert "costs time and changes nothing" in sentence
    assert value(one, "reliance.shapley", "b")[0] == pytest.approx(value(several, "reliance.shapley", "b")[0], rel=1e-6)


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_classes_are_averaged_as_probabilities(columns: int) -> None:
    task, several = Classification(), torch.randn(5, 7, columns, generator=torch.Generator().manual_seed(0))
    mean = torch.stack([task.expect(one) for one in several]).mean(0)
    assert torch.allclose(task.expect(task.average(list(several))), mean, atol=1e-6)


def test_labels_are_averaged_as_probabilities() -> None:
    task, several = Multilabel(), torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(0))
    mean = torch.stack([task.expect(one) for one in several]).mean(0)
    assert torch.allclose(task.expect(task.average(list(several))), mean, atol=1e-6)
