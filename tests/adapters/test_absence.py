"""What stands in the place of an absent modality: other examples, a constant, noise, or nothing, as the config says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit import Report, diagnose
from collapsekit.adapters.live.absence import COUNT
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.context import Progress
from collapsekit.data.memory import MemorySource
from collapsekit.errors import ConfigError, DataError
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.games.coalitions import CoalitionGame

N = 60


class Sum(nn.Module):
    """Adds what a and b say; without b, or where b is NaN, a number of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.alone = nn.Linear(3, 2), nn.Linear(3, 2), nn.Parameter(torch.tensor([0.7, -0.2]))

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        if b is None:
            return self.a(a) + 10 * self.alone
        gone = b.isnan().any(1, keepdim=True)
        return self.a(a) + torch.where(gone, self.alone, self.b(b.nan_to_num(0.0)))


class Words(nn.Module):
    """Token ids under a mask, and a vector."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.a = nn.Embedding(9, 2), nn.Linear(3, 2)

    def forward(self, ids: Tensor, mask: Tensor, a: Tensor) -> Tensor:
        some = mask[..., None].float()
        return self.a(a) + (self.table(ids) * some).sum(1) / some.sum(1).clamp_min(1.0)


def rows(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(N, 3, generator=g),
        "b": 2 + torch.randn(N, 3, generator=g) * torch.tensor([1.0, 3.0, 0.0]),
        "label": torch.arange(N) % 2,
    }


def opened(absent: Any, encoder: str | None, model: nn.Module | None = None, data: Any = None) -> tuple[Any, Features]:
    config = {"modalities": {"a": "a", "b": {"encoder": encoder, "absent": absent}}}
    adapter = ModuleAdapter(
        check_config(config, base=Path()), model=model or Sum(), source=MemorySource({"test": data or rows()})
    )
    return adapter, extract(adapter, "test")


def game_of(adapter: Any, features: Features, draws: int = 5) -> CoalitionGame:
    return CoalitionGame(adapter, features, draws, 0, Progress(), lambda: None)


def expected_without(features: Features, model: nn.Module, b: Tensor | None) -> Tensor:
    with torch.no_grad():
        return model(features.inputs["a"], b).double().softmax(1)


@pytest.mark.parametrize("encoder", ["b", None])
@pytest.mark.parametrize("absent", ["zero", 4, "mean"])
def test_a_constant_stands_in_its_place(absent: Any, encoder: str | None) -> None:
    adapter, features = opened(absent, encoder)
    b = features.inputs["b"]
    stands = {"zero": torch.zeros_like(b), "mean": b.mean(0).expand_as(b), 4: torch.full_like(b, 4.0)}[absent]
    found = game_of(adapter, features).value(1)
    want = expected_without(features, adapter.model, stands)
    assert torch.allclose(found.expected, want, atol=1e-6)
    loss = adapter.task.loss(want, features.targets).mean()
    assert float(found.loss[0]) == pytest.approx(float(loss), abs=1e-6)


@pytest.mark.parametrize("encoder", ["b", None])
def test_noise_has_mean_and_spread_of_each_place(encoder: str | None) -> None:
    adapter, features = opened("noise", encoder)
    noise = features.substitutes["b"].inputs["b"]
    assert noise.shape == (COUNT, 3)
    assert torch.equal(noise[:, 2], torch.full((COUNT,), 2.0))
    assert 1.5 < float(noise[:, 1].std()) < 6
    game = game_of(adapter, features)
    want = torch.stack([expected_without(features, adapter.model, noise[other % COUNT]) for other in game.donors])
    assert torch.allclose(game.value(1).expected, want.mean(0), atol=1e-6)


@pytest.mark.parametrize("encoder", ["b", None])
def test_missing_is_nan_where_the_model_reads_numbers(encoder: str | None) -> None:
    class Always(Sum):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(a, b)

    adapter, features = opened("missing", encoder, Always())
    want = expected_without(features, adapter.model, torch.full_like(features.inputs["b"], torch.nan))
    assert torch.allclose(game_of(adapter, features).value(1).expected, want, atol=1e-6)


def test_missing_is_none_where_the_model_has_none_by_default() -> None:
    adapter, features = opened("missing", None)
    want = expected_without(features, adapter.model, None)
    assert torch.allclose(game_of(adapter, features).value(1).expected, want, atol=1e-6)
    assert not torch.allclose(
        want, expected_without(features, adapter.model, torch.full_like(features.inputs["b"], torch.nan))
    )


def test_missing_is_none_where_the_data_have_none() -> None:
    r = rows()
    lacks = torch.arange(N) % 4 == 0
    examples = [{"a": r["a"][i], "b": None if lacks[i] else r["b"][i], "label": r["label"][i]} for i in range(N)]
    adapter, features = opened("missing", None, data=[examples])
    want = expected_without(features, adapter.model, None)
    assert torch.allclose(game_of(adapter, features).value(1).expected, want, atol=1e-6)


def test_an_example_that_lacks_it_stays_as_it_is() -> None:
    class Always(Sum):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(a, b)

    r = rows()
    r["b"][::4] = torch.nan
    adapter, features = opened("zero", "b", Always(), r)
    b = features.inputs["b"]
    want = expected_without(features, adapter.model, torch.where(b.isnan(), b, torch.zeros_like(b)))
    assert torch.allclose(game_of(adapter, features).value(1).expected, want, atol=1e-6)


@pytest.mark.parametrize("absent", ["missing", 8])
def test_tokens_are_masked_or_a_mask_token(absent: Any) -> None:
    g = torch.Generator().manual_seed(0)
    ids, mask = torch.randint(0, 8, (N, 5), generator=g), torch.rand(N, 5, generator=g) < 0.7
    r = rows()
    config = {
        "modalities": {"a": "a", "text": {"input": ["ids", "mask"], "mask": "mask", "absent": absent}},
    }
    data = {"ids": ids, "mask": mask.long(), "a": r["a"], "label": r["label"]}
    adapter = ModuleAdapter(check_config(config, base=Path()), model=Words(), source=MemorySource({"test": data}))
    features = extract(adapter, "test")
    want = adapter.model.a(features.inputs["a"])
    if absent == 8:
        want = want + adapter.model.table.weight[8]
    found = game_of(adapter, features).value(1).expected
    assert torch.allclose(found, want.detach().double().softmax(1), atol=1e-6)


@pytest.mark.parametrize(("absent", "alike"), [("zero", True), ("others", False)])
def test_one_that_is_always_the_same_is_asked_once(absent: str, alike: bool) -> None:
    counts = []
    for draws in (2, 32):
        adapter, features = opened(absent, None)
        asked: list[int] = []
        adapter.model.register_forward_pre_hook(
            lambda _m, _a, given, asked=asked: asked.append(len(given["a"])), with_kwargs=True
        )
        game_of(adapter, features, draws).value(1)
        counts.append(sum(asked))
    assert (counts[0] == counts[1]) == alike


def report(absent: Any) -> Report:
    data = {s: rows(i) for i, s in enumerate(("train", "val", "test"))}
    config = {"modalities": {"a": "a", "b": {"encoder": "b", "absent": absent}}}
    return diagnose(model=Sum(), data=data, config=config, profile="quick", probes=["reliance"])


def test_a_report_says_what_stood_there() -> None:
    found = report("zero")
    credit = next(r for r in found.results if r.name == "reliance.shapley")
    assert credit.definition is not None
    assert credit.definition.endswith("in the place of modality 'b' is 0")
    assert "'b' is 0" in {w.name: w.sentence for w in found.warnings}["absent_as"]
    assert "absent_as" not in {w.name for w in report("others").warnings}


def test_other_examples_are_the_default() -> None:
    one, other = (
        report("others"),
        diagnose(
            model=Sum(),
            data={s: rows(i) for i, s in enumerate(("train", "val", "test"))},
            config={"modalities": {"a": "a", "b": "b"}},
            profile="quick",
            probes=["reliance"],
        ),
    )
    assert one.results == other.results


def test_whole_numbers_have_no_mean() -> None:
    config = {"modalities": {"a": "a", "text": {"input": ["ids", "mask"], "absent": "mean"}}}
    data = {"ids": torch.randint(0, 8, (N, 5)), "mask": torch.ones(N, 5), "a": rows()["a"], "label": rows()["label"]}
    adapter = ModuleAdapter(check_config(config, base=Path()), model=Words(), source=MemorySource({"test": data}))
    with pytest.raises(ConfigError, match="'ids' holds whole numbers; write `absent: others`, or the number"):
        extract(adapter, "test")


@pytest.mark.parametrize("absent", [0.5, 1e30, -1e30])
def test_a_number_that_whole_numbers_cannot_be_is_refused(absent: float) -> None:
    config = {"modalities": {"a": "a", "text": {"input": ["ids", "mask"], "absent": absent}}}
    data = {"ids": torch.randint(0, 8, (N, 5)), "mask": torch.ones(N, 5), "a": rows()["a"], "label": rows()["label"]}
    adapter = ModuleAdapter(check_config(config, base=Path()), model=Words(), source=MemorySource({"test": data}))
    with pytest.raises(ConfigError, match="'ids' holds whole numbers from"):
        extract(adapter, "test")


def test_nothing_stands_for_a_modality_that_every_example_lacks() -> None:
    class Always(Sum):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(a, b)

    adapter, features = opened("zero", None, Always(), {**rows(), "b": torch.full((N, 3), torch.nan)})
    assert features.substitutes == {}
    plain = expected_without(features, adapter.model, features.inputs["b"])
    assert torch.allclose(game_of(adapter, features).value(1).expected, plain, atol=1e-6)


def test_an_encoder_that_is_not_called_is_named() -> None:
    with pytest.raises(ConfigError, match="take `encoder` out of the config"):
        opened("missing", "b", LeavesOut())


class LeavesOut(Sum):
    """Does not call the encoder of what is missing."""

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        return super().forward(a, None if b is not None and bool(b.isnan().any()) else b)


def test_an_answer_that_is_no_number_is_refused() -> None:
    class Plain(Sum):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[override]
            return self.a(a) + self.b(b)

    with pytest.raises(DataError, match="`absent: missing`"):
        opened("missing", "b", Plain())


@pytest.mark.parametrize("value", ["zer", True, None, [0]])
def test_another_word_is_refused(value: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"'modalities.b.absent': .*expected others, mean, zero, noise, missing or a number"
    ):
        opened(value, "b")


def test_the_nearest_word_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'zero'"):
        opened("zer", "b")
