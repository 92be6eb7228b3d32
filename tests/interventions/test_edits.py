"""Many what-if questions at once: the answers of one at a time, in fewer forwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from torch import Tensor, nn

from collapsekit.adapters.base import Adapter
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.context import Progress
from collapsekit.data.arrays import ArraySource
from collapsekit.features import batching
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.games.coalitions import CoalitionGame
from collapsekit.interventions.edits import Edit, cut_pieces, unread_inputs
from collapsekit.interventions.marginal import marginal_samples
from collapsekit.interventions.replay import by_row, predict, predict_many
from tests.probes.planted import noise
from tests.problems import adapt

WIDTHS = {"a": 3, "b": 5, "c": 2, "d": 4, "e": 2, "f": 2, "g": 3}


class Mixing(nn.Module):
    """A fusion of few layers; ``beside`` changes what enters it, given the raw inputs."""

    def __init__(self, names: str, beside: Beside) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: nn.Linear(WIDTHS[m], 4) for m in names})
        self.fusion = nn.Sequential(nn.Linear(4 * len(names), 8), nn.Tanh())
        self.head = nn.Linear(8, 3)
        self.beside = beside

    def forward(self, **x: Tensor) -> Tensor:
        parts = [encoder(x[m]) for m, encoder in self.encoders.items()]
        return self.head(self.fusion(self.beside(parts, x)))


Beside = Callable[[list[Tensor], dict[str, Tensor]], Tensor]


def nothing(parts: list[Tensor], _inputs: dict[str, Tensor]) -> Tensor:
    return torch.cat(parts, 1)


def writing(parts: list[Tensor], inputs: dict[str, Tensor]) -> Tensor:
    """Writes into what the encoders gave, and reads what entered one of them."""
    for part in parts:
        part.mul_(0.5).add_(inputs["a"].sum(1, keepdim=True))
    return torch.cat(parts, 1)


def extra(parts: list[Tensor], inputs: dict[str, Tensor]) -> Tensor:
    return torch.cat(parts, 1) * (1 + inputs["extra"])


def sharing(parts: list[Tensor], inputs: dict[str, Tensor]) -> Tensor:
    return torch.cat(parts, 1) + inputs["c"].sum(1, keepdim=True)


def centring(parts: list[Tensor], _inputs: dict[str, Tensor]) -> Tensor:
    return torch.cat(parts, 1) - torch.cat(parts, 1).mean(0)


def rounding(parts: list[Tensor], _inputs: dict[str, Tensor]) -> Tensor:
    """Reads the signs of all but the last."""
    return torch.cat([*(part.sign() for part in parts[:-1]), 0 * parts[-1]], 1)


def mixing(names: str, n: int, beside: Beside = nothing, **config: Any) -> tuple[Adapter, Features]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Mixing(names, beside)
    x = {m: noise(ord(m), n, WIDTHS[m]) for m in names}
    data = {**x, "label": torch.arange(n) % 3, "extra": noise(9, n, 1)}
    raw = {
        "modalities": {m: f"encoders.{m}" for m in names},
        "fusion": "fusion",
        "task": "classification",
        "data": {"path": "unused.npz", "also": ["extra"] if beside is extra else []},
        **config,
    }
    adapter = ModuleAdapter(
        check_config(raw, base=Path.cwd()), model=model, source=ArraySource({"test": data}, "memory")
    )
    return adapter, extract(adapter, "test")


def counted(patch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every forward of fusion and head from here on."""
    rows: list[int] = []
    rerun = ModuleAdapter.rerun

    def noted(self: ModuleAdapter, recorded: Any, inputs: Any) -> Any:
        rows.append(len(next(iter(inputs.values()))))
        return rerun(self, recorded, inputs)

    patch.setattr(ModuleAdapter, "rerun", noted)
    return rows


def worth_by_hand(adapter: Adapter, features: Features, mask: int, draws: int) -> Tensor:
    """Expectation of a coalition, one draw at a time."""
    names = features.modalities
    absent = [m for i, m in enumerate(names) if not mask >> i & 1]
    if not absent:
        return adapter.task.expect(features.outputs)
    asked = marginal_samples(len(features), draws, 0)
    found = [predict(adapter, features, swap=dict.fromkeys(absent, o)).outputs for o in asked]
    return torch.stack([adapter.task.expect(y) for y in found]).mean(0)


@pytest.mark.parametrize("beside", [nothing, writing, extra, centring])
@pytest.mark.parametrize("names", ["ab", "abcd"])
@pytest.mark.parametrize(("n", "draws"), [(5, 8), (40, 1), (41, 6), (60, 32)])
def test_coalitions_are_those_of_one_draw_at_a_time(names: str, n: int, draws: int, beside: Any) -> None:
    adapter, features = mixing(names, n, beside)
    made = CoalitionGame(adapter, features, draws, 0, Progress())
    # "extra" stays with its example whatever moves, and a model that centres reads the whole batch.
    assert bool(made.inverse) == (beside in (nothing, writing) and draws > 1)
    for mask in range(1 << len(names)):
        torch.testing.assert_close(
            made.value(mask).expected, worth_by_hand(adapter, features, mask, draws), rtol=1e-5, atol=1e-6
        )


def test_an_input_of_two_modalities_moves_with_either() -> None:
    """With a or b absent it is another example's, so what a has of one and b of another is asked in both directions."""
    sections = {m: {"encoder": f"encoders.{m}", "input": [m, "c"] if m in "ab" else m} for m in "abc"}
    adapter, features = mixing("abc", 30, sharing, modalities=sections)
    made = CoalitionGame(adapter, features, 6, 0, Progress())
    assert not made.inverse
    for mask in range(8):
        torch.testing.assert_close(
            made.value(mask).expected, worth_by_hand(adapter, features, mask, 6), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("names", ["ab", "abcd"])
def test_the_order_in_which_coalitions_are_asked_for_does_not_matter(names: str) -> None:
    adapter, features = mixing(names, 50)
    one, other = (CoalitionGame(adapter, features, 7, 0, Progress()) for _ in range(2))
    masks = range(1 << len(names))
    there, back = [one.value(k) for k in masks], [other.value(k) for k in reversed(masks)][::-1]
    for a, b in zip(there, back, strict=True):
        assert torch.equal(a.expected, b.expected)
        assert torch.equal(a.loss, b.loss)
    torch.testing.assert_close(other.calibrated(1).expected, other.value(1).expected, rtol=0, atol=0)


@pytest.mark.parametrize("names", ["ab", "abcd"])
def test_swapped_names_swap_coalitions(names: str) -> None:
    adapter, features = mixing(names, 40)
    other = {"a": "b", "b": "a"}
    sections = {other.get(m, m): {"encoder": f"encoders.{m}", "input": m} for m in names}
    renamed, theirs = mixing(names, 40, modalities=sections)
    assert set(theirs.modalities) == set(names)
    one, two = (CoalitionGame(a, f, 5, 0, Progress()) for a, f in ((adapter, features), (renamed, theirs)))
    for mask in range(1 << len(names)):
        present = {other.get(m, m) for m in one.names(mask)}
        same = sum(1 << i for i, m in enumerate(theirs.modalities) if m in present)
        torch.testing.assert_close(two.value(same).expected, one.value(mask).expected, rtol=1e-6, atol=1e-7)


def test_what_is_not_read_is_worth_exactly_nothing() -> None:
    """Draws are added up in the same order, whichever of two coalitions was run: else ties are broken by rounding."""
    adapter, features = mixing("abc", 48, rounding)
    made = CoalitionGame(adapter, features, 12, 0, Progress())
    for mask in range(3):  # c is not read; with a and b both there the model as extracted answers, in other batches
        assert torch.equal(made.value(mask | 4).expected, made.value(mask).expected)


@pytest.mark.parametrize(("names", "pairs"), [("ab", 1), ("abcd", 7)])
def test_a_pair_of_coalitions_takes_the_forwards_of_one(
    monkeypatch: pytest.MonkeyPatch, names: str, pairs: int
) -> None:
    adapter, features = mixing(names, 50)
    assert by_row(adapter, features)
    rows = counted(monkeypatch)
    made = CoalitionGame(adapter, features, 8, 0, Progress())
    for mask in range(1 << len(names)):
        made.value(mask)
    # 49 is no multiple of 8, so all draws but the first have inverses: 9 questions a pair, in one forward.
    assert rows == [9 * 50] * pairs


def test_a_model_that_reads_the_whole_batch_gets_each_question_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, features = mixing("ab", 50, centring)
    assert not by_row(adapter, features)
    predict(adapter, features)  # which inputs it reads past its encoders is tried once
    asked = [Edit(scale={"a": beta}) for beta in (0.0, 1.0, 3.0)]
    rows = counted(monkeypatch)
    found = list(predict_many(adapter, features, asked))
    assert rows == [50] * 3
    for one, answer in zip(asked, found, strict=True):
        assert torch.equal(answer.outputs, predict(adapter, features, scale=one.scale).outputs)


@pytest.mark.parametrize("beside", [nothing, writing])
@pytest.mark.parametrize("names", ["ab", "abcd"])
@pytest.mark.parametrize(("shared", "chunk"), [(2048, 512), (64, 30), (7, 3), (29, 512), (58, 10)])
def test_answers_do_not_depend_on_what_is_asked_beside(
    monkeypatch: pytest.MonkeyPatch, names: str, beside: Any, shared: int, chunk: int
) -> None:
    adapter, features = mixing(names, 29, beside)
    one, two = marginal_samples(29, 2, 1)
    asked = [
        Edit(),
        Edit(scale={"a": 0.0}),
        Edit(swap={"a": one}),
        Edit(hold=["b"]),
        Edit(swap={"a": one, "b": two}, scale={"b": 2.0}),
        Edit(hold=["a"], scale={"a": 3.0, "b": 0.5}),
    ]
    truth = [predict(adapter, features, scale=q.scale, swap=q.swap, hold=q.hold) for q in asked]
    before = [t.clone() for r in features.recorded.values() for t in r]
    raw = {k: v.clone() for k, v in features.inputs.items()}
    monkeypatch.setattr(batching, "SHARED", shared)
    monkeypatch.setattr(batching, "CHUNK", chunk)
    found = list(predict_many(adapter, features, iter(asked)))
    assert len(found) == len(asked)
    for a, b in zip(truth, found, strict=True):
        torch.testing.assert_close(b.outputs, a.outputs, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(b.fused, a.fused, rtol=1e-5, atol=1e-6)
    # A model may write into what it is given; the records stay.
    assert all(
        torch.equal(a, b) for a, b in zip(before, (t for r in features.recorded.values() for t in r), strict=True)
    )
    assert all(torch.equal(v, raw[k]) for k, v in features.inputs.items())


def test_a_question_is_the_models_own_answer() -> None:
    """Without the package: held at the mean, then multiplied; inputs move with their modality."""
    adapter, features = mixing("ab", 29)
    model, x = adapter.model, features.inputs
    other = marginal_samples(29, 1, 1)[0]
    (found,) = predict_many(adapter, features, [Edit(swap={"a": other}, hold=["b"], scale={"b": 2.0})])
    with torch.no_grad():
        a, b = model.encoders["a"](x["a"][other]), model.encoders["b"](x["b"])  # type: ignore[index]
        z = model.fusion(torch.cat([a, 2 * b.mean(0, keepdim=True).expand_as(b)], 1))  # type: ignore[operator]
        torch.testing.assert_close(found.outputs, model.head(z), rtol=1e-5, atol=1e-6)  # type: ignore[operator]


@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 50), st.booleans())
@budget(max_examples=60, deadline=None)
def test_every_row_of_every_question_is_in_one_forward(count: int, n: int, size: int, mixed: bool) -> None:
    asked = [Edit(scale={"a": float(k)}) for k in range(count)]
    forwards = list(cut_pieces(asked, n, size, mixed))
    rows = [(p.asked.scale["a"], row) for pieces in forwards for p in pieces for row in range(p.start, p.stop)]
    assert rows == [(float(k), row) for k in range(count) for row in range(n)]
    sizes = [sum(p.stop - p.start for p in pieces) for pieces in forwards]
    assert max(sizes) <= size
    if mixed:
        assert all(s == size for s in sizes[:-1])
    else:
        assert all(len(pieces) == 1 for pieces in forwards)


def test_sampled_coalitions_share_draws_too(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, features = mixing("abcdefg", 24)
    made = CoalitionGame(adapter, features, 4, 0, Progress())
    assert not made.exact
    first = made.value(0b0010011)
    rows = counted(monkeypatch)
    other = made.value(0b1101100)
    assert not rows
    for mask, worth in ((0b0010011, first), (0b1101100, other)):
        torch.testing.assert_close(worth.expected, worth_by_hand(adapter, features, mask, 4), rtol=1e-5, atol=1e-6)


class Peeking(nn.Module):
    """Reads a raw input past its encoders: the mean of ``a``, or only where ``b`` is huge."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: nn.Linear(3, 4) for m in "ab"})
        self.fusion, self.head, self.how = nn.Linear(8, 5), nn.Linear(5, 2), how

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        z = torch.cat([self.encoders["a"](a), self.encoders["b"](b)], 1)
        if self.how == "mask":
            z = z * (a.abs().sum(1, keepdim=True) > 0)
        if self.how == "huge" and float(b.abs().max()) > 1e6:
            z = z * 2
        if self.how == "writes":
            a.mul_(1)
        return self.head(self.fusion(z))


@pytest.mark.parametrize(("how", "idle"), [("no", {"a", "b"}), ("mask", {"b"}), ("huge", {"a"}), ("writes", {"b"})])
def test_inputs_that_are_read_past_the_encoders_move_with_their_examples(how: str, idle: set[str]) -> None:
    g = torch.Generator().manual_seed(0)
    x = {m: torch.randn(40, 3, generator=g) for m in "ab"}
    x["a"][::3] = 0
    data = {"test": {**x, "label": torch.arange(40) % 2}}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Peeking(how).eval()
    config = {"modalities": {m: f"encoders.{m}" for m in "ab"}, "fusion": "fusion", "data": {"path": "memory"}}
    adapter = adapt(model, config, data)
    features = extract(adapter, "test")
    assert unread_inputs(adapter, features) == idle
    other = torch.arange(40).roll(7)
    found = predict(adapter, features, swap={"a": other}).outputs
    with torch.no_grad():
        wanted = model(features.inputs["a"][other].clone(), features.inputs["b"].clone())
    torch.testing.assert_close(found, wanted)
