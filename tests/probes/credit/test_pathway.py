"""pathway on models whose weights are known: what reaches the answer, what states hold, what would be added."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit.errors import ConfigError
from collapsekit.session.states import TOKENS, states_of
from tests.probes.planted import Planted, Study, linear, noise, plain, study

SIZES = {"train": 160, "val": 80, "test": 96}
WIDE = 8


def data(*, told: bool = False) -> dict[str, dict[str, Tensor]]:
    """Modality a says the class clearly, b too; with ``told`` a says it without any doubt."""
    out = {}
    for k, (split, n) in enumerate(SIZES.items()):
        y = torch.arange(n) % 2
        x = {m: noise(10 * k + i, n, 4) for i, m in enumerate("ab")}
        for m in x:
            x[m][:, 0] += (12.0 if told and m == "a" else 1.5) * (2 * y - 1)
        out[split] = {**x, "label": y}
    return out


def reads(a: float, b: float) -> nn.Linear:
    """A fusion (2,) of the first feature of each modality, with these weights."""
    weight = torch.zeros(2, 8)
    weight[1, 0], weight[1, 4] = a, b
    return linear(weight)


def pathway(model: nn.Module, *, told: bool = False, **options: Any) -> dict[Any, Any]:
    return {(name, m): r for (name, m, _), r in study(model, data(told=told)).run("pathway", **options).items()}


def test_what_no_answer_depends_on_moves_none() -> None:
    found = pathway(Planted(plain("ab"), reads(2.0, 0.0)))
    assert found["moves", "b"].value == 0
    assert found["moves", "a"].value > 0.3
    assert found["spread", "b"].value == pytest.approx(1.0, abs=0.2)  # it varies all the same


def test_movement_is_the_largest_change_of_an_answer() -> None:
    s = study(Planted(plain("ab"), reads(1.0, 0.5)), data())
    found = s.run("pathway")
    own = s.features.outputs.double().softmax(1)
    x = {m: s.features.inputs[m].double() for m in "ab"}
    donors = s.features.facts.session.game.donors[:4]
    far = []
    for donor in donors:
        score = x["a"][:, 0] + 0.5 * x["b"][donor][:, 0]
        far.append(float((torch.stack([torch.zeros_like(score), score], 1).softmax(1) - own).abs().max()))
    assert found["moves", "b", None].value == pytest.approx(max(far) / float(own.max()), rel=1e-5)


def test_states_that_are_the_same_for_every_example_have_no_spread() -> None:
    dead = linear(torch.zeros(4, 4), torch.ones(4))
    found = pathway(Planted({"a": nn.Identity(), "b": dead}, reads(2.0, 2.0)))
    assert found["spread", "b"].value == 0
    assert found["moves", "b"].value == 0


def test_a_readout_finds_what_states_hold_and_not_what_they_lost() -> None:
    lost = linear(torch.diag(torch.tensor([0.0, 1.0, 1.0, 1.0])))
    whole, less = (pathway(Planted({"a": nn.Identity(), "b": e}, reads(2.0, 0.0))) for e in (nn.Identity(), lost))
    assert whole["held_loss", "b"].value < 0.35
    assert less["held_loss", "b"].value > 0.65  # ln 2 is a constant's


def test_what_others_suffice_for_adds_nothing() -> None:
    needed, needless = (pathway(Planted(plain("ab"), reads(2.0, 0.0)), told=told) for told in (False, True))
    assert needed["adds", "b"].value > 0.1
    assert needless["adds", "b"].interval[1] < 0.03


class Merger(nn.Module):
    """Gives the rows of all examples of a batch in one tensor, as packed images are."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 2)


class Dead(Merger):
    """The same whatever it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.0 * super().forward(x)


class Packed(nn.Module):
    """No encoder of its own for either modality; one passes a projector that is known by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"a": nn.Identity(), "b": nn.Identity()})
        self.connector = Merger()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        states = self.connector(b).reshape(len(b), -1)
        score = a[:, 0] + 0.0 * states[:, 0]
        return torch.stack([torch.zeros_like(score), score], 1)


def packed() -> Study:
    at_input = {"a": {"input": "a"}, "b": {"input": "b"}}
    return study(Packed(), data(), modalities=at_input, fusion=None)


def test_a_known_projector_is_read_where_no_encoder_is_named() -> None:
    found = packed().run("pathway")
    assert found["held_loss", "b", None].value < 0.45
    assert found["held_loss", "b", None].note == "read at connector"
    assert "pathway.states" in str(found["held_loss", "a", None].skipped)


def test_a_dead_projector_is_known_by_what_it_is_given() -> None:
    model = Packed()
    model.connector = Dead()
    found = study(model, data(), modalities={m: {"input": m} for m in "ab"}, fusion=None).run("pathway")
    assert found["spread", "b", None].value == 0
    assert "pathway.states" in str(found["held_loss", "a", None].skipped)


def test_another_submodule_is_read_where_it_is_named() -> None:
    found = packed().run("pathway", states={"a": "encoders.a", "b": "connector"})
    assert "gives no tensor" in str(found["held_loss", "a", None].skipped)  # the model does not call it
    with pytest.raises(ConfigError, match="conector"):
        packed().run("pathway", states={"b": "conector"})


def test_states_of_an_example_are_its_own() -> None:
    s = packed()
    found = states_of(s, s.adapter.model.get_submodule("connector"), [3, 5])
    assert found.shape == (2, TOKENS * 2)
    tokens = s.features.inputs["b"][5].reshape(-1, 2)
    assert torch.equal(found[1], torch.cat([tokens[[0]], tokens[[0]], tokens[[1]], tokens[[1]]]).flatten())
