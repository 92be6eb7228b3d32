"""Whether a repair may stand, and which to try first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from torch import Tensor

from collapsekit.repairs.acceptance import beats, metric_check, score_check, still_used_check
from collapsekit.repairs.training.job import Job, held_expectations
from collapsekit.report.diagnosis import ModalityVerdict, Report
from collapsekit.report.recommend import advise, kept_by, recommend
from tests.factories import make_plain_report, make_result, make_subject
from tests.repairs.making import make_job, make_model

SIZES = {"train": 8, "val": 400}


def answers(job: Job, share: float, seed: int = 0) -> Tensor:
    """Expectations that are right for so large a share of the held-out examples."""
    y = job.at.held_targets
    right = torch.rand(len(y), generator=torch.Generator().manual_seed(seed)).argsort() < round(share * len(y))
    return torch.nn.functional.one_hot(torch.where(right, y, (y + 1) % 3), 3).double()


def test_expectations_are_the_models_in_eval_mode() -> None:
    job = make_job(make_model(lively=True))
    job.adapter.model.train()
    found = held_expectations(job, lambda live: live.outputs)
    with torch.no_grad():
        outputs = job.adapter.model.eval()(**job.at.held.inputs)
    assert torch.equal(found, outputs.double().softmax(1))


def by_hand(job: Job, before: Tensor, after: Tensor) -> tuple[float, float, float]:
    """Difference of accuracies, and its 90 % interval by leaving out one of 16 groups at a time, on the scale of Fisher's z,
    as a difference lies in -1 to 1; in NumPy."""
    y, groups = job.at.held_targets.numpy(), np.arange(len(job.at.choose)) % 16
    gain = (after.argmax(1).numpy() == y).astype(float) - (before.argmax(1).numpy() == y)
    left = np.array([gain[groups != g].mean() for g in range(16)])
    mean = float(gain.mean())
    half = student.ppf(0.95, 15) * np.sqrt(15 / 16 * ((left - left.mean()) ** 2).sum())
    low, high = (np.tanh(np.arctanh(mean) + sign * half / (1 - mean**2)) for sign in (-1, 1))
    return mean, low, high


@pytest.mark.parametrize(
    ("shares", "passed"),
    [
        ((0.8, 0.8), True),
        ((0.8, 0.9), True),
        ((0.8, 0.79), True),  # less, but by no more than chance
        ((0.8, 0.7), False),
        ((0.9, 0.5), False),
    ],
)
def test_the_metrics_difference(shares: tuple[float, float], passed: bool) -> None:
    job = make_job(sizes=SIZES)
    before, after = (answers(job, share, seed) for seed, share in enumerate(shares))
    check = metric_check(job, before, after)
    difference, low, high = by_hand(job, before, after)
    assert (check.name, check.passed) == ("metric", passed)
    assert (check.before, check.after) == pytest.approx(shares)
    assert check.difference == pytest.approx(difference)
    assert check.interval == pytest.approx((low, high))
    verdict = "not worse" if passed else "worse"
    assert check.sentence.startswith(f"accuracy on val is {verdict}: {shares[0]:.3f} before, {shares[1]:.3f} after")


def test_too_large_a_loss_is_one_however_uncertain() -> None:
    """Few examples, of which other ones are right than before: an interval that reaches 0 does not help."""
    job = make_job(sizes={"train": 8, "val": 32})
    before, after = answers(job, 0.75, 0), answers(job, 0.6875, 1)
    check = metric_check(job, before, after)
    assert check.interval[1] > 0
    assert not check.passed


def test_a_small_loss_that_is_certain_fails() -> None:
    """The same few answers of each group lost: no doubt about it, and within the margin."""
    job = make_job(sizes={"train": 8, "val": 1600})
    before = answers(job, 1.0)
    after = before.clone()
    after[:16] = before[:16].roll(1, 1)
    check = metric_check(job, before, after)
    assert check.difference == pytest.approx(-0.01)
    assert check.interval[1] < 0
    assert not check.passed


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_nothing_changed(metric: str) -> None:
    job = make_job(sizes=SIZES)
    before = answers(job, 0.6)
    check = metric_check(job, before, before.clone())
    assert (check.passed, check.difference, check.interval) == (True, 0.0, (0.0, 0.0))


# ---- reports by hand


def report(scores: dict[str, float | None], values: dict[tuple[str, str | None], float | None] | None = None) -> Report:
    """A report that says nothing but scores and these results, by name and modality."""
    verdicts = {
        m: ModalityVerdict(verdict="inconclusive" if s is None else "used", score=s, reason="By hand.")
        for m, s in scores.items()
    }
    results = [make_result(name, value, modality) for (name, modality), value in (values or {}).items()]
    subject = make_subject(tuple(scores), split="val")
    return make_plain_report(results, subject=subject, modalities=verdicts)


@pytest.mark.parametrize(
    ("old", "new", "passed"),
    [
        (0.9, 0.2, True),
        (0.9, 0.84, True),
        (0.5, 0.4375, True),
        (0.5, 0.453125, False),
        (0.9, 0.86, False),
        (0.9, 0.9, False),
        (0.2, 0.9, False),
        (None, 0.1, False),
        (0.9, None, False),
    ],
)
def test_the_scores_difference(old: float | None, new: float | None, passed: bool) -> None:
    check = score_check("audio", report({"image": 0.5, "audio": old}), report({"image": 0.0, "audio": new}))
    assert (check.name, check.passed, check.before, check.after) == ("score.audio", passed, old, new)
    assert check.difference == (None if old is None or new is None else pytest.approx(new - old))
    assert ("does not fall enough" in check.sentence) == (not passed)
    assert ("could not be had" in check.sentence) == (old is None or new is None)


@pytest.mark.parametrize(
    ("verdict", "passed"),
    [("used", True), ("collapsed", False), ("underused", False), ("inconclusive", False), ("uninformative", True)],
)
def test_no_other_modality_may_be_ignored_after(verdict: Any, passed: bool) -> None:
    before, after = report({"image": 0.25, "audio": 0.9}), report({"image": 0.75, "audio": 0.0})
    image = after.modalities["image"].model_copy(update={"verdict": verdict})
    after = after.model_copy(update={"modalities": {**after.modalities, "image": image}})
    check = still_used_check("image", before, after)
    assert (check.name, check.passed, check.before, check.after) == ("still_used.image", passed, 0.25, 0.75)
    assert check.difference == 0.5
    assert check.sentence.startswith(f"image, used on val before, is {verdict} after")
    assert ("taught the model to ignore it" in check.sentence) == (not passed)
    unknown = report({"image": None, "audio": 0.0})
    assert still_used_check("image", before, unknown).difference is None


def test_a_modality_that_is_at_most_underused_after_is_ignored_and_called_so() -> None:
    before, after = report({"image": 0.25, "audio": 0.9}), report({"image": 0.25, "audio": 0.0})
    image = after.modalities["image"].model_copy(update={"verdict": "inconclusive", "at_most": "underused"})
    check = still_used_check("image", before, after.model_copy(update={"modalities": {"image": image}}))
    assert not check.passed
    assert check.sentence.startswith("image, used on val before, is at most underused after: the repair taught")


def test_a_repair_beats_the_control_where_any_score_is_lower() -> None:
    control = report({"a": 0.8, "b": 0.5, "c": None})
    for scores, whom, expected in [
        ({"a": 0.7, "b": 0.5, "c": None}, ("a", "b"), True),
        ({"a": 0.7, "b": 0.5, "c": None}, ("b",), False),
        ({"a": 0.78, "b": 0.48, "c": None}, ("a", "b"), False),
        ({"a": 0.9, "b": 0.9, "c": 0.0}, ("a", "b", "c"), False),
        ({"a": 0.1, "b": 0.1, "c": 0.0}, ("c",), None),
        ({"a": None, "b": 0.1, "c": 0.0}, ("a",), None),
    ]:
        assert beats(report(scores), control, whom) is expected


def told(**shares: Any) -> Report:
    """A prior loss of 1 nat, encoders trained alone at 0.4, readouts that gain ``shares`` of what those gain."""
    values: dict[tuple[str, str | None], float | None] = {("utilisation.prior_loss", None): 1.0}
    for m, share in shares.items():
        values["prefix_gap.baseline_loss", m] = 0.4
        values["prefix_gap.prefix_loss", m] = None if share is None else 1.0 - 0.6 * share
    return report(dict.fromkeys(shares, 0.9), values)


@pytest.mark.parametrize(
    ("shares", "weak", "methods", "why"),
    [
        ({"image": 1.0, "audio": 0.9}, ("audio",), ("dropout",), "the encoder of audio still holds"),
        ({"image": 1.0, "audio": 0.71}, ("audio",), ("dropout",), "the encoder of audio still holds"),
        ({"image": 1.0, "audio": 1.4}, ("audio",), ("dropout",), "the encoder of audio still holds"),
        ({"image": 0.1, "audio": 0.9}, ("audio",), ("dropout",), "the encoder of audio still holds"),
        ({"image": 1.0, "audio": 0.8}, ("image", "audio"), ("dropout",), "the encoders of image and audio still hold"),
        ({"image": 1.0, "audio": 0.69}, ("audio",), ("kd", "dropout"), "the encoder of audio never learned"),
        ({"image": 1.0, "audio": -0.3}, ("audio",), ("kd", "dropout"), "the encoder of audio never learned"),
        ({"image": 1.0, "audio": 0.2}, ("image", "audio"), ("kd", "dropout"), "the encoder of audio never learned"),
        ({"image": 0.0, "audio": 0.2}, ("image", "audio"), ("kd", "dropout"), "the encoders of image and audio never"),
        ({"image": 1.0, "audio": None}, ("audio",), ("kd", "dropout"), "whether the encoder of audio learned"),
        ({"image": 1.0, "audio": None}, ("image", "audio"), ("kd", "dropout"), "is not known"),
    ],
)
def test_the_recommended_methods_follow_from_shares_and_modalities(
    shares: dict[str, float | None], weak: tuple[str, ...], methods: tuple[str, ...], why: str
) -> None:
    found, said = recommend(told(**shares), weak)
    assert found == methods
    assert why in said
    assert said.endswith(".")


@pytest.mark.parametrize(("alone", "share"), [(0.4, 0.5), (0.9, 0.5), (0.951, None), (1.0, None), (1.2, None)])
def test_what_an_encoder_holds_counts_where_one_trained_alone_gains_enough(alone: float, share: float | None) -> None:
    values: dict[tuple[str, str | None], float | None] = {
        ("utilisation.prior_loss", None): 1.0,
        ("prefix_gap.baseline_loss", "audio"): alone,
        ("prefix_gap.prefix_loss", "audio"): 1.0 - (1.0 - alone) / 2,
    }
    assert kept_by(report({"audio": 0.9}, values), "audio", 0.05) == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    ("config", "methods"),
    [
        ({"modalities": {"image": {"encoder": "i"}, "audio": {"input": "x"}}}, ("dropout",)),
        ({"modalities": {"image": {"encoder": "i"}, "audio": {"encoder": "a"}}}, ("kd", "dropout")),
        ({"modalities": {"image": {"encoder": "i"}, "audio": {}}, "adapter": "mine:Adapter"}, ("kd", "dropout")),
        ({}, ("kd", "dropout")),
    ],
)
def test_what_has_no_encoder_is_not_distilled_into(config: dict[str, Any], methods: tuple[str, ...]) -> None:
    base = told(image=1.0, audio=0.2)
    found, why = recommend(base.model_copy(update={"settings": {**base.settings, "config": config}}), ("audio",))
    assert found == methods
    assert ("no encoder" in why) == (methods == ("dropout",))


def test_where_nothing_can_be_learned_alone_it_is_not_known() -> None:
    values: dict[tuple[str, str | None], float | None] = {
        ("utilisation.prior_loss", None): 0.4,
        ("prefix_gap.baseline_loss", "audio"): 0.4,
        ("prefix_gap.prefix_loss", "audio"): 0.1,
    }
    assert recommend(report({"audio": 0.9}, values), ("audio",))[0] == ("kd", "dropout")
    assert recommend(report({"audio": 0.9}), ("audio",))[0] == ("kd", "dropout")


def caused(**causes: Any) -> Report:
    base = told(**dict.fromkeys(causes))
    found = {m: base.modalities[m].model_copy(update={"cause": cause}) for m, cause in causes.items()}
    return base.model_copy(update={"modalities": {**base.modalities, **found}})


@pytest.mark.parametrize(
    ("causes", "said"),
    [
        ({"audio": "not there"}, "mend how audio reaches the model"),
        ({"audio": "prior"}, "ask what needs audio"),
        ({"image": "prior", "audio": "not there"}, "mend how audio reaches the model"),
        ({"audio": "not seen"}, None),
        ({"image": "not there", "audio": "seen but not believed"}, None),
        ({"audio": None}, None),
    ],
)
def test_where_no_training_helps_what_does_is_said(causes: dict[str, str | None], said: str | None) -> None:
    found = advise(caused(**causes), tuple(causes))
    assert found is None if said is None else said in str(found)
    assert advise(caused(**causes), ()) is None


def test_a_cause_tells_what_an_encoder_holds_where_none_was_trained_alone() -> None:
    assert recommend(caused(audio="seen but not believed"), ("audio",))[0] == ("dropout",)
    assert recommend(caused(audio="not seen"), ("audio",))[0] == ("kd", "dropout")
    assert "never learned" in recommend(caused(audio="not seen"), ("audio",))[1]
