"""What a model does beside answering: named in the report, or refused with the right cause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from collapsekit import diagnose
from collapsekit.adapters.build import unregistered
from collapsekit.adapters.validate import FEW
from collapsekit.errors import ConfigError
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.report.diagnosis import Report
from tests.problems import adapt

N = 40
CONFIG: dict[str, Any] = {"modalities": {"a": "a", "b": "b"}, "fusion": "fusion"}


def data(n: int = N, rows: Tensor | None = None) -> dict[str, dict[str, Tensor]]:
    made = {}
    for number, split in enumerate(("train", "val", "test")):
        g = torch.Generator().manual_seed(number)
        x = {k: torch.randn(n, 4, generator=g) for k in "ab"} | {"label": torch.arange(n) % 3}
        made[split] = x if rows is None else {k: v[rows] for k, v in x.items()}
    return made


class Model(nn.Module):
    """Two encoders, a fusion, a head. ``at``: what to do to values on their way, by place."""

    def __init__(self, **at: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(7)
        self.a, self.b = nn.Linear(4, 5), nn.Linear(4, 5)
        self.fusion, self.head = nn.Linear(10, 6), nn.Linear(6, 3)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=g))
        self.at = at

    def turned(self, place: str, x: Tensor) -> Tensor:
        return self.at[place](self, x) if place in self.at else x

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.a(self.turned("input", a))
        x = x if "a" not in self.at else self.turned("a", x)
        z = self.turned("fused", self.fusion(torch.cat([x, self.b(b)], 1)))
        return self.turned("output", self.head(z))


class Encoder(nn.Module):
    """An encoder whose features pass ``turn``."""

    def __init__(self, turn: Callable[[Any, Tensor], Tensor] | nn.Module) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 5)
        self.register_buffer("mean", torch.zeros(5))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("calls", torch.zeros(()))
        self.norm = turn if isinstance(turn, nn.Module) else nn.Identity()
        self.turn = (lambda _m, x: x) if isinstance(turn, nn.Module) else turn

    def forward(self, x: Tensor) -> Tensor:
        return self.turn(self, self.norm(self.linear(x)))


def with_encoder(turn: Any) -> Model:
    model = Model()
    model.a = Encoder(turn)  # type: ignore[assignment]
    return model


def features_of(model: nn.Module, **options: Any) -> Features:
    given = options.pop("data", None) or data()
    return extract(adapt(model, {**CONFIG, **options}, given), "test")


def warned(found: Features | Report) -> dict[str, str]:
    return {w.name: w.sentence for w in found.warnings}


def quick(model: nn.Module, **options: Any) -> Report:
    options.setdefault("data", data())
    return diagnose(model=model, config=CONFIG, profile="quick", probes=["reliance"], **options)


# -- clean models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, FEW, FEW + 3, N])
@pytest.mark.parametrize("batch", [1, 2, FEW, FEW + 3, 256])
def test_of_a_plain_model_nothing_is_said(n: int, batch: int) -> None:
    found = extract(adapt(Model(), {**CONFIG, "data": {"batch_size": batch}}, data(n)), "test")
    assert not found.warnings


def half(kind: torch.dtype) -> nn.Module:
    return Model().to(kind)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_rounding_is_no_dependence(kind: torch.dtype) -> None:
    assert not features_of(half(kind)).warnings


def counts(module: Any, x: Tensor) -> Tensor:
    module.steps += 1
    return x


def test_a_counter_of_whole_numbers_that_changes_no_output_is_no_matter() -> None:
    assert not features_of(with_encoder(counts)).warnings
    norm = nn.BatchNorm1d(5)
    assert not features_of(with_encoder(norm)).warnings  # eval mode


# -- other examples in the batch ------------------------------------------------------------------------------------

OVER_THE_BATCH: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "centred in an encoder": (lambda: with_encoder(lambda _m, x: x - x.mean(0)), "features of modality 'a'"),
    "scaled by the batch's size": (lambda: with_encoder(lambda _m, x: x * len(x)), "features of modality 'a'"),
    "sorted": (lambda: with_encoder(lambda _m, x: x.sort(0).values), "features of modality 'a'"),
    "nearest in the batch": (
        lambda: with_encoder(lambda _m, x: x + x[torch.cdist(x, x).fill_diagonal_(torch.inf).argmin(1)]),
        "features of modality 'a'",
    ),
    "the batch's largest": (lambda: with_encoder(lambda _m, x: x / x.abs().max()), "features of modality 'a'"),
    "BatchNorm without statistics": (
        lambda: with_encoder(nn.BatchNorm1d(5, track_running_stats=False)),
        "'a.norm' takes statistics from the batch",
    ),
    "statistics in eval mode": (
        lambda: with_encoder(lambda _m, x: torch.nn.functional.batch_norm(x, None, None, training=True)),
        "features of modality 'a'",
    ),
    "centred after the fusion": (lambda: Model(output=lambda _m, x: x - x.mean(0)), "the outputs do"),
    "attention over the batch": (
        lambda: Model(fused=lambda _m, x: torch.softmax(x @ x.T / 50, 1) @ x),
        "the outputs do",
    ),
}


@pytest.mark.parametrize("batch", [2, 4, 5, 6, FEW, FEW + 3, 256])
@pytest.mark.parametrize("how", OVER_THE_BATCH)
def test_answers_that_depend_on_the_batch_are_named(how: str, batch: int) -> None:
    make, where = OVER_THE_BATCH[how]
    model = make()
    found = extract(adapt(model, {**CONFIG, "data": {"batch_size": batch}}, data()), "test")
    assert list(warned(found)) == ["depends_on_batch"]
    assert where in warned(found)["depends_on_batch"]
    assert found.batch == batch


def test_what_if_questions_keep_to_the_batches_the_numbers_hold_for() -> None:
    from collapsekit.interventions.replay import predict

    model = Model(output=lambda _m, x: x - x.mean(0))
    adapter = adapt(model, {**CONFIG, "data": {"batch_size": 7}}, data())
    found = extract(adapter, "test")
    torch.testing.assert_close(predict(adapter, found).outputs, found.outputs)


def test_warnings_are_the_same_bytes_for_any_batch_size_and_row_order() -> None:
    def centring() -> nn.Module:
        return with_encoder(lambda _m, x: x - x.mean(0))

    said = {
        repr(warned(extract(adapt(centring(), {**CONFIG, "data": {"batch_size": b}}, data(rows=rows)), "test")))
        for b in (3, 8, 256)
        for rows in (None, torch.randperm(N, generator=torch.Generator().manual_seed(0)))
    }
    assert len(said) == 1


# -- weights --------------------------------------------------------------------------------------------------------


def in_place(module: Any, x: Tensor) -> Tensor:
    module.calls += 1
    return x


def rebound(module: Any, x: Tensor) -> Tensor:
    module.mean = 0.9 * module.mean + 0.1
    return x + module.mean


def through_data(module: Any, x: Tensor) -> Tensor:
    module.linear.weight.data.mul_(1.01)
    return x


def power_iteration(module: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        u = module.linear.weight @ (module.linear.weight.T @ (module.mean + 1))
        module.mean.copy_(u / u.norm() - 1)
    return x * (1 + module.mean)


def whole_number(module: Any, x: Tensor) -> Tensor:
    module.steps += 1
    return x * module.steps


def with_state(state: dict[str, Tensor]) -> Model:
    model = with_encoder(lambda _m, x: x)
    model.load_state_dict(state)
    return model


WEIGHTS = {in_place: "'a.calls'", rebound: "'a.mean'", through_data: "'a.linear.weight'", power_iteration: "'a.mean'"}


@pytest.mark.parametrize("how", WEIGHTS)
def test_weights_that_a_forward_changes_are_named_and_put_back(how: Any) -> None:
    model = with_encoder(how)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    report = quick(model)
    assert list(warned(report)) == ["weights_changed_in_forward"]
    assert WEIGHTS[how] in warned(report)["weights_changed_in_forward"]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    # The numbers are those of the model as it was found: its answer to the whole split in one forward.
    found = features_of(model)
    model.load_state_dict(before)
    with torch.no_grad():
        truth = model(found.inputs["a"], found.inputs["b"])
    torch.testing.assert_close(found.outputs, truth)
    model.load_state_dict(before)
    assert quick(with_state(before)).subject.sha256 == report.subject.sha256
    small = diagnose(model=model, data=data(), config={**CONFIG, "data": {"batch_size": 7}}, probes=["reliance"])
    for ours, theirs in zip(small.results, report.results, strict=True):
        assert (ours.value is None) == (theirs.value is None)
        assert ours.value is None or ours.value == pytest.approx(theirs.value, abs=1e-5)


def test_a_count_that_changes_outputs_is_put_back_too() -> None:
    model = with_encoder(whole_number)
    found = extract(adapt(model, {**CONFIG, "data": {"batch_size": 9}}, data()), "test")
    alone = features_of(with_encoder(lambda _m, x: x))
    torch.testing.assert_close(found.pooled["a"].std(0) > 0, alone.pooled["a"].std(0) > 0)
    torch.testing.assert_close(model.a.steps, torch.ones((), dtype=torch.long))  # of the last forward
    assert not found.warnings


def counting(model: Any, x: Tensor) -> Tensor:
    model.number = getattr(model, "number", 0) + 1
    return x + model.number


def collecting(model: Any, x: Tensor) -> Tensor:
    model.bank = [*getattr(model, "bank", []), x.detach().mean()]
    return x + sum(model.bank)


def drawing(model: Any, x: Tensor) -> Tensor:
    if not hasattr(model, "generator"):
        model.generator = torch.Generator().manual_seed(0)
    return x + torch.rand(len(x), 1, generator=model.generator)


@pytest.mark.parametrize(
    ("how", "name"),
    [(counting, "'number'"), (collecting, "'bank'"), (drawing, "'generator'")],
    ids=["count", "bank", "draw"],
)
@pytest.mark.parametrize("place", ["output", "fused"])
def test_what_one_forward_leaves_for_the_next_is_refused_by_name(how: Any, name: str, place: str) -> None:
    with pytest.raises(ConfigError, match="a forward leaves something behind") as caught:
        features_of(Model(**{place: how}))
    assert name in str(caught.value)
    assert "checkpoint" not in str(caught.value)


# -- inputs ---------------------------------------------------------------------------------------------------------

IN_PLACE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "mul_": lambda _m, x: x.mul_(2.0),
    "+=": lambda _m, x: x.__iadd__(1.0),
    "a column": lambda _m, x: x.__setitem__((slice(None), 0), 3.0) or x,
    ".data": lambda _m, x: x.data.add_(1.0) is None or x,
    "numpy": lambda _m, x: x.numpy().__iadd__(1.0) is None or x,
    "a view": lambda _m, x: x.view(-1).clamp_(-0.1, 0.1).view(x.shape),
}


@pytest.mark.parametrize("how", IN_PLACE)
def test_inputs_that_a_forward_writes_into_are_named_and_copied(how: str, tmp_path: Path) -> None:
    model = Model(input=IN_PLACE[how])
    given = data()
    before = {k: v.clone() for k, v in given["test"].items()}
    report = quick(model, data=given)
    assert list(warned(report)) == ["inputs_changed_in_place"]
    assert "writes into its input 'a' (of modality 'a')" in warned(report)["inputs_changed_in_place"]
    assert all(torch.equal(v, before[k]) for k, v in given["test"].items())
    twin = Model(input=lambda m, x: IN_PLACE[how](m, x.clone()))
    assert quick(twin).results == report.results
    assert not quick(twin).warnings


def test_the_checkpoint_is_not_blamed_for_inputs_changed_in_place(tmp_path: Path) -> None:
    (tmp_path / "writes.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Writes(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b, self.fusion, self.head = "
        "nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(10, 6), nn.Linear(6, 3)\n"
        "    def forward(self, a, b):\n"
        "        a *= 1.5\n"
        "        return self.head(self.fusion(torch.cat([self.a(a), self.b(b)], 1)))\n"
    )
    torch.save(Model().state_dict(), tmp_path / "ckpt.pt")
    save_file({f"{s}/{k}": v for s, part in data().items() for k, v in part.items()}, tmp_path / "d.safetensors")
    (tmp_path / "collapsekit.yaml").write_text(
        "model: {factory: 'writes:Writes'}\nmodalities: {a: a, b: b}\nfusion: fusion\ndata: {path: d.safetensors}\n"
    )
    report = diagnose(tmp_path / "ckpt.pt", config=tmp_path / "collapsekit.yaml", profile="quick", probes=["reliance"])
    assert list(warned(report)) == ["inputs_changed_in_place"]


def test_a_model_of_one_batch_size_is_tried_in_batches_of_that_size() -> None:
    def whole(_model: Any, x: Tensor) -> Tensor:
        if len(x) != 20:
            raise ValueError("20, please")
        return x

    cfg = {**CONFIG, "data": {"batch_size": 20}}
    assert not extract(adapt(Model(output=whole), cfg, data()), "test").warnings
    centred = Model(output=lambda m, x: whole(m, x - x.mean(0)))
    assert list(warned(extract(adapt(centred, cfg, data()), "test"))) == ["depends_on_batch"]


def test_a_weight_written_before_a_forward_fails_is_put_back() -> None:
    def fails(module: Any, x: Tensor) -> Tensor:
        module.linear.weight.data.mul_(2)
        raise ValueError("midway")

    model = with_encoder(fails)
    before = model.a.linear.weight.clone()
    with pytest.raises(ConfigError, match="midway"):
        quick(model)
    assert torch.equal(model.a.linear.weight, before)


# -- the state_dict -------------------------------------------------------------------------------------------------


class Holding(Model):
    """Holds a number outside of its state_dict."""

    def __init__(self, held: Any = None, buffer: bool = False) -> None:
        super().__init__()
        if buffer:
            self.register_buffer("held", held, persistent=False)
        else:
            self.held = held


@pytest.mark.parametrize(
    ("held", "buffer", "named"),
    [
        (torch.randn(5), False, True),
        ([nn.Linear(2, 2)], False, True),
        ({"x": [torch.randn(2)]}, False, True),
        ((nn.Parameter(torch.randn(2)),), False, True),
        (torch.randn(5), True, True),
        (torch.arange(5), False, False),
        ([1.0, 2.0], False, False),
    ],
)
def test_floating_tensors_outside_of_the_state_dict_of_a_live_model_are_named(
    held: Any, buffer: bool, named: bool
) -> None:
    said = warned(features_of(Holding(held, buffer)))
    assert list(said) == (["unregistered_tensors"] if named else [])
    if named:
        assert "'held'" in said["unregistered_tensors"]


class ListsItsWeights(nn.Module):
    """Keeps its own weights once more, as nn.LSTM does, whole and in part."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
        self.layers = [self.layer]
        self.weights = [self.layer.weight, self.layer.weight.detach()[0], self.norm.running_mean]


@pytest.mark.parametrize("held", [nn.LSTM(2, 3, num_layers=2, bidirectional=True), nn.GRU(2, 3), ListsItsWeights()])
def test_weights_that_are_held_twice_are_in_the_state(held: nn.Module) -> None:
    assert unregistered(held) == {}
    held.extra = [nn.Parameter(torch.ones(2))]
    assert list(unregistered(held)) == ["extra"]


def test_what_a_forward_leaves_on_the_model_is_no_weight() -> None:
    def caching(model: Any, x: Tensor) -> Tensor:
        model.last = x.detach()
        return x

    model = Model(output=caching)
    model(*(torch.randn(3, 4) for _ in "ab"))
    assert not features_of(model).warnings


# -- copies ---------------------------------------------------------------------------------------------------------


def copied(examples: int, *, labels: bool = True) -> dict[str, dict[str, Tensor]]:
    """The first ``examples`` of test are also in train, with their labels or with others."""
    made = data()
    for key in "ab":
        made["test"][key][:examples] = made["train"][key][:examples]
    made["test"]["label"] = made["train"]["label"].clone() if labels else (made["train"]["label"] + 1) % 3
    return made


@pytest.mark.usefixtures("brief_joint_here")
@pytest.mark.parametrize("examples", [0, 1, 17, N])
@pytest.mark.parametrize("labels", [True, False])
def test_test_examples_that_are_also_in_train_are_counted(examples: int, labels: bool) -> None:
    report = diagnose(
        model=Model(), data=copied(examples, labels=labels), config=CONFIG, profile="quick", probes=["utilisation"]
    )
    said = warned(report)
    assert list(said) == (["copied_rows"] if examples else [])
    if examples:
        alike = "the same inputs and the same target" if labels else "the same inputs, but another target"
        verb = "is" if examples == 1 else "are"
        assert f"{examples} of the {N} examples of 'test' {verb} also in 'train' ({alike})" in str(said)


@pytest.mark.usefixtures("brief_joint_here")
def test_copies_with_some_of_the_targets_are_counted_apart() -> None:
    made = copied(17)
    made["test"]["label"][:4] = (made["train"]["label"][:4] + 1) % 3
    report = diagnose(model=Model(), data=made, config=CONFIG, profile="quick", probes=["utilisation"])
    assert "also in 'train' (the same inputs; 13 of them with the same target)" in str(warned(report))


@pytest.mark.usefixtures("brief_joint_here")
def test_copies_of_one_modality_only_are_other_examples() -> None:
    made = data()
    made["test"]["a"] = made["train"]["a"].clone()
    assert not diagnose(model=Model(), data=made, config=CONFIG, profile="quick", probes=["utilisation"]).warnings


def test_copies_are_found_in_mapped_data_with_a_limit() -> None:
    plain = diagnose(model=Model(), data=copied(N), config=CONFIG, profile="quick", probes=["utilisation"], limit=20)
    mapped = diagnose(
        model=Model(), data=copied(N), config=CONFIG, profile="quick", probes=["utilisation"], limit=20, memory=0
    )
    assert "20 of the 20 examples" in warned(plain)["copied_rows"]
    assert mapped.warnings == plain.warnings


def test_of_a_split_that_nothing_reads_nothing_is_said() -> None:
    report = diagnose(model=Model(), data=copied(N), config=CONFIG, profile="quick", probes=["vif"])
    assert not report.warnings
