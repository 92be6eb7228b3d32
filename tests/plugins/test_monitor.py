"""The monitor in a plain loop: it changes nothing, its numbers are collapsekit's own, and it measures when it should."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from collapsekit_callbacks import CollapseWarning, Monitor
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from collapsekit import diagnose
from collapsekit.errors import CollapsekitError, ConfigError
from tests.factories import split_arrays
from tests.problems import Late, make_arrays, train

WIDTHS = {"image": 5, "audio": 4}
CONFIG = {"modalities": {m: f"encoders.{m}" for m in WIDTHS}, "fusion": "fusion", "task": "classification"}
ARRAYS = make_arrays(WIDTHS)


def split(name: str) -> dict[str, Tensor]:
    return split_arrays(ARRAYS)[name]


HELD = split("val")


GRAPHS: list[bool] = []


class Past(Late):
    """Reads an input past its encoder, too."""

    def forward(self, **x: Tensor) -> Tensor:
        return super().forward(**x) + x["audio"][:, :3]


class Untidy(Late):
    """All that a training model does on the way: dropout, batch norm, and what forward leaves lying about."""

    def __init__(self) -> None:
        super().__init__(WIDTHS)
        for m, width in WIDTHS.items():
            self.encoders[m] = nn.Sequential(nn.Linear(width, 6), nn.BatchNorm1d(6), nn.Dropout(0.3))
        self.calls, self.seen = 0, []

    def forward(self, **x: Tensor) -> Tensor:
        self.calls += 1
        GRAPHS.append(torch.is_grad_enabled())
        self.seen.append(len(next(iter(x.values()))))
        self.last = super().forward(**x)
        return self.last


def made(kind: type[nn.Module] = Untidy, seed: int = 0, *args: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(*args)


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    """Weights, buffers, optimiser state, modes, generators, and what else stands on the model."""
    adam = [v for s in optimizer.state.values() for v in s.values()]
    grads = [p.grad for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    names = [sorted(vars(m)) for m in model.modules()]
    drawn = [random.random(), np.random.rand(), torch.rand(1)]
    return [
        *model.state_dict().values(),
        *adam,
        *grads,
        modes,
        hooks,
        names,
        drawn,
        model.calls,
        model.seen,
        model.last,
    ]


def trained(batch_size: int = 16, steps: int = 20, **options: Any) -> tuple[list[Any], list[int]]:
    """A plain loop, with a monitor where there are options; everything it ends in, and where it was measured."""
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    model, at = made(), []
    model.encoders["audio"].eval()  # a frozen encoder stays frozen
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    data = split("train")
    loader = DataLoader(TensorDataset(*(data[k] for k in (*WIDTHS, "label"))), batch_size, shuffle=True)
    monitor = Monitor(model, HELD, CONFIG, log=lambda _, step: at.append(step), **options) if options else None

    def forever() -> Iterator[list[Tensor]]:
        while True:
            yield from loader

    for step, (image, audio, label) in zip(range(1, steps + 1), forever(), strict=False):
        optimizer.zero_grad()
        F.cross_entropy(model(image=image, audio=audio), label).backward()
        optimizer.step()
        if monitor is not None:
            monitor.step(step)
    return everything(model, optimizer), at


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    return all(map(same, a, b)) if isinstance(a, list) else a == b


@pytest.mark.parametrize("batch_size", [16, 40])
def test_training_ends_in_the_same_bits_with_it_and_without_it(batch_size: int) -> None:
    plain, _ = trained(batch_size)
    watched, at = trained(batch_size, every=3)
    assert at == [3, 6, 9, 12, 15, 18]  # whatever the loader's batch size
    assert [i for i, (a, b) in enumerate(zip(plain, watched, strict=True)) if not same(a, b)] == []


class Writes(Late):
    """Changes a weight in place in every forward."""

    def forward(self, **x: Tensor) -> Tensor:
        self.head.bias.data.add_(1.0)
        return super().forward(**x)


def test_a_weight_that_a_forward_writes_is_where_training_left_it() -> None:
    model, batch = made(Writes, 0, WIDTHS), {m: HELD[m] for m in WIDTHS}
    start = model.head.bias.clone()
    monitor = Monitor(model, HELD, CONFIG)
    assert torch.equal(model.head.bias, start)
    model(**batch)
    monitor.measure()
    assert torch.equal(model.head.bias, start + 1)


def test_gradients_that_wait_for_the_optimiser_stay() -> None:
    model = made()
    F.cross_entropy(model(**{m: HELD[m] for m in WIDTHS}), HELD["label"]).backward()
    before = [(p.grad, p.grad.clone(), p.data_ptr()) for p in model.parameters()]
    Monitor(model, HELD, CONFIG).measure()
    for p, (grad, values, place) in zip(model.parameters(), before, strict=True):
        assert p.grad is grad
        assert torch.equal(grad, values)
        assert p.data_ptr() == place


@pytest.mark.parametrize(("draws", "model"), [(1, made()), (4, made()), (1, made(Past, 0, WIDTHS))])
def test_numbers_are_those_of_the_probes_on_the_same_examples(draws: int, model: nn.Module) -> None:
    values = Monitor(model, HELD, CONFIG, draws=draws, seed=7).measure()
    report = diagnose(
        model=model,
        config=CONFIG,
        data={"held": HELD},
        split="held",
        probes=["reliance", "spectrum"],
        options={"reliance": {"draws": draws}},
        seed=7,
    )
    for m in WIDTHS:
        result = report.find("reliance.leave_one_out", m)
        assert result is not None
        assert values[f"collapsekit/reliance/{m}"] == pytest.approx(result.value, abs=1e-7)
    for m in (*WIDTHS, None):
        result = report.find("spectrum.effective_rank", m)
        assert result is not None
        assert values[f"collapsekit/effective_rank/{m or 'fused'}"] == pytest.approx(result.value, rel=1e-9)
    loss = report.find("reliance.full_loss")
    assert loss is not None
    assert values["collapsekit/loss"] == pytest.approx(loss.value, rel=1e-7)


def learned(*ignored: str) -> nn.Module:
    model = made(Late, 0, WIDTHS, 3, ignored)
    train(model, ARRAYS, list(WIDTHS), "classification", steps=60)
    return model


def test_ignored_modality_has_no_share_and_a_used_one_has_it_all() -> None:
    values = Monitor(learned("audio"), HELD, CONFIG).measure()
    assert values["collapsekit/reliance/audio"] == pytest.approx(0, abs=1e-7)
    assert values["collapsekit/share/audio"] == pytest.approx(0, abs=1e-6)
    assert values["collapsekit/share/image"] == pytest.approx(1, abs=1e-6)
    shares = [v for k, v in Monitor(learned(), HELD, CONFIG).measure().items() if "/share/" in k]
    assert sum(shares) == pytest.approx(1)
    assert min(shares) > 0.1


def test_a_modality_that_misleads_has_no_share() -> None:
    model = learned()
    with torch.no_grad():
        model.encoders["audio"].weight.mul_(-1)
    values = Monitor(model, HELD, CONFIG).measure()
    assert values["collapsekit/reliance/audio"] < 0
    assert (values["collapsekit/share/audio"], values["collapsekit/share/image"]) == (0, 1)


def test_names_and_row_order_decide_nothing() -> None:
    model = learned()
    values = Monitor(model, HELD, CONFIG).measure()
    order = torch.randperm(len(HELD["label"]), generator=torch.Generator().manual_seed(3))
    shuffled = Monitor(model, {k: v[order] for k, v in HELD.items()}, CONFIG).measure()
    crossed = {a: {"encoder": f"encoders.{b}", "input": b} for a, b in (("image", "audio"), ("audio", "image"))}
    swapped = Monitor(model, HELD, {**CONFIG, "modalities": crossed}).measure()
    other = {"image": "audio", "audio": "image"}
    for name, value in values.items():
        head, _, tail = name.rpartition("/")
        assert shuffled[name] == pytest.approx(value, rel=1e-6), name
        assert swapped[f"{head}/{other.get(tail, tail)}"] == pytest.approx(value, rel=1e-6), name


def test_encoders_run_once_a_measurement_and_the_batch_is_a_copy() -> None:
    model, runs = made(), []
    batch = {k: v.clone() for k, v in HELD.items()}
    monitor = Monitor(model, batch, CONFIG, draws=3)
    for encoder in model.encoders.values():
        encoder[0].register_forward_hook(lambda *_: runs.append(1))
    GRAPHS.clear()
    before = monitor.measure()
    assert not any(GRAPHS)
    assert len(runs) == len(WIDTHS)
    batch["image"].zero_()
    assert monitor.measure() == before


@pytest.mark.parametrize(
    ("steps", "start", "at"),
    [
        (range(0, 31), None, [0, 10, 20, 30]),
        (range(1, 31), None, [10, 20, 30]),
        (range(1, 40, 3), None, [10, 22, 31]),  # a trainer that counts by threes passes multiples
        (range(13, 31), None, [20, 30]),  # gone on with
        (range(1, 31), 0, [10, 20, 30]),
        (range(21, 31), 20, [30]),
        ([s for s in range(1, 31) for _ in range(4)], None, [10, 20, 30]),  # gradients accumulated over four batches
    ],
)
def test_it_measures_once_each_time_a_multiple_is_reached(steps: Any, start: int | None, at: list[int]) -> None:
    seen: list[int] = []
    monitor = Monitor(made(), HELD, CONFIG, every=10, log=lambda _, step: seen.append(step))
    monitor.measure = lambda: {}  # type: ignore[method-assign]
    if start is not None:
        monitor.start(start)
    for step in steps:
        monitor.step(step)
    assert seen == at


def test_a_model_that_diverges_is_skipped_with_the_reason_and_never_nan() -> None:
    model = made()
    monitor = Monitor(model, HELD, CONFIG)
    kept = monitor.measure()
    with torch.no_grad():
        model.encoders["audio"][0].weight.fill_(torch.nan)
    values = monitor.measure()
    assert all(map(np.isfinite, values.values()))
    assert set(values) == {"collapsekit/effective_rank/image"}
    assert set(values) | set(monitor.skipped) == set(kept)
    assert "not finite" in monitor.skipped["collapsekit/loss"]


def test_what_has_no_number_says_why() -> None:
    dead = made(Late, 0, WIDTHS, 3, ["audio", "image"])
    monitor = Monitor(dead, HELD, CONFIG)
    values = monitor.measure()
    assert {k for k in monitor.skipped if "/share/" in k} == {f"collapsekit/share/{m}" for m in WIDTHS}
    assert "constant" in monitor.skipped["collapsekit/effective_rank/fused"]
    assert values["collapsekit/reliance/image"] == 0
    joined = Monitor(made(Late, 0, WIDTHS), HELD, {**CONFIG, "fusion": "fusion:input"})
    joined.measure()
    assert "concatenates" in joined.skipped["collapsekit/effective_rank/fused"]


def test_it_warns_once_a_share_has_stayed_low() -> None:
    monitor = Monitor(learned("audio"), HELD, CONFIG, every=1, warn_under=0.05, patience=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(1, 9):
            monitor.step(step)
    said = [w for w in caught if w.category is CollapseWarning]
    assert len(said) == 1
    assert "at step 3, modality 'audio'" in str(said[0].message)
    assert said[0].filename == __file__


def test_compiled_models_are_measured_as_they_are_and_stay_compiled() -> None:
    model = made(Late, 0, WIDTHS)
    plain = Monitor(model, HELD, CONFIG).measure()
    wrapped = torch.compile(model, backend="eager")
    assert Monitor(wrapped, HELD, CONFIG).measure() == plain
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        compiled.append(1)
        return graph.forward

    model.compile(backend=backend)
    x = {m: HELD[m] for m in WIDTHS}
    outputs, once = model(**x), len(compiled)
    monitor = Monitor(model, HELD, CONFIG)
    for _ in range(3):
        assert monitor.measure() == plain
    assert torch.equal(model(**x), outputs)
    assert len(compiled) == once > 0


def test_autocast_is_kept_and_its_cache_left_alone() -> None:
    model = made(Late, 0, WIDTHS)
    monitor = Monitor(model, HELD, CONFIG)
    exact = monitor.measure()
    x = {m: HELD[m] for m in WIDTHS}

    def gradients(measured: bool) -> list[Tensor | None]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            if measured:
                assert monitor.measure()["collapsekit/loss"] != exact["collapsekit/loss"]
            F.cross_entropy(model(**x), HELD["label"]).backward()
        return [p.grad for p in model.parameters()]

    with_it, without = gradients(True), gradients(False)
    assert all(a is not None and b is not None and torch.equal(a, b) for a, b in zip(with_it, without, strict=True))


def test_parallel_wrappers_are_looked_into_and_sharded_models_refused() -> None:
    model = made(Late, 0, WIDTHS)
    assert Monitor(nn.DataParallel(model), HELD, CONFIG).model is model
    model.head.weight.ds_id = 1  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"'head\.weight' is sharded"):
        Monitor(model, HELD, CONFIG)
    other = made(Late, 0, WIDTHS)
    other.fusion = type("FullyShardedDataParallel", (nn.Sequential,), {})(*other.fusion)
    with pytest.raises(ConfigError, match="'fusion' is sharded"):
        Monitor(other, HELD, CONFIG)
    other = made(Late, 0, WIDTHS)
    other.head.to("meta")
    with pytest.raises(ConfigError, match="cpu, meta"):
        Monitor(other, HELD, CONFIG)


@pytest.mark.parametrize(
    ("batch", "config", "options", "says"),
    [
        (HELD, CONFIG, {"every": 0}, "every is 0"),
        (HELD, CONFIG, {"draws": 0}, "draws is 0"),
        (HELD, {**CONFIG, "fusion": "fusoin"}, {}, "did you mean 'fusion'"),
        (HELD, {**CONFIG, "modalities": {"fused": "encoders.image", "audio": "encoders.audio"}}, {}, "called 'fused'"),
        ([1, 2], CONFIG, {}, "the held batch is list, expected a dict"),
        ({k: v for k, v in HELD.items() if k != "audio"}, CONFIG, {}, "has no 'audio'"),
        ({k: v for k, v in HELD.items() if k != "label"}, CONFIG, {}, "has no 'label'"),
        ({k: v[:1] for k, v in HELD.items()}, CONFIG, {}, "at least 2"),
        ({**HELD, "label": HELD["label"] + 7}, CONFIG, {}, "out of range"),
        ({**HELD, "image": HELD["image"][:, :2]}, CONFIG, {}, "forward failed"),
    ],
)
def test_what_cannot_be_measured_is_said_before_training(
    batch: Any, config: Any, options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    model = made()
    model.train()
    with pytest.raises(CollapsekitError, match=says) as e:
        Monitor(model, batch, config, **options)
    assert str(e.value).endswith(".")
    assert all(m.training and not m._forward_hooks for m in model.modules())


def test_the_readme_s_loop_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "plugins" / "callbacks" / "README.md").read_text()
    block = text.split("```python\n")[1].split("```")[0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(block, "README.md", "exec"), {})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [int(step) for step, _ in lines] == [100, 200, 300]
    assert all(0 < float(share) < 1 for _, share in lines)
    for name in ("loss", "reliance/MODALITY", "share/MODALITY", "effective_rank/MODALITY"):
        assert f"| `collapsekit/{name}`" in text
