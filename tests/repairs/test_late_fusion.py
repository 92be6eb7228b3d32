"""late_fusion: what is added to the output, of what it is read, and that replays and exported models agree with it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit import registry
from collapsekit.adapters.inserts import insert, inserted_in, posts_of
from collapsekit.errors import ConfigError
from collapsekit.readouts.calibration import fitted_weights
from collapsekit.repairs.ingredients import exported_readouts as exported
from collapsekit.repairs.training.job import Job
from collapsekit.stats.random_features import SAMPLE, ConvolutionalFeatures, evenly, laid_out, sketch, standardised
from tests.problems import Late, make_arrays
from tests.repairs.making import SIZES, WIDTHS, differing, make_job, run, state

OPTIONS: dict[str, Any] = {"method": "late_fusion"}


def outputs_of(model: nn.Module, job: Job, split: str = "val") -> Tensor:
    """What a model answers, as it stands."""
    features = job.at.held if split == "val" else job.at.train
    with torch.no_grad():
        out: Tensor = model(**features.inputs)
    return out


def late_job(**how: Any) -> Job:
    """A job of late_fusion."""
    return make_job(**{**OPTIONS, "options": {"readouts": "weak"}, **how})


# ---- what is added


@pytest.mark.parametrize(
    ("task", "outputs"), [("classification", 3), ("classification", 1), ("multilabel", 3), ("regression", 2)]
)
def test_the_output_is_the_prior_and_weighted_evidence_of_model_and_readouts(
    task: str, outputs: int, tmp_path: Path
) -> None:
    arrays = make_arrays(WIDTHS, task=task, outputs=outputs, sizes=SIZES)
    torch.manual_seed(0)
    job = late_job(model=Late(WIDTHS, outputs), arrays=arrays, task=task, factory=False, options={"readouts": "all"})
    task_of, at, before = job.adapter.task, job.at, outputs_of(job.adapter.model, job)
    seen = exported.pass_through(job, ("image", "audio"))
    readouts = [exported.best_readout(job, m, seen, single=outputs == 1) for m in ("image", "audio")]
    run(job, tmp_path, method="late_fusion")
    prior = task_of.to_natural(task_of.prior(at.targets, at.width))
    parts = [
        task_of.to_natural(task_of.expect(before)) - prior,
        *(task_of.to_natural(r.held) - prior for r in readouts),
    ]
    weights = fitted_weights(task_of, prior, parts, at.held_targets, [20.0, 5.0, 5.0])
    assert any(w > 0 for w in weights[1:])
    by_hand = task_of.from_natural(prior + sum(w * x for w, x in zip(weights, parts, strict=True)))
    after = outputs_of(job.adapter.model, job)
    assert after.shape == before.shape
    assert task_of.expect(after) == pytest.approx(by_hand, abs=2e-5)
    noted = {r.modality: r.value for r in job.findings}
    assert [noted["image"], noted["audio"]] == pytest.approx(weights[1:], abs=1e-6)


def test_before_weights_are_fitted_nothing_changes_and_no_weight_ever_does() -> None:
    job = late_job()
    before, own = outputs_of(job.adapter.model, job), state(job)
    stage = next(iter(registry.get_repair("late_fusion").stages(job)))
    assert torch.equal(outputs_of(job.adapter.model, job), before)
    assert stage.fit is not None
    stage.fit()
    assert not torch.equal(outputs_of(job.adapter.model, job), before)
    after = {k.replace(".encoder.encoder", ""): v for k, v in state(job).items()}
    assert differing(own, {k: after[k] for k in own}) == set()


def test_readouts_are_of_the_modalities_to_repair_or_of_all(tmp_path: Path) -> None:
    for which, names in (("weak", {"audio"}), ("all", {"image", "audio"})):
        job = late_job(options={"readouts": which})
        run(job, tmp_path / which, method="late_fusion")
        assert posts_of(job.adapter.model, "late").keys() == names
        assert {r["modality"] for r in job.adapter.config.structure} == names


class Returning(Late):
    """``Late`` whose output lies within something."""

    how: str = "dict"

    def forward(self, **x: Tensor) -> Any:
        out = super().forward(**x)
        return {"dict": {"logits": out, "other": 1}, "tuple": (out, None), "nested": {"said": [out, 2], "x": 3}}[
            self.how
        ]


@pytest.mark.parametrize(("how", "output"), [("dict", None), ("tuple", None), ("nested", "said")])
def test_the_prediction_is_found_wherever_the_model_returns_it(how: str, output: str | None, tmp_path: Path) -> None:
    plain, model = late_job(factory=False, options={"readouts": "all"}), None
    torch.manual_seed(0)
    model = Returning(WIDTHS)
    model.load_state_dict(plain.adapter.model.state_dict())
    model.how = how
    job = late_job(model=model, factory=False, options={"readouts": "all"}, more={"output": output})
    run(plain, tmp_path / "plain", method="late_fusion")
    run(job, tmp_path / "within", method="late_fusion")
    with torch.no_grad():
        found = job.adapter.model(**job.at.held.inputs)
    got = {"dict": lambda: found["logits"], "tuple": lambda: found[0], "nested": lambda: found["said"][0]}[how]()
    assert torch.equal(got, outputs_of(plain.adapter.model, plain))
    assert {"dict": lambda: found["other"], "tuple": lambda: found[1], "nested": lambda: found["x"]}[how]() in (
        1,
        None,
        3,
    )


# ---- whose evidence it is


def test_a_modality_taken_away_takes_its_evidence_along(tmp_path: Path) -> None:
    """From recordings as from inputs: with another example's audio, and without any."""
    job = late_job(options={"readouts": "all"})
    run(job, tmp_path, method="late_fusion")
    adapter, inputs = job.adapter, job.at.held.inputs
    rows = torch.arange(len(job.at.held)).flip(0)
    recorded = adapter.run(inputs).recorded
    assert [len(r) for r in recorded.values()] == [2, 2]
    other = {**recorded, "audio": tuple(t[rows] for t in recorded["audio"])}
    with torch.no_grad():
        replayed = adapter.rerun(other, inputs).outputs
        rerun = adapter.model(**{**inputs, "audio": inputs["audio"][rows]})
    assert replayed == pytest.approx(rerun, abs=1e-6)
    post = posts_of(adapter.model, "late")["audio"].encoder
    assert isinstance(post, nn.Module)
    gone = {**recorded, "audio": tuple(torch.zeros_like(t) for t in recorded["audio"])}
    without = adapter.rerun(gone, inputs).outputs
    post.readout.share.zero_()  # type: ignore[union-attr]
    with torch.no_grad():
        silent = adapter.rerun({**adapter.run(inputs).recorded, "audio": gone["audio"]}, inputs).outputs
    assert torch.equal(without, silent)


class Dead(nn.Module):
    """An encoder that gives the same whatever comes."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))
        self.inputs = inputs

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(len(x), -1)


def test_a_dead_encoder_s_input_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Late(WIDTHS)
    model.encoders["audio"] = Dead(WIDTHS["audio"], 6)
    job = late_job(model=model, factory=False)
    before = job.held_loss()
    run(job, tmp_path, method="late_fusion")
    (record,) = job.adapter.config.structure
    assert record["reads"] != "features"
    assert job.held_loss() < before - 0.2


class Picking(nn.Module):
    """An encoder that gives several things, the features not first."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.sum(1), self.linear(x)


class Picked(Late):
    """``Late`` that takes the second thing."""

    def forward(self, **x: Tensor) -> Tensor:
        parts = [encoder(x[m]) for m, encoder in self.encoders.items()]
        out: Tensor = self.head(self.fusion(torch.cat([p[1] if isinstance(p, tuple) else p for p in parts], 1)))
        return out


def test_features_may_be_a_part_of_what_the_encoder_gives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Picked(WIDTHS)
    model.encoders["audio"] = Picking(model.encoders["audio"])
    job = late_job(model=model, factory=False, select={"audio": 1})
    run(job, tmp_path, method="late_fusion")
    adapter, inputs = job.adapter, job.at.held.inputs
    found = adapter.run(inputs)
    assert torch.equal(
        adapter.features_of("audio", found.recorded["audio"]), model.encoders["audio"].linear(inputs["audio"])
    )
    assert len(found.recorded["audio"]) == 3
    assert torch.equal(adapter.rerun(found.recorded, inputs).outputs, found.prediction.outputs)


# ---- what is read, against the code of the diagnosis


def split_values(x: Tensor) -> dict[str, Tensor]:
    return {"train": x, "val": x}


def draw(family: str, x: Tensor, job: Job) -> list[tuple[str, Tensor]]:
    """What each candidate of a family reads of ``x``, as an exported readout does."""
    at = replace(job.at, fit=torch.arange(len(x)))
    made = exported._FAMILIES[family](x, at, 3)
    return [(c.described, c.of(split_values(x)).of(job.at.train)) for c in made]


@pytest.mark.parametrize("shape", [(300,), (3, 40), (40, 3), (12, 14), (2, 30, 60), (30, 60, 2), (3, 2, 12, 12)])
def test_random_convolutions_are_those_of_the_diagnosis(shape: tuple[int, ...]) -> None:
    x = torch.randn(40, *shape, generator=torch.Generator().manual_seed(0))
    found = draw(exported.CONVOLUTIONS, x, late_job())
    maps = laid_out(x)
    assert len(found) == len(maps) > 0
    for (_, ours), laid in zip(found, maps, strict=True):
        made = ConvolutionalFeatures.draw(laid[evenly(torch.arange(len(x)), SAMPLE)], exported.KERNELS, 3)
        assert made is not None
        assert ours == pytest.approx(made(laid), abs=1e-4)


def test_random_fourier_features_are_those_of_the_diagnosis() -> None:
    from collapsekit.readouts.raw import BANDWIDTHS
    from collapsekit.stats.random_features import FourierFeatures, median_distance

    x = torch.randn(40, 7, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2, 3, 4, 5, 6, 0]) + 3
    found = draw(exported.FOURIER_FEATURES, x, late_job())
    z = standardised(x, x)
    for (_, ours), multiple in zip(found, BANDWIDTHS, strict=True):
        drawn = FourierFeatures.draw(7, 40, multiple * median_distance(z), 3)
        assert ours == pytest.approx(drawn(z), abs=1e-5)


def test_wide_inputs_are_projected_as_in_the_diagnosis() -> None:
    x = torch.randn(40, 5000, generator=torch.Generator().manual_seed(0))
    ((_, ours),) = draw(exported.NUMBERS, x, late_job())
    assert ours == pytest.approx(sketch(x, exported.SUMS, 3), abs=1e-4)


def test_only_the_family_that_the_diagnosis_took_is_tried_beside_the_encoder_s_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    def noting(name: str, make: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            tried.append(name)
            return make(*args)

        return wrapped

    monkeypatch.setattr(exported, "_FAMILIES", {n: noting(n, make) for n, make in exported._FAMILIES.items()})
    job = late_job()
    for read, families in (
        (exported.FOURIER_FEATURES, [exported.FOURIER_FEATURES]),
        (exported.OWN_ENCODER, []),
        ("the encoder trained alone", list(exported.READS)),
    ):
        tried.clear()
        known = replace(job, read={"audio": read})
        exported.best_readout(known, "audio", exported.pass_through(known, ["audio"]), single=False)
        assert tried == families


# ---- a model with readouts in it


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_is_independent(copied: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    job = late_job(options={"readouts": "all"})
    run(job, tmp_path, method="late_fusion")
    before = outputs_of(job.adapter.model, job)
    twin = copied(job.adapter.model)
    assert torch.equal(outputs_of(twin, job), before)
    for value in twin.state_dict().values():
        value.zero_()
    assert torch.equal(outputs_of(job.adapter.model, job), before)
    assert not torch.equal(outputs_of(twin, job), before)


def test_records_that_hold_nonsense_are_refused() -> None:
    job = late_job()
    next(iter(registry.get_repair("late_fusion").stages(job)))
    (record,) = inserted_in(job.adapter.model)
    for change in ({"layout": "sideways"}, {"reads": "minds"}, {"path": ""}):
        with pytest.raises(ValueError, match=r"known|names no encoder|go beside"):
            insert(Late(WIDTHS), [{**record, **change}])


# ---- where it cannot be


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            {"task": "contrastive", "arrays": make_arrays(WIDTHS, task="contrastive", sizes=SIZES)},
            "late_fusion adds up",
        ),
        ({"more": {"output": ["a", "b"]}}, "`output` names 2"),
    ],
)
def test_it_is_refused_where_nothing_can_be_added(how: Mapping[str, Any], words: str) -> None:
    job = late_job()
    task = how.get("task")
    if task is not None:
        changed = copy.copy(job.adapter)
        from collapsekit.tasks.make import make_task

        changed.task = make_task("contrastive", metric=None, temperature=0.1, base=Path())
        job = replace(job, adapter=changed)
    else:
        job.adapter.config = job.adapter.config.model_copy(update=how["more"])
    with pytest.raises(ConfigError, match=words) as e:
        next(iter(registry.get_repair("late_fusion").stages(job)))
    assert "\n" not in str(e.value)


def test_a_chain_may_end_with_it_and_not_go_on_behind_it(tmp_path: Path) -> None:
    job = late_job()
    run(replace(job, options=registry.get_repair("dropout").options()), tmp_path / "a", method="dropout")
    run(job, tmp_path / "b", method="late_fusion")
    for method in ("substitute", "rtf", "late_fusion"):
        behind = replace(job, options=registry.get_repair(method).options())
        with pytest.raises(ConfigError, match="readouts beside its encoders"):
            next(iter(registry.get_repair(method).stages(behind)))
    heads = make_job(method="substitute")
    next(iter(registry.get_repair("substitute").stages(replace(heads, ignored=()))))
    with pytest.raises(ConfigError, match="heads or exchanged channels"):
        next(iter(registry.get_repair("late_fusion").stages(replace(heads, options=late_job().options))))
