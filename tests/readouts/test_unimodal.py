"""Encoders trained alone: the budget, the cache, where they start from, and what cannot be trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from collapsekit import diagnose
from collapsekit.config.load import check_config
from collapsekit.context import Progress, Settings
from collapsekit.errors import ConfigError
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.readouts.cache import baseline_key, cache_folder, load_baseline, state_digest, store_baseline
from collapsekit.readouts.fit import Recipe, fit, retrained_fusion
from collapsekit.readouts.linear import make_split
from collapsekit.readouts.unimodal import Plan, fit_budget
from collapsekit.report.diagnosis import Report
from collapsekit.session.opening import build_adapter
from collapsekit.session.session import Session
from collapsekit.stats.solvers.adamw import LightAdamW
from tests.factories import shuffled
from tests.problems import Problem, make_problem

pytestmark = pytest.mark.usefixtures("brief_joint")

MODEL = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, width=4, drop=0.0, scale=1.0, dtype="float32", frozen=False):
        super().__init__()
        self.encoders = nn.ModuleDict({
            "image": nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width), nn.Dropout(drop), nn.Tanh()),
            "audio": nn.Linear(4, width),
            "raw": nn.Identity(),
        })
        self.scale = scale
        self.fusion = nn.Linear(2 * width + 2, 6)
        self.head = nn.Linear(6, 3)
        if frozen:
            self.encoders["audio"].requires_grad_(False)
            self.fusion.bias.requires_grad_(False)
        self.to(getattr(torch, dtype))

    def forward(self, image, audio, raw):
        x = [self.encoders["image"](image), self.encoders["audio"](audio) * self.scale, self.encoders["raw"](raw)]
        return self.head(torch.tanh(self.fusion(torch.cat(x, 1))))
"""
FAST = {"prefix_gap": {"epochs": 3, "rates": (1e-2, 1e-3)}, "reliance": {"draws": 2}}


@pytest.fixture
def project(tmp_path: Path) -> Problem:
    """A folder with model, data, config and checkpoint; `raw` has no encoder of its own."""
    problem = make_problem(
        tmp_path, {"image": 5, "audio": 4, "raw": 2}, sizes={"train": 96, "val": 48, "test": 48}, steps=0
    )
    (tmp_path / "baset_model.py").write_text(MODEL)
    problem.config["model"] = {"factory": "baset_model:Model"}
    save(problem, "ckpt.pt", 7)
    return problem


def save(problem: Problem, name: str, seed: int, **kwargs: Any) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = opened(problem, checkpoint=None, model_only=True, **kwargs)
    torch.save(model.state_dict(), problem.folder / name)
    return problem.folder / name


def opened(problem: Problem, checkpoint: Any = "ckpt.pt", model_only: bool = False, **kwargs: Any) -> Any:
    from collapsekit.adapters.build import build_model

    raw = {**problem.config, "model": {**problem.config["model"], "kwargs": kwargs}}
    config = check_config(raw, base=problem.folder)
    if model_only:
        return build_model(config, int(torch.initial_seed()))
    return build_adapter(config, problem.folder / checkpoint, model=None, device="cpu", seed=0)


def run(problem: Problem, checkpoint: str | None = "ckpt.pt", **options: Any) -> Report:
    kwargs = options.pop("kwargs", {})
    raw = {**problem.config, "model": {**problem.config["model"], "kwargs": kwargs}}
    options.setdefault("probes", ["prefix_gap"])
    options.setdefault("options", FAST)
    options.setdefault("cache", problem.folder / "cache")
    return diagnose(
        problem.folder / checkpoint if checkpoint else None, config=check_config(raw, base=problem.folder), **options
    )


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts optimizer steps."""
    count = [0]
    real = LightAdamW.step

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        return real(self, *args, **kwargs)

    monkeypatch.setattr(LightAdamW, "step", counted)
    return count


# -- the budget -----------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.sampled_from("abcde"), st.floats(0.01, 50), min_size=1),
    st.integers(1, 4),
    st.integers(1, 80),
    st.floats(0.1, 2000),
)
def test_the_budget_is_kept_and_cut_in_order(costs: dict[str, float], rates: int, epochs: int, budget: float) -> None:
    plan = Plan("fresh", tuple(1e-3 * (i + 1) for i in range(rates)), epochs, budget)
    kept, most, left_out = fit_budget(costs, plan)
    total = sum(c for m, c in costs.items() if m not in left_out)
    assert total * most * len(kept) <= budget * (1 + 1e-9)
    assert kept == plan.rates[: len(kept)]
    assert min(5, epochs) <= most <= epochs
    if most < epochs:
        assert len(kept) == 1  # learning rates go before epochs
    if left_out:
        assert most == min(5, epochs)  # epochs go before modalities
        assert min(costs[m] for m in left_out) >= max((c for m, c in costs.items() if m not in left_out), default=0.0)
        assert all("over the budget" in reason and "prefix_gap.budget" in reason for reason in left_out.values())
    if len(kept) < rates:  # no rate is given up without need
        assert sum(costs.values()) * epochs * (len(kept) + 1) > budget
    assert fit_budget(costs, Plan("fresh", plan.rates, epochs, math.inf)) == (plan.rates, epochs, {})


def test_a_fit_over_the_budget_is_skipped_with_the_reason(project: Problem) -> None:
    tight = {"prefix_gap": {**FAST["prefix_gap"], "budget": 1e-6}}
    report = run(project, options=tight)
    for m in ("image", "audio"):
        gap = report.find("prefix_gap.gap", m)
        assert gap is not None
        assert gap.skipped is not None
        assert "over the budget" in gap.skipped
    one = {"prefix_gap": {"epochs": 3, "rates": (1e-2, 1e-3), "budget": 0.02}}
    note = run(project, options=one).find("prefix_gap.gap", "audio").note  # type: ignore[union-attr]
    assert note is not None
    assert "1 of 2 learning rates" in note
    full = run(project, options=tight, profile="full")
    assert full.find("prefix_gap.gap", "audio").value is not None  # type: ignore[union-attr]


def test_a_modality_without_weights_gives_the_reason(project: Problem) -> None:
    gap = run(project).find("prefix_gap.gap", "raw")
    assert gap is not None
    assert gap.skipped == "the modality has no encoder of its own with weights to train"
    frozen = save(project, "frozen.pt", 0, frozen=True)
    report = run(project, frozen.name, kwargs={"frozen": True})
    assert "no encoder of its own" in str(report.find("prefix_gap.gap", "audio").skipped)  # type: ignore[union-attr]
    assert report.find("prefix_gap.gap", "image").value is not None  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_encoders_are_trained_whatever_mode_the_caller_is_in(project: Problem, mode: Callable[[], Any]) -> None:
    with mode():
        gap = run(project).find("prefix_gap.gap", "audio")
    assert gap is not None
    assert gap == run(project).find("prefix_gap.gap", "audio")
    assert gap.value is not None


def test_latents_that_are_expanded_to_the_batch_can_be_reckoned(project: Problem) -> None:
    """A view of a parameter enters a submodule, as of Perceivers."""
    latents = """
class Latents(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.latents, self.read, self.mix = nn.Parameter(torch.ones(width)), nn.Linear(4, width), nn.Linear(width, width)

    def forward(self, x):
        return self.mix(self.latents.expand(len(x), -1)) + self.read(x)
"""
    changed = MODEL.replace("nn.Linear(4, width),", "Latents(width),").replace(
        "\nclass Model", latents + "\nclass Model"
    )
    (project.folder / "latents_model.py").write_text(changed)
    project.config["model"] = {"factory": "latents_model:Model"}
    save(project, "ckpt.pt", 7)
    found = run(project).find("prefix_gap.baseline_loss", "audio")
    assert found is not None
    assert found.skipped is None


def test_a_model_that_cannot_be_built_gives_the_reason(project: Problem) -> None:
    model = opened(project, model_only=True)
    raw = {k: v for k, v in project.config.items() if k != "model"}
    report = diagnose(model=model, config=check_config(raw, base=project.folder), probes=["prefix_gap"], options=FAST)
    assert "model.factory" in str(report.find("prefix_gap.gap", "image").skipped)  # type: ignore[union-attr]


# -- the cache ------------------------------------------------------------------------------------------------------


def test_a_cache_hit_trains_nothing_and_gives_the_same(project: Problem, steps: list[int]) -> None:
    first = run(project)
    trained = steps[0]
    assert trained == 2 * 2 * 3 * 2  # two encoders, two rates, three epochs of two batches
    second = run(project)
    assert steps[0] == trained
    assert second.to_json() == first.to_json()
    files = sorted((project.folder / "cache").glob("*.safetensors"))
    assert len(files) == 2
    # utilisation takes the same baselines; what it trains besides is what it trains without prefix_gap beside it.
    utilisation = run(project, probes=["prefix_gap", "utilisation"])
    besides = steps[0] - trained
    run(project, probes=["utilisation"])
    assert steps[0] == trained + 2 * besides
    assert len(utilisation.results) > len(first.results)


def test_a_damaged_cache_file_counts_as_absent(project: Problem, steps: list[int]) -> None:
    first = run(project)
    trained = steps[0]
    for path in (project.folder / "cache").glob("*.safetensors"):
        content = path.read_bytes()
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])  # one bit of one weight
    assert run(project).to_json() == first.to_json()
    assert steps[0] == 2 * trained
    assert run(project).to_json() == first.to_json()
    assert steps[0] == 2 * trained  # mended


@pytest.mark.parametrize("damage", ["truncated", "empty", "other", "no about", "half about", "odd about"])
def test_damage_is_noticed(damage: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = {"a": torch.randn(8)}
    store_baseline(tmp_path, "k", state, {"rate": 1e-3, "epochs": 2, "loss": 0.5})
    assert load_baseline(tmp_path, "k", state) is not None
    path = tmp_path / "k.safetensors"
    match damage:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-9])
        case "empty":
            path.write_bytes(b"")
        case "other":
            path.write_text("not a cache at all")
        case "no about":
            save_file(state, path)
        case "half about":
            save_file(state, path, metadata={"about": "{", "sha256": state_digest(state)})
        case "odd about":
            save_file(state, path, metadata={"about": "[]", "sha256": state_digest(state)})
    assert load_baseline(tmp_path, "k", state) is None


def key(problem: Problem, modality: str = "image", checkpoint: str = "ckpt.pt", **changes: Any) -> str:
    recipe = {
        "rates": (1e-2,),
        "epochs": 3,
        "seed": 0,
        **{k: changes.pop(k) for k in ("rates", "epochs", "seed") if k in changes},
    }
    adapter = opened(problem, checkpoint, **changes)
    features = extract(adapter, "test")
    return baseline_key(adapter, modality, make_split(adapter, features), **recipe)


def test_the_cache_key_depends_on_data_model_and_settings(project: Problem) -> None:
    same = key(project)
    assert key(project) == same
    keys = {same, key(project, "audio"), key(project, rates=(1e-3,)), key(project, epochs=4), key(project, seed=1)}
    other = save(project, "other.pt", 1)
    keys |= {key(project, checkpoint=other.name), key(project, drop=0.3)}  # dropout shows in training only
    keys.add(key(project, "audio", scale=2.0))  # not the encoder's: outside of what the tap sees
    assert len(keys) == 7  # a factor after the encoder does not change the encoder
    before = project.arrays
    for change in ("train/audio", "val/image", "train/label"):
        changed = before[change].clone()
        changed[0] = (changed[0] + 1) % 3 if change.endswith("label") else changed[0] + 1.0
        project.saved({**before, change: changed})
        keys.add(key(project))
    assert len(keys) == 10
    project.saved({**before, "test/image": before["test/image"] + 1})
    assert key(project) == same  # the diagnosed examples are not trained on


@pytest.mark.parametrize(
    "change",
    [
        ("nn.Tanh()", "nn.Tanh(), nn.ReLU()"),
        ("nn.Dropout(drop)", "nn.Dropout(0.5)"),
        ("nn.Linear(5, width)", "Halved(5, width)"),
    ],
)
def test_changed_code_misses(change: tuple[str, str], project: Problem) -> None:
    """Also code that changes only training (dropout) or only gradients."""
    halved = """

class Halved(nn.Linear):
    def forward(self, x):
        y = super().forward(x)
        return (y + y.detach()) / 2
"""
    before = key(project, checkpoint="ckpt.pt")
    (project.folder / "baset_changed.py").write_text(MODEL.replace(*change) + halved)
    project.config["model"] = {"factory": "baset_changed:Model"}
    assert key(project, checkpoint="ckpt.pt") != before


def test_store_and_load(tmp_path: Path) -> None:
    state, about = {"b": torch.randn(3), "a": torch.arange(4)}, {"rate": 1e-3, "epochs": 2, "loss": math.inf}
    store_baseline(tmp_path / "c", "k", state, about)
    found = load_baseline(tmp_path / "c", "k", state)
    assert found is not None
    assert found[1] == about
    assert all(torch.equal(found[0][k], v) for k, v in state.items())
    assert load_baseline(tmp_path / "c", "other", state) is None
    assert load_baseline(None, "k", state) is None
    store_baseline(None, "k", state, about)
    (tmp_path / "file").write_text("")
    store_baseline(tmp_path / "file", "k", state, about)  # cannot be written: no error
    assert not [p for p in (tmp_path / "c").iterdir() if p.suffix not in (".safetensors", ".lock")]


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.delenv("COLLAPSEKIT_CACHE", raising=False)
    assert cache_folder() == tmp_path / "x" / "collapsekit"
    monkeypatch.setenv("COLLAPSEKIT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


@pytest.mark.slow
def test_standard_profile_depends_on_neither_row_order_nor_cache(project: Problem) -> None:
    """All probes, encoders trained: the same bytes trained anew, and on shuffled files."""
    first = run(project, probes=None, cache=project.folder / "one")
    assert first.find("prefix_gap.gap", "audio").value is not None  # type: ignore[union-attr]
    project.saved(shuffled(project.arrays))
    assert run(project, probes=None, cache=project.folder / "two").to_json() == first.to_json()


# -- where training starts ------------------------------------------------------------------------------------------


class Listening(Progress):
    """Keeps nothing; stands for the terminal's."""


def start_of(problem: Problem, adapter: Any, start: str, seed: int = 0) -> dict[str, Tensor]:
    """The weights the first training step sees."""
    seen: dict[str, Tensor] = {}
    real = fit

    def spy(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        seen.setdefault("state", {k.removeprefix("0."): v.clone() for k, v in model.state_dict().items()})  # type: ignore[arg-type]
        return real(model, *args, **kwargs)

    features: Features = extract(adapter, "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("collapsekit.readouts.unimodal.fit", spy)
        Session.of(adapter, features, Settings(seed=seed, progress=Listening())).baselines(
            Plan(start, (1e-3,), 1, math.inf)
        )
    return seen["state"]  # type: ignore[return-value]


def test_start_fresh_checkpoint_and_path(project: Problem) -> None:
    save(project, "other.pt", 5)
    for start, path in (("checkpoint", "ckpt.pt"), ("other.pt", "other.pt")):
        found = start_of(project, opened(project), start)
        for k, v in torch.load(project.folder / path).items():
            assert torch.equal(found[k], v)
    fresh = start_of(project, opened(project), "fresh")
    assert not torch.equal(
        fresh["encoders.audio.weight"], torch.load(project.folder / "ckpt.pt")["encoders.audio.weight"]
    )
    assert not torch.equal(
        fresh["encoders.audio.weight"], start_of(project, opened(project), "fresh", 1)["encoders.audio.weight"]
    )
    report = run(project, options={"prefix_gap": {**FAST["prefix_gap"], "start": "other.pt"}})
    assert "start other.pt" in str(report.find("prefix_gap.gap", "audio").note)  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"nowhere.pt"):
        run(project, options={"prefix_gap": {"start": "nowhere.pt"}})


def test_start_from_a_live_models_own_weights(project: Problem) -> None:
    live = opened(project, model_only=True)
    with torch.no_grad():
        live.encoders["audio"].weight.fill_(0.123)
    config = check_config(project.config, base=project.folder)
    adapter = build_adapter(config, None, model=live, device="cpu", seed=0)
    found = start_of(project, adapter, "checkpoint")
    assert torch.equal(found["encoders.audio.weight"], live.encoders["audio"].weight)


def test_a_factory_of_another_architecture_is_an_error(project: Problem) -> None:
    live = opened(project, model_only=True, width=9)
    with pytest.raises(ConfigError, match=r"builds another architecture.*encoders.image.0.weight"):
        diagnose(
            model=live, config=check_config(project.config, base=project.folder), probes=["prefix_gap"], options=FAST
        )


# -- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_precisions_train_too(dtype: str, project: Problem) -> None:
    path = save(project, "p.pt", 0, dtype=dtype)
    report = run(
        project,
        path.name,
        kwargs={"dtype": dtype},
        probes=["prefix_gap", "rank_sweep"],
        options={**FAST, "rank_sweep": {"mode": "train", "epochs": 1, "betas": (1.0, 2.0)}},
    )
    for m in ("image", "audio"):
        loss = report.find("prefix_gap.baseline_loss", m)
        assert loss is not None
        assert loss.value is not None
        assert loss.value < 3.0
    assert report.find("rank_sweep.loss", next(r.modality for r in report.named("rank_sweep.loss"))).curve  # type: ignore[union-attr]


def test_training_an_encoder_alone_leaves_everything_else(project: Problem) -> None:
    adapter = opened(project)
    features = extract(adapter, "test")
    before = {k: v.clone() for k, v in adapter.model.state_dict().items()}
    state = torch.get_rng_state()
    made = Session.of(adapter, features, Settings()).baselines(Plan("checkpoint", (1e-2,), 2, math.inf))
    assert made.trained.keys() == {"image", "audio"}
    assert made.skipped.keys() == {"raw"}
    assert all(torch.equal(v, before[k]) for k, v in adapter.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_retrained_fusion_leaves_encoders_and_frozen_weights(project: Problem) -> None:
    save(project, "frozen.pt", 0, frozen=True)
    adapter = opened(project, "frozen.pt", frozen=True)
    features = extract(adapter, "test")
    fresh = adapter.fresh(3)
    before = {k: v.clone() for k, v in fresh.model.state_dict().items()}
    twin = retrained_fusion(adapter, make_split(adapter, features), {"image": 2.0}, Recipe(1e-2, 2, 3))
    assert twin is not None
    moved = {k for k, v in twin.model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"fusion.weight", "head.weight", "head.bias"}


def test_fit_keeps_its_best_epoch() -> None:
    """Held-out loss is lowest early; later weights are not kept."""
    g = torch.Generator().manual_seed(0)
    from collapsekit.readouts.linear import FitSplit
    from collapsekit.tasks.make import make_task

    n = 64
    x, y = torch.randn(n, 30, generator=g), torch.randint(0, 2, (n,), generator=g)
    held = Features(
        "val",
        ("a",),
        {},
        {},
        {"a": torch.randn(n, 30, generator=g)},
        x,
        x,
        torch.randint(0, 2, (n,), generator=g),
        "",
        lambda _: held,
        torch.arange(n),
    )
    train = Features("train", ("a",), {}, {}, {"a": x}, x, x, y, "", lambda _: train, torch.arange(n))
    at = FitSplit(train, torch.arange(n), held, torch.arange(n), 2)
    task = make_task("classification", metric=None, temperature=1.0, base=Path())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 2))
    fitted = fit(
        net, list(net.parameters()), lambda f, rows: net(f.pooled["a"][rows]), at, task, Recipe(1e-2, 40, 0, patience=4)
    )
    with torch.no_grad():
        loss = float(task.loss(task.expect(net(held.pooled["a"])), held.targets).mean())
    assert loss == pytest.approx(fitted.loss, abs=1e-12)
    assert 1 <= fitted.epochs < 10
    assert not net.training
