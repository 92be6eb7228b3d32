"""The flip rate, counted by hand: the model itself is called on inputs that are put together here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from collapsekit.games.coalitions import GameOptions
from collapsekit.interventions.marginal import marginal_samples
from collapsekit.stats.inference.bounded import wilson
from tests.probes.planted import Apply, Planted, Study, linear, noise, plain, study

N, DRAWS = 90, 6


def subject(modalities: str = "ab", *, absent: bool = False) -> Study:
    """Three classes, by an encoder that is not the identity; with ``absent`` zeros stand in the place of a."""
    x = {m: noise(i, N, 3) for i, m in enumerate(modalities)}
    encoders = {m: nn.Sequential(linear(noise(10 + i, 3, 3)), nn.Tanh()) for i, m in enumerate(modalities)}
    model = Planted(encoders, linear(noise(20, 3, 3 * len(modalities))))
    settings = {m: {"encoder": f"encoders.{m}"} for m in modalities}
    if absent:
        settings["a"]["absent"] = "zero"
    return study(model, {"test": {**x, "label": (x["a"][:, 0] > 0).long()}}, modalities=settings)


def by_hand(s: Study, modality: str, others: list[Tensor]) -> float:
    x, flipped = s.features.inputs, []
    with torch.no_grad():
        own = s.adapter.model(**x).argmax(1).numpy()
        for other in others:
            flipped.append(s.adapter.model(**{**x, modality: x[modality][other]}).argmax(1).numpy() != own)
    return float(np.mean(flipped))


@pytest.mark.parametrize("modalities", ["ab", "abc"])
def test_it_is_the_share_of_answers_that_another_examples_value_changes(modalities: str) -> None:
    s = subject(modalities)
    found = s.run("reliance", draws=DRAWS, flips=True)
    for m in modalities:
        rate = found["flips", m, None]
        assert rate.value == pytest.approx(by_hand(s, m, marginal_samples(N, DRAWS, 0)), abs=1e-12)
        assert 0 < rate.interval[0] < rate.value < rate.interval[1] < 1


def test_what_stands_in_for_an_absent_modality_is_what_answers_are_held_against() -> None:
    s = subject(absent=True)
    x = s.features.inputs
    with torch.no_grad():
        own, blank = (s.adapter.model(**{**x, "a": a}).argmax(1) for a in (x["a"], torch.zeros_like(x["a"])))
    rate = s.run("reliance", draws=DRAWS, flips=True)["flips", "a", None]
    assert rate.value == pytest.approx(float((own != blank).double().mean()), abs=1e-12)
    assert "in the place of modality 'a' is 0" in rate.definition


def test_no_answer_that_flips_is_no_proof_that_none_ever_would() -> None:
    s = study(Planted(plain("ab"), linear(torch.eye(2, 6))), {"test": {**_two(), "label": torch.arange(N) % 2}})
    rate = s.run("reliance", draws=DRAWS, flips=True)["flips", "b", None]
    assert (rate.value, rate.interval) == (0.0, (0.0, wilson(0.0, N)[1]))


def _two() -> dict[str, Tensor]:
    return {m: noise(i, N, 3) for i, m in enumerate("ab")}


def test_it_is_only_told_where_it_is_asked_for() -> None:
    assert not any(name == "flips" for name, _, _ in subject().run("reliance", draws=DRAWS))
    assert "flips" not in GameOptions().model_dump()
    assert GameOptions(flips=False).model_dump()["flips"] is False


def test_answers_that_choose_nothing_have_none() -> None:
    arrays = {**_two(), "label": noise(5, N, 2)}
    s = study(Planted(plain("ab"), Apply(lambda x: x[:, :2])), {"test": arrays}, task="regression")
    rate = s.run("reliance", draws=DRAWS, flips=True)["flips", "a", None]
    assert "choose none" in str(rate.skipped)
