"""generative: torch's likelihoods and divergence, experts, what is refused, and a model that samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from collapsekit import diagnose
from collapsekit.adapters.outputs import prediction_in
from collapsekit.errors import ConfigError, DataError
from collapsekit.tasks.generative import Generative

N, SIZE, CODE = 12, 5, 3


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(N, *shape, generator=torch.Generator().manual_seed(seed))


def scores(task: Generative, prediction: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    outputs = task.read(prediction, targets)
    return task.expect(outputs), task.check(targets, outputs, "test")


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("experts", [0, 2])
def test_likelihood_and_divergence_are_those_of_torch(likelihood: Any, experts: int) -> None:
    shape = (experts,) if experts else ()
    made, mean, log_variance = drawn(*shape, SIZE), drawn(*shape, CODE, seed=1), drawn(*shape, CODE, seed=2)
    targets = drawn(SIZE, seed=3).sigmoid()
    truth = targets[:, None] if experts else targets
    if likelihood == "gaussian":
        wanted = -Normal(made, 0.5).log_prob(truth) + Normal(truth, 0.5).log_prob(truth)  # up to what targets alone say
    else:
        wanted = -Bernoulli(logits=made, validate_args=False).log_prob(truth)
    code = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(-1)
    task = Generative(likelihood=likelihood, deviation=0.5)
    expected, checked = scores(task, torch.cat([made, mean, log_variance], -1), targets)
    loss = wanted.sum(-1)
    each, codes = (loss.mean(1), code.mean(1)) if experts else (loss, code)
    assert torch.allclose(task.loss(expected, checked), each.double(), rtol=1e-5)
    assert task.metric(expected, checked) == pytest.approx(-float((each + codes).mean()), rel=1e-5)
    assert Generative("log_likelihood", likelihood, 0.5).metric_name == "log_likelihood"
    trained = task.training_loss(expected.float(), checked)
    assert float(trained) == pytest.approx(float((each + codes).mean()), rel=1e-4)  # the code is trained too
    constant = task.prior(checked, expected.shape[1])
    assert task.metric(constant.expand_as(expected), checked) == pytest.approx(  # no code to pay for
        -float(task.loss(constant.expand_as(expected), checked).mean())
    )
    natural = task.from_natural(task.to_natural(expected))
    assert torch.allclose(natural, expected, atol=1e-6)


def test_a_divergence_may_come_by_itself_or_not_at_all() -> None:
    made, targets, code = drawn(SIZE), drawn(SIZE, seed=1), drawn(1, seed=2).abs()
    task = Generative()
    expected, checked = scores(task, torch.cat([made, code], 1), targets)
    loss = (made - targets).double().square().sum(1) / 2
    assert torch.allclose(task.loss(expected, checked), loss, rtol=1e-5)
    assert task.metric(expected, checked) == pytest.approx(-float((loss + code[:, 0]).mean()), rel=1e-5)
    plain, checked = scores(Generative(), made, targets)
    assert plain.shape == (N, SIZE)
    assert Generative("log_likelihood").create(metric="log_likelihood", temperature=1.0).metric_name


@pytest.mark.parametrize("experts", [(), (2,)])
def test_tuples_of_pictures_and_codes_are_laid_side_by_side(experts: tuple[int, ...]) -> None:
    image, mean, log_variance = drawn(*experts, 1, 2, 3), drawn(*experts, CODE), drawn(*experts, CODE)
    task, targets = Generative(), drawn(1, 2, 3, seed=1)
    found = prediction_in((image, mean, log_variance), None, task, N)
    assert found.shape == (N, *experts, 6 + 2 * CODE)
    named = prediction_in({"z": mean, "x": image, "v": log_variance}, ["x", "z", "v"], task, N)
    assert torch.equal(found, named)
    expected, checked = scores(task, found, targets)
    assert task.loss(expected, checked).shape == (N,)
    alone, checked = scores(Generative(), drawn(1, 2, 3), targets)
    assert alone.shape == (N, 6)


@pytest.mark.parametrize(
    ("prediction", "targets", "options", "kind", "says"),
    [
        (drawn(4), drawn(5), {}, ConfigError, "reads 5 numbers that are generated"),
        (drawn(8), drawn(5), {}, ConfigError, "mean and log-variance of the code"),
        (drawn(2, 2, 5), drawn(5), {}, ConfigError, "of several"),
        (drawn(5), drawn(5), {"likelihood": "bernoulli"}, DataError, "from 0 to 1"),
        (drawn(5), drawn(5) / 0, {}, DataError, "not all finite"),
    ],
)
def test_what_does_not_fit_is_refused(
    prediction: Tensor, targets: Tensor, options: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        scores(Generative(**options), prediction, targets)


@pytest.mark.parametrize("options", [{"likelihood": "laplace"}, {"deviation": 0}, {"deviation": True}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"task_options {next(iter(options))}"):
        Generative.create(metric=None, temperature=1.0, **options)


def test_inputs_that_hold_what_is_to_be_generated_are_found() -> None:
    a, b = drawn(4), drawn(2, 3, seed=1)
    constant = torch.ones(N, 2)
    labels = torch.cat([b.flatten(1), constant], 1)
    assert Generative().answers_in({"a": a, "b": b, "constant": constant}, labels) == ("b",)


class Autoencoder(nn.Module):
    """Draws its code in eval mode; generates from modality a, and b where it is told to."""

    def __init__(self, *, reads_b: float) -> None:
        super().__init__()
        self.reads_b = reads_b
        self.register_buffer("unused", torch.zeros(1))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = torch.cat([a[:, :1], self.reads_b * b[:, :1]], 1)
        code = mean + 0.3 * torch.randn_like(mean)
        return code.repeat(1, 2), mean, torch.full_like(mean, 0.3).square().log()


def split(seed: int, n: int = 300) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(n, 3, generator=g), torch.randn(n, 3, generator=g)
    wanted = torch.stack([a[:, 0], b[:, 0], a[:, 0], b[:, 0]], 1) + 0.2 * torch.randn(n, 4, generator=g)
    return {"a": a, "b": b, "label": wanted}


@pytest.mark.parametrize(("reads_b", "verdict"), [(1.0, "used"), (0.0, "collapsed")])
def test_a_model_that_samples_is_judged_by_what_it_generates(reads_b: float, verdict: str) -> None:
    config = {"modalities": {"a": None, "b": None}, "task": "generative", "model": {"samples": 8}}
    data = {s: split(i) for i, s in enumerate(("train", "val", "test"))}
    report = diagnose(
        model=Autoencoder(reads_b=reads_b),
        data=data,
        config=config,
        profile="quick",
        probes=["reliance", "utilisation"],
    )
    assert {m: v.verdict for m, v in report.modalities.items()} == {"a": "used", "b": verdict}


def test_reconstructing_an_input_decides_nothing_of_it() -> None:
    data = {
        s: {**(held := split(i)), "label": held["a"][:, [0, 1, 0, 1]]} for i, s in enumerate(("train", "val", "test"))
    }
    config = {"modalities": {"a": None, "b": None}, "task": "generative", "model": {"samples": 4}}
    report = diagnose(
        model=Autoencoder(reads_b=0.0), data=data, config=config, profile="quick", probes=["reliance", "utilisation"]
    )
    assert report.modalities["b"].verdict == "inconclusive"
    skipped = [r.skipped for r in report.results if r.probe == "utilisation" and r.skipped]
    assert any("a of the modalities' inputs holds the answers" in why for why in skipped)
