"""What modalities say only together is found where there is something, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from collapsekit.context import Settings
from collapsekit.games.balanced_reference import BalancedReference, make_reference
from collapsekit.interventions.marginal import marginal_samples
from collapsekit.readouts.linear import make_split
from collapsekit.readouts.synergy import Synergy
from collapsekit.session.session import Session
from tests.probes.credit.test_utilisation import late, world
from tests.probes.planted import Apply, Planted, Study, linear, noise, plain, study

briefly = pytest.mark.usefixtures("brief_joint_here")
SIZES = {"train": 500, "val": 250, "test": 400}


def signs(n: int, seed: int, names: str = "abc") -> dict[str, Tensor]:
    """Sign of a times sign of b decides the label; c says nothing."""
    x = {m: noise(seed + ord(m), n, 3) for m in names}
    for m in "ab":
        x[m][:, 0] = x[m][:, 0].sign() + 0.3 * noise(seed + 7 * ord(m), n)
    return {**x, "label": ((x["a"] * x["b"])[:, 0] > 0).long()}


def nothing(names: str) -> Planted:
    """A model that ignores everything."""
    return Planted(plain(names), linear(torch.zeros(2, 3 * len(names))))


@pytest.fixture(scope="module")
def deaf() -> Study:
    """A model that ignores everything, in the world of signs."""
    return study(nothing("abc"), {s: signs(n, 1000 * i) for i, (s, n) in enumerate(SIZES.items())})


def reference(s: Study) -> BalancedReference:
    readouts = {m: Session.of(s.adapter, s.features).prefix(m) for m in s.features.modalities}
    return make_reference(s.adapter, s.features, readouts, marginal_samples(len(s.features), 16, 0))


def synergy_of(s: Study, offset: Mapping[str, Tensor], seed: int = 0) -> Synergy:
    """The network that adds most to an offset, on the model's encoders."""
    session = Session.of(s.adapter, s.features, Settings(seed=seed))
    return session._joint.on_recorded(offset, session.on(session.fit_split.train)._joint)


def added(s: Study) -> BalancedReference:
    plain_ = reference(s)
    return plain_.together(synergy_of(s, plain_.offset()))


@pytest.mark.slow
def test_exclusive_or_is_heard_and_shared_by_its_pair(deaf: Study) -> None:
    before, after = reference(deaf), added(deaf)
    assert after.joint is not None
    assert float(before.value(7).loss[0]) > 0.65
    assert float(after.value(7).loss[0]) < 0.25
    # Marginalised, either of the pair alone is at chance; c adds nothing anywhere.
    for mask in (0, 1, 2, 4, 5, 6):
        assert float(after.value(mask).loss[0]) == pytest.approx(0.69, abs=0.08), mask
    assert float(after.value(3).loss[0]) == pytest.approx(float(after.value(7).loss[0]), abs=0.05)


@pytest.mark.slow
def test_a_model_that_ignores_it_is_told_what_that_costs(deaf: Study) -> None:
    found = deaf.run("utilisation", profile="quick")
    for m in "ab":
        assert found["ratio", m, None].value == pytest.approx(0, abs=1e-6)
        assert found["score", m, None].value > 0.95
        assert found["reference_credit", m, None].interval[0] > 0.15
        assert found["alone_gain", m, None].value < 0.01
        assert found["costs_now", m, None].value > 0.3
    assert found["score", "c", None].value < 0.4
    assert abs(found["costs_now", "c", None].value) < 0.05
    # Without its twin each says nothing, so nothing is lost by not using it there.
    assert abs(found["costs_if_missing", "a", "b"].value) < 0.1
    assert found["costs_if_missing", "a", "c"].value > 0.3
    assert found["joint_gain", None, None].interval[0] > 0.3


@pytest.mark.slow
def test_a_model_that_uses_it_is_credited() -> None:
    arrays = {s: signs(n, 1000 * i) for i, (s, n) in enumerate(SIZES.items())}
    xor = Apply(lambda x: torch.stack([-3 * x[:, 0] * x[:, 3], 3 * x[:, 0] * x[:, 3]], 1))
    found = study(Planted(plain("abc"), xor), arrays).run("utilisation")
    for m in "ab":
        assert found["ratio", m, None].value > 0.8


def test_nothing_is_added_where_the_sum_says_all() -> None:
    s = study(late({"a": 1.5, "b": 0.0}), world({"a": 1.5, "b": 1.2}, sizes=SIZES))
    before = reference(s)
    after = added(s)
    assert after is not before or after.joint is None
    assert float(after.value(3).loss[0]) == pytest.approx(float(before.value(3).loss[0]), abs=0.02)
    skipped = s.run("utilisation")["joint_gain", None, None].skipped
    assert after.joint is not None or "no more than chance" in skipped


@pytest.mark.slow
def test_a_joint_readout_is_rarely_kept_on_noise() -> None:
    kept = 0
    for seed in range(4):
        arrays = {
            split: {m: noise(100 * seed + 10 * i + ord(m), n, 3) for m in "ab"}
            | {"label": (noise(7 + 100 * seed + 10 * i, n) > 0).long()}
            for i, (split, n) in enumerate(SIZES.items())
        }
        s = study(nothing("ab"), arrays)
        kept += added(s).joint is not None
    assert kept <= 1


@briefly
def test_the_network_is_fitted_once_for_all_examples_diagnosed(deaf: Study) -> None:
    offset = reference(deaf).offset()
    one, other = (synergy_of(deaf, offset) for _ in range(2))
    assert one.net is other.net
    assert synergy_of(deaf, offset, seed=1).net is not one.net


@briefly
def test_names_and_their_order_do_not_matter() -> None:
    arrays = {s: signs(n, 1000 * i) for i, (s, n) in enumerate(SIZES.items())}
    name = {"a": "z", "b": "a", "c": "m"}
    renamed = {s: {name.get(k, k): v for k, v in x.items()} for s, x in arrays.items()}
    pair = study(nothing("abc"), arrays), study(nothing("maz"), renamed)
    ours, theirs = (synergy_of(s, reference(s).offset()) for s in pair)
    assert [name[m] for m in ours.order] == list(theirs.order)
    assert ours.loss == pytest.approx(theirs.loss, abs=1e-6)


def test_offsets_are_of_the_rows_they_are_for(deaf: Study) -> None:
    made = reference(deaf)
    at = make_split(deaf.adapter, deaf.features)
    offset = made.offset()
    assert set(offset) == {"train", "val"}
    assert len(offset["train"]) == len(at.train)
    assert len(offset["val"]) == len(at.held)
    held = made.prior + made.weight * torch.stack([e for _, e in made.evidence.values()]).sum(0)
    assert torch.equal(offset["val"], held)


@pytest.mark.slow
def test_what_dead_encoders_lose_of_a_pair_is_heard_on_raw_inputs() -> None:
    blind = {m: Apply(lambda x: torch.zeros_like(x)) for m in "ab"} | {"c": Apply(lambda x: x)}
    arrays = {s: signs(n, 1000 * i) for i, (s, n) in enumerate(SIZES.items())}
    s = study(Planted(blind, linear(torch.zeros(2, 9))), arrays)
    found = s.run("utilisation")
    assert found["joint_gain", None, None].note == "on raw inputs"
    assert found["joint_gain", None, None].interval[0] > 0.3
    for m in "ab":
        assert found["reference_credit", m, None].value > 0.15
        assert found["ratio", m, None].interval[1] < 0.15
    assert found["reference_credit", "c", None].value < 0.02
