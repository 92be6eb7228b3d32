from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from collapsekit.probes._shared import Credit
from collapsekit.probes.credit.utilisation import _ratio, _score, _share
from collapsekit.report.diagnosis import Result
from tests.probes.planted import Apply, Planted, linear, noise, plain, refusal, study

briefly = pytest.mark.usefixtures("brief_joint_here")  # where what the joint network adds is not the question
SIZES = {"train": 400, "val": 250, "test": 400}
CLASSES = 3


def world(shifts: dict[str, float], twins: dict[str, str] | None = None, sizes: dict[str, int] = SIZES) -> dict:
    """Modalities that, given the class, are independent Gaussians about class means ``shift`` apart; a twin copies
    another modality but for a little noise."""
    out = {}
    for k, (split, n) in enumerate(sizes.items()):
        y = torch.randint(0, CLASSES, (n,), generator=torch.Generator().manual_seed(k))
        x = {m: noise(100 * k + ord(m), n, CLASSES) + s * F.one_hot(y, CLASSES) for m, s in shifts.items()}
        for twin, of in (twins or {}).items():
            x[twin] = x[of] + 0.05 * noise(100 * k + ord(twin), n, CLASSES)
        out[split] = {**x, "label": y}
    return out


def late(weights: dict[str, float]) -> Planted:
    """Logits that add up every modality times its weight; the class shift is the weight that is best."""
    fusion = linear(torch.cat([w * torch.eye(CLASSES) for w in weights.values()], 1))
    return Planted(plain(list(weights)), fusion)


def accuracy(weights: dict[str, float], x: dict[str, Tensor]) -> float:
    logits = sum(w * x[m] for m, w in weights.items())
    return float((logits.argmax(1) == x["label"]).double().mean())


@pytest.mark.slow
@pytest.mark.parametrize("shifts", [{"a": 1.3, "b": 1.3}, {"a": 2.0, "b": 1.3}, {"a": 2.7, "b": 1.3}])
def test_the_best_possible_late_fusion_uses_both_for_what_they_are_worth(shifts: dict[str, float]) -> None:
    # However much stronger one is: the weaker one's credit is small in the reference, too.
    found = study(late(shifts), world(shifts)).run("utilisation")
    for m in "ab":
        r = found["ratio", m, None]
        assert r.value == pytest.approx(1, abs=0.3), m
        assert abs(found["costs_now", m, None].value) < 0.02
        assert found["alone_gain", m, None].interval[0] > 0.05
    assert found["share", "a", None].value + found["share", "b", None].value == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("factor", [0.5, 2.0])
@briefly
def test_confidence_alone_changes_no_ratio(factor: float) -> None:
    shifts = {"a": 2.0, "b": 1.3}
    found = study(late({m: s * factor for m, s in shifts.items()}), world(shifts)).run("utilisation")
    for m in "ab":
        assert found["ratio", m, None].value == pytest.approx(1, abs=0.3), m


@briefly
def test_the_less_weight_the_lower_the_ratio() -> None:
    shifts = {"a": 2.0, "b": 1.3}
    arrays = world(shifts)
    ratios = [
        study(late({"a": 2.0, "b": 1.3 * w}), arrays).run("utilisation")["ratio", "b", None].value
        for w in (0, 0.1, 0.5)
    ]
    assert ratios == sorted(ratios)
    assert ratios[0] == pytest.approx(0, abs=1e-9)
    assert 0.3 < ratios[2] < 0.8


@briefly
def test_the_ratio_hardly_depends_on_the_number_of_draws() -> None:
    shifts = {"a": 2.0, "b": 1.3}
    s = study(late({"a": 2.0, "b": 0.4}), world(shifts))

    def at(draws: int, name: str) -> float:
        found = s.results("utilisation", {"reliance": {"draws": draws}, "utilisation": {}})
        return next(r.value for r in found if r.name == f"utilisation.{name}" and r.modality == "b")

    assert at(4, "ratio") == pytest.approx(at(64, "ratio"), rel=0.15)
    assert at(4, "credit") > 1.15 * at(64, "credit")  # which a single credit does


def test_an_ignored_modality_has_ratio_zero_and_costs_what_an_oracle_gains() -> None:
    shifts = {"a": 1.5, "b": 1.5}
    arrays = world(shifts)
    found = study(late({"a": 1.5, "b": 0.0}), arrays).run("utilisation")
    r = found["ratio", "b", None]
    assert r.value == pytest.approx(0, abs=1e-9)
    assert r.interval[1] < 0.01
    gain = accuracy(shifts, arrays["test"]) - accuracy({"a": 1.5}, arrays["test"])
    assert gain > 0.08
    assert found["costs_now", "b", None].value == pytest.approx(gain, abs=0.025)
    assert found["costs_now", "b", None].interval[0] > 0
    assert abs(found["costs_now", "a", None].value) < 0.02
    # Nothing is left of the model without a, and b by itself would be.
    without_a = found["costs_if_missing", "b", "a"]
    assert without_a.value == pytest.approx(accuracy({"b": 1.5}, arrays["test"]) - 1 / 3, abs=0.07)


def test_an_ignored_twin_costs_nothing_now_and_much_without_the_other() -> None:
    arrays = world({"a": 2.5, "c": 1.0}, twins={"b": "a"})
    found = study(late({"a": 2.5, "b": 0.0, "c": 1.0}), arrays).run("utilisation")
    assert found["ratio", "b", None].value < 0.01
    assert abs(found["costs_now", "b", None].value) < 0.015
    missing = found["costs_if_missing", "b", "a"]
    assert missing.value > 0.2
    assert missing.interval[0] > 0.15
    assert abs(found["costs_if_missing", "b", "c"].value) < 0.02
    assert abs(found["costs_if_missing", "c", "b"].value) < 0.02
    assert abs(found["costs_if_missing", "a", "b"].value) < 0.02


def test_a_modality_that_says_nothing_has_no_ratio_to_be_judged_by() -> None:
    found = study(late({"a": 2.0, "b": 0.0}), world({"a": 2.0, "b": 0.0})).run("utilisation")
    assert found["alone_gain", "b", None].interval[0] <= 0 or found["alone_gain", "b", None].value < 0.01
    assert found["ratio", "b", None].value is None or found["ratio", "b", None].value < 0.5
    assert found["credit", "b", None].value == pytest.approx(0, abs=1e-9)


@briefly
def test_a_model_that_ignores_everything_gives_no_nan() -> None:
    found = study(late({"a": 0.0, "b": 0.0}), world({"a": 2.0, "b": 1.0})).run("utilisation")
    for m in "ab":
        assert found["credit", m, None].value == pytest.approx(0, abs=1e-12)
        assert found["ratio", m, None].value == pytest.approx(0, abs=1e-9)
    assert found["costs_now", "a", None].value > 0.3


@briefly
def test_a_model_worse_than_nothing_uses_nothing() -> None:
    found = study(late({"a": -2.0, "b": -1.0}), world({"a": 2.0, "b": 1.0})).run("utilisation")
    assert found["share", "a", None].value == pytest.approx(0, abs=1e-6)
    assert found["ratio", "a", None].value == pytest.approx(0, abs=1e-6)


@briefly
def test_two_classes_and_one_logit() -> None:
    def binary(n: int, seed: int) -> dict[str, Tensor]:
        y = torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(seed))
        return {**{m: noise(seed + ord(m), n, 1) + 2.0 * y[:, None] - 1 for m in "ab"}, "label": y}

    arrays = {"train": binary(400, 0), "val": binary(200, 1000), "test": binary(400, 2000)}
    found = study(Planted(plain("ab"), linear([[2.0, 2.0]])), arrays).run("utilisation")
    for m in "ab":
        assert found["ratio", m, None].value == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@briefly
def test_regression_does_not_depend_on_where_zero_is(offset: float) -> None:
    def real(n: int, seed: int) -> dict[str, Tensor]:
        x = {m: noise(seed + ord(m), n, 2) for m in "ab"}
        y = x["a"][:, 0] + x["b"][:, 0] + 0.5 * noise(seed, n)
        return {**x, "label": (y + offset).double()}

    arrays = {"train": real(300, 0), "val": real(200, 1000), "test": real(400, 2000)}
    # Reads a with half the weight that would be best, which calibration makes up for, b not at all.
    s = study(Planted(plain("ab"), linear([[0.5, 0.0, 0.0, 0.0]], [offset])), arrays, task="regression")
    found = s.run("utilisation")
    assert found["ratio", "b", None].value == pytest.approx(0, abs=1e-6)
    assert found["ratio", "a", None].value == pytest.approx(1, abs=0.15)
    y, x = arrays["test"]["label"] - offset, arrays["test"]
    spread = float((y - y.mean()).square().sum())
    # The model's own scale is put right on both sides, so what is left is b's doing.
    best_a = 1 - float((y - x["a"][:, 0]).square().sum()) / spread
    both = 1 - float((y - x["a"][:, 0] - x["b"][:, 0]).square().sum()) / spread
    assert found["costs_now", "b", None].value == pytest.approx(both - best_a, abs=0.04)


@briefly
def test_without_a_val_split_the_costs_carry_a_caveat() -> None:
    arrays = world({"a": 1.5, "b": 1.5})
    del arrays["val"]
    found = study(late({"a": 1.5, "b": 0.0}), arrays).run("utilisation")
    assert "no val split" in found["costs_now", "b", None].note
    assert found["costs_now", "b", None].value > 0.05


def test_what_has_no_reference_is_refused_with_the_reason() -> None:
    arrays = world({"a": 1.5, "b": 1.5})
    assert "no train split" in refusal(study(late({"a": 1, "b": 1}), {"test": arrays["test"]}), "utilisation")
    assert "diagnose val or test" in refusal(study(late({"a": 1, "b": 1}), arrays, split="train"), "utilisation")


@briefly
def test_every_number_is_finite_on_few_examples() -> None:
    arrays = world({"a": 1.0, "b": 1.0}, sizes={"train": 20, "val": 20, "test": 20})
    found = study(late({"a": 1.0, "b": 1.0}), arrays).run("utilisation")
    assert all((r.value is None) != (r.skipped is None) for r in found.values())


@pytest.mark.parametrize("few", ["train", "val", "test"])
def test_too_few_examples_are_no_reference(few: str) -> None:
    arrays = world({"a": 1.0, "b": 1.0}, sizes={"train": 40, "val": 40, "test": 40, few: 19})
    assert "needs at least 20 examples, found 19" in refusal(study(late({"a": 1.0, "b": 1.0}), arrays), "utilisation")


def test_what_another_says_far_more_clearly_is_still_due_a_part_of_what_it_says_alone() -> None:
    arrays = world({"a": 9.0, "b": 1.5})  # a alone is never wrong
    found = study(late({"a": 9.0, "b": 0.0}), arrays).run("utilisation")
    gain, due = (found[k, "b", None].value for k in ("alone_gain", "reference_credit"))
    assert due == pytest.approx(0.1 * gain, rel=1e-6)
    assert found["ratio", "b", None].interval[1] < 0.15
    assert found["score", "b", None].value > 0.8
    assert found["ratio", "a", None].value == pytest.approx(1, abs=0.1)


def of(values: Tensor, error: float = 0.0) -> Credit:
    return Credit(values, None, None, error, (float(values.min()), float(values.max())))


def test_sampled_orders_widen_share_and_ratio_too() -> None:
    credit, due = torch.linspace(0.9, 1.1, 17).double(), torch.linspace(1.9, 2.1, 17).double()
    exact, sampled = (_ratio("a", "n", of(credit, error), of(due, error), 0.95) for error in (0.0, 0.5))
    assert sampled.interval[0] < exact.interval[0]
    assert sampled.interval[1] > exact.interval[1] + 0.3
    exact, sampled = (_share("a", credit, due, error, 0.95) for error in (0.0, 0.5))
    assert sampled.interval[1] > exact.interval[1] + 0.3


def test_a_reference_without_credit_gives_no_ratio() -> None:
    found = _ratio("a", "n", of(torch.ones(17).double()), of(torch.full((17,), -0.1).double()), 0.95)
    assert "no credit" in found.skipped
    assert (found.modality, found.note, found.unit) == ("a", "n", None)


def score_of(credit: float, due: float, spread: float = 0.0) -> Result:
    wave = torch.cat([torch.zeros(1), torch.arange(16).float() / 7.5 - 1]).double()
    return _score("a", "n", of(credit + spread * wave), of(due + 0 * wave), 1.0, 0.95)


def test_score_is_one_minus_the_ratio_but_for_what_is_due_nothing() -> None:
    assert score_of(0.0, 0.5).value == pytest.approx(1, abs=0.01)
    assert score_of(0.25, 0.5).value == pytest.approx(0.5, abs=0.01)
    assert score_of(0.9, 0.5).value == 0
    assert score_of(0.0, -0.2).value == 0
    assert score_of(-0.3, 0.5).value == pytest.approx(1, abs=0.02)
    assert score_of(0.0, 0.001).value < 0.2
    assert score_of(-0.3, 0.0).value == 0  # a modality that only misleads is not missed
    sure, unsure = (score_of(0.25, 0.5, spread).interval for spread in (0.001, 0.01))
    assert unsure[0] < sure[0] < 0.5 < sure[1] < unsure[1]


@briefly
def test_ignoring_is_named_the_same_under_other_names() -> None:
    shifts = {"a": 1.5, "b": 1.5}
    arrays = world(shifts)
    swapped = {s: {"b": x["a"], "a": x["b"], "label": x["label"]} for s, x in arrays.items()}
    one = study(late({"a": 1.5, "b": 0.3}), arrays).run("utilisation")
    other = study(late({"b": 1.5, "a": 0.3}), swapped).run("utilisation")
    name = {"a": "b", "b": "a", None: None}
    assert len(one) == len(other)
    for (kind, m, v), r in one.items():
        assert other[kind, name[m], name[v]].value == pytest.approx(r.value, abs=1e-9), kind


def test_a_fusion_that_reads_a_modality_only_in_combination_is_not_credited_by_the_reference() -> None:
    def signs(n: int, seed: int) -> dict[str, Tensor]:
        x = {m: noise(seed + ord(m), n, 1).sign() + 0.1 * noise(seed + 7 + ord(m), n, 1) for m in "ab"}
        return {**x, "label": ((x["a"] * x["b"])[:, 0] > 0).long()}

    arrays = {"train": signs(400, 0), "val": signs(200, 1000), "test": signs(300, 2000)}
    xor = Apply(lambda x: torch.stack([-4 * x[:, 0] * x[:, 1], 4 * x[:, 0] * x[:, 1]], 1))
    found = study(Planted(plain("ab"), xor), arrays).run("utilisation")
    for m in "ab":
        assert found["share", m, None].value == pytest.approx(0.5, abs=0.1)
        assert found["alone_gain", m, None].value < 0.02
