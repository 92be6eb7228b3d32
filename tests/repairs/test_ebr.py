"""Basis reallocation: what is trained with what loss, and whose encoding stands in for whose."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import t as student
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit import registry
from collapsekit.adapters.inserts import capture_latents, posts_of, substitute_missing
from collapsekit.errors import ConfigError
from collapsekit.repairs.ingredients import heads
from collapsekit.repairs.ingredients.adversary import Discriminator, note_discriminator
from collapsekit.repairs.ingredients.alignment import ALIGNMENTS, draw_together
from collapsekit.repairs.ingredients.substitution import latent_vectors, note_substitutes, order_of, similarities
from collapsekit.repairs.methods.ebr import OF_THE_ADVERSARY, EbrOptions
from collapsekit.repairs.methods.substitute import SubstituteOptions
from collapsekit.repairs.training import loop
from collapsekit.repairs.training.estimate import estimate_cost
from collapsekit.repairs.training.job import Job, Stage, Step, Training
from collapsekit.repairs.training.snapshots import Snapshots
from tests.problems import make_arrays
from tests.repairs.making import differing, kept_in, make_job, make_model, options_of, run, state

THREE = {"image": 5, "audio": 4, "text": 3}
FOUR = {**THREE, "depth": 4}
ADVERSARY = {"alignment": "none", "substitution": 0.0, "adversary": 0.7, "ramp": 0}


def first(job: Job) -> Stage:
    """The method's stage, heads inserted."""
    return next(iter(registry.get_repair("ebr").stages(job)))


def job_of(model: nn.Module | None = None, **how: Any) -> Job:
    options = how.pop("options", {})
    return make_job(model, method="ebr", options=options, **how)


def grown(stage: Stage, loss: Tensor) -> set[str]:
    """Names of the stage's parameters that a loss has a gradient for that is not zero."""
    named = dict(stage.module.named_parameters())
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {k for k, g in zip(named, grads, strict=True) if g is not None and bool(g.any())}


def moved(job: Job, seed: int = 0) -> None:
    """Heads as training might leave them."""
    g = torch.Generator().manual_seed(seed)
    for post in posts_of(job.adapter.model, "basis").values():
        for p in post.insert.parameters():
            p.data += 0.3 * torch.randn(p.shape, generator=g)


# ---- before any training


@pytest.mark.parametrize("options", [{"substitution": 0.0}, {"preset": "paper"}, ADVERSARY], ids=str)
@pytest.mark.parametrize("lively", [False, True])
def test_inserted_heads_change_no_output_at_first(options: dict[str, Any], lively: bool) -> None:
    """Held-out loss and outputs, bit for bit, and every weight that was there."""
    job = job_of(make_model(lively=lively), options=options)
    rows = torch.arange(9)
    before, weights, outputs = job.held_loss(), state(job), job.adapter.run_live(job.batch(rows)).outputs
    stage = first(job)
    assert stage.held() == before
    assert torch.equal(job.adapter.run_live(job.batch(rows)).outputs, outputs)
    now = {k.replace(".encoder.", "."): v for k, v in state(job).items() if ".insert." not in k}
    assert differing(weights, now) == set()


def test_heads_are_as_wide_as_the_widest_encoder_or_as_asked() -> None:
    """Two hidden layers in all, as wide again."""
    for asked, latent in ((None, 6), (6, 6), (9, 9)):
        job = job_of(options={"latent": asked})
        first(job)
        assert [r["latent"] for r in job.adapter.config.structure] == [latent, latent]
        for post in posts_of(job.adapter.model, "basis").values():
            assert [tuple(layer.weight.shape) for layer in (*post.insert.h[::2], *post.insert.back[::2])] == [
                (2 * latent, 6),
                (latent, 2 * latent),
                (2 * latent, latent),
                (6, 2 * latent),
            ]
    model = make_model(THREE)
    model.encoders["text"] = nn.Linear(3, 8)
    model.fusion[0] = nn.Linear(20, 12)
    first(job := job_of(model, widths=THREE))
    assert [(r["features"], r["latent"], r["hidden"]) for r in job.adapter.config.structure] == [
        (6, 8, 16),
        (6, 8, 16),
        (8, 8, 16),
    ]


def test_all_of_the_model_is_trained_and_the_discriminator_where_there_is_one() -> None:
    job = job_of()
    stage = first(job)
    assert {id(p) for p in stage.parameters} == {id(p) for p in job.adapter.model.parameters()}
    job = job_of(options=ADVERSARY)
    stage = first(job)
    assert {id(p) for p in stage.parameters} == {id(p) for p in stage.module.parameters()}
    assert len(list(stage.module.parameters())) == len(list(job.adapter.model.parameters())) + 6


def test_heads_are_trained_behind_frozen_encoders(tmp_path: Path) -> None:
    job = job_of(make_model(lively=True), freeze=("encoders", "fusion"), epochs=2)
    stage = first(job)
    names = {k for k in state(job) if ".insert." in k or k.startswith("head.")}
    before = state(job)
    run(job, tmp_path, [stage], method="ebr")
    assert differing(before, state(job)) == {k for k in names if not k.endswith("order")}


def test_what_depends_on_the_job_s_seed_is_the_discriminator() -> None:
    made = [first(job_of(options=ADVERSARY, seed=seed)).module.state_dict() for seed in (0, 0, 1)]
    assert differing(made[0], made[1]) == set()
    assert differing(made[0], made[2]) == {k for k in made[0] if k.startswith("1.")}


# ---- whom it cannot repair


class Odd(nn.Module):
    """An encoder that gives something else than one tensor of features."""

    def __init__(self, width: int, what: str) -> None:
        super().__init__()
        self.linear, self.what = nn.Linear(width, 6), what

    def forward(self, x: Tensor) -> Any:
        made = self.linear(x)
        return {"two": (made, made + 1), "number": made[:, 0], "times first": torch.stack([made, -made, 2 * made])}[
            self.what
        ]


class Reads(nn.Module):
    """Reads either."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"image": nn.Linear(5, 6), "audio": Odd(4, what)})
        self.fusion, self.head, self.what = nn.Linear(7 if what == "number" else 12, 12), nn.Linear(12, 3), what

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        found = self.encoders["audio"](audio)
        part = {"two": lambda: found[1], "number": lambda: found[:, None], "times first": lambda: found.sum(0)}[
            self.what
        ]()
        return self.head(self.fusion(torch.cat([self.encoders["image"](image), part], 1)))


def refused(job: Job) -> str:
    with pytest.raises(ConfigError) as e:
        first(job)
    said = str(e.value)
    assert "\n" not in said
    assert said.endswith(".")
    assert not posts_of(job.adapter.model, "basis")
    assert job.adapter.config.structure == ()
    return said


def with_section(job: Job, modality: str, **changes: Any) -> Job:
    """The job with other settings of one modality."""
    sections = dict(job.adapter.config.modalities)
    sections[modality] = sections[modality].model_copy(update=changes)
    job.adapter.config = job.adapter.config.model_copy(update={"modalities": sections})
    return job


def test_refusals_are_one_sentence() -> None:
    said = refused(job_of(options={"latent": 5}))
    assert said.startswith("ebr.latent is 5, narrower than the widest encoder (6 features)")
    for path in ("encoders.audio:input", None):
        said = refused(with_section(job_of(), "audio", encoder=path))
        assert "modality 'audio' names none that is a submodule of its own" in said
    said = refused(job_of(Reads("two"), factory=False))
    assert "of modality 'audio' gives several things" in said
    assert "name it with `select` of modality 'audio'" in said
    assert "first axis is not the example" in refused(job_of(Reads("times first"), factory=False))
    assert "'audio' gives one number an example" in refused(job_of(Reads("number"), factory=False))


def test_of_several_tensors_the_one_that_was_named_is_reallocated(tmp_path: Path) -> None:
    job = with_section(job_of(Reads("two"), factory=False, epochs=1), "audio", select=1)
    job.adapter.taps["audio"].select = 1
    job.adapter.taps["audio"].shape = None
    job.adapter.recorder.fusion.shape = None
    job.adapter.run(job.batch(torch.arange(4)))
    stage = first(job)
    assert posts_of(job.adapter.model, "basis")["audio"].record["part"] == 1
    given = job.adapter.model.encoders["audio"](job.at.train.inputs["audio"])
    moved(job)
    after = job.adapter.model.encoders["audio"](job.at.train.inputs["audio"])
    assert torch.equal(after[0], given[0])
    assert not torch.equal(after[1], given[1])
    run(job, tmp_path, [stage], method="ebr")


# ---- options


def test_the_paper_s_preset_and_single_options_over_it() -> None:
    paper = EbrOptions(preset="paper")
    found = {
        k: v
        for k, v in paper.model_dump().items()
        if k not in ("preset", "latent", "alignment_weight", *OF_THE_ADVERSARY)
    }
    assert found == {
        "alignment": "none",
        "substitution": 0.0,  # section 3.4: nothing is substituted in training
        "adversary": 1.0,
        "aim": "reverse",
        "interleave": 10,  # Appendix C.1
        "ramp": 0,
        "normalize": False,
        "align": 0.0,
        "fresh_fusion": False,  # the function is what it was at first
        "warm_up": False,
        "settle": False,
        "drop": 0.0,
        "finish": False,
    }
    other = EbrOptions(preset="paper", interleave=3, adversary=0.5, latent=40)
    assert other.model_dump() == {**paper.model_dump(), "interleave": 3, "adversary": 0.5, "latent": 40}
    default = EbrOptions()
    assert all(getattr(default, k) != v for k, v in found.items() if k != "align")
    with pytest.raises(ValueError, match="preset"):
        EbrOptions(preset="papers")
    with pytest.raises(ConfigError, match=r"repair 'ebr' has no option 'adversery'.*did you mean 'adversary'"):
        registry.checked_options("repair", "ebr", EbrOptions, {"adversery": 1})
    for bad in ({"substitution": 1.0}, {"latent": 0}, {"adversary": -1.0}, {"ramp": -1}, {"aim": "up"}):
        with pytest.raises(ConfigError, match=rf"option ebr\.{next(iter(bad))}"):
            registry.checked_options("repair", "ebr", EbrOptions, bad)


# ---- the discriminator


def latents(*means: float, n: int = 11, width: int = 6) -> list[Tensor]:
    g = torch.Generator().manual_seed(7)
    return [(torch.randn(n, width, generator=g) + mean).requires_grad_() for mean in means]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("aim", ["reverse", "uniform"])
def test_its_losses_are_those_of_their_definitions(aim: str, normalize: bool) -> None:
    """Sum over modalities of mean cross-entropy, in nats; against: minus that, or m times KL(uniform ‖ ψ)."""
    torch.manual_seed(0)
    psi, given = Discriminator(6, 3, normalize=normalize).double(), latents(0.0, 1.0, -1.0)
    psi_, wide = psi.layers, [g.double() for g in given]
    psi.float()
    own, against = psi.losses(given, aim)
    psi.double()
    shown = [F.layer_norm(g, (6,)) if normalize else g for g in wide]
    logits = [_mlp(psi_, x) for x in shown]
    expected = sum(F.cross_entropy(x, torch.full((11,), i)) for i, x in enumerate(logits))
    assert float(own.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    if aim == "reverse":
        assert float(against.detach()) == -float(own.detach())
    else:
        kl = [F.kl_div(x.log_softmax(1), torch.full((11, 3), 1 / 3).double(), reduction="batchmean") for x in logits]
        assert float(against.detach()) == pytest.approx(float(sum(kl).detach()), rel=1e-4)


def _mlp(layers: nn.Sequential, x: Tensor) -> Tensor:
    a, b, c = (layer for layer in layers if isinstance(layer, nn.Linear))
    hidden = (x @ a.weight.T + a.bias).clamp_min(0)
    hidden = (hidden @ b.weight.T + b.bias).clamp_min(0)
    return hidden @ c.weight.T + c.bias


@pytest.mark.parametrize("aim", ["reverse", "uniform"])
def test_each_loss_reaches_one_side_only(aim: str) -> None:
    torch.manual_seed(0)
    psi, given = Discriminator(6, 3, normalize=True), latents(0.0, 1.0, -1.0)
    inputs = [*psi.parameters(), *given]
    for loss, reached in zip(psi.losses(given, aim), (len(list(psi.parameters())), 0), strict=True):
        grads = torch.autograd.grad(loss, inputs, allow_unused=True, retain_graph=True)
        own, theirs = grads[: len(inputs) - 3], grads[len(inputs) - 3 :]
        assert sum(g is not None and bool(g.any()) for g in own) == reached
        assert sum(g is not None and bool(g.any()) for g in theirs) == (0 if reached else 3)


def test_both_sides_gradients_are_opposite_under_reversal() -> None:
    """What the encoders go down is what the discriminator's loss goes up by."""
    torch.manual_seed(0)
    psi, given = Discriminator(6, 3, normalize=True), latents(0.0, 1.0, -1.0)
    _, against = psi.losses(given, "reverse")
    labels = torch.arange(3).repeat_interleave(11)
    loss = 3 * F.cross_entropy(psi.layers(torch.cat(given)), labels)
    for a, b in zip(torch.autograd.grad(against, given), torch.autograd.grad(loss, given), strict=True):
        torch.testing.assert_close(a, -b)


@pytest.mark.parametrize("modalities", [2, 3, 5])
def test_no_telling_apart_is_zero_and_all_else_more(modalities: int) -> None:
    torch.manual_seed(0)
    psi, given = Discriminator(6, modalities, normalize=True), latents(*map(float, range(modalities)))
    assert float(psi.losses(given, "uniform")[1]) > 1e-3
    with torch.no_grad():
        for p in psi.layers[-1].parameters():
            p.zero_()
    own, against = psi.losses(given, "uniform")
    assert abs(float(against)) < 1e-6
    assert float(own) == pytest.approx(modalities * math.log(modalities), rel=1e-6)
    with torch.no_grad():  # surely right, and surely wrong: both are telling apart
        for at in range(modalities):
            psi.layers[-1].bias.zero_()
            psi.layers[-1].bias[at] = 4.0
            assert float(psi.losses(given, "uniform")[1]) > 0.5


def test_shown_normalised_it_cannot_go_by_size() -> None:
    torch.manual_seed(0)
    given = latents(0.0, 1.0)
    scaled = [g * 50 + 3 for g in given]
    blind, seeing = Discriminator(6, 2, normalize=True), Discriminator(6, 2, normalize=False)
    torch.testing.assert_close(blind.losses(given, "uniform"), blind.losses(scaled, "uniform"), rtol=1e-3, atol=1e-4)
    assert abs(float(seeing.losses(given, "uniform")[0] - seeing.losses(scaled, "uniform")[0])) > 0.1


# ---- the loss of a step


@pytest.mark.parametrize("aim", ["reverse", "uniform"])
@pytest.mark.parametrize(("ramp", "shares"), [(0, (1, 1, 1, 1)), (4, (0.25, 0.5, 1, 1)), (10, (0.1, 0.2, 0.4, 1))])
def test_a_step_s_loss_is_the_sum_of_its_parts(aim: str, ramp: int, shares: tuple[float, ...]) -> None:
    job = job_of(options={**ADVERSARY, "aim": aim, "ramp": ramp, "align": 0.4})
    stage, rows = first(job), torch.arange(13)
    moved(job)
    with capture_latents(job.adapter.model) as heard:
        outputs = job.adapter.model(**job.batch(rows))
    given = [heard[m] for m in job.adapter.modalities]
    task = F.cross_entropy(outputs, job.at.train.targets[rows])
    own, against = stage.module[1].losses(given, aim)
    unit = [g / g.norm(dim=1, keepdim=True) for g in given]
    centre = unit[0] + unit[1]
    centre = centre / centre.norm(dim=1, keepdim=True)
    align = sum((1 - (u * centre).sum(1)).mean() for u in unit) / 2
    for epoch, share in zip((1, 2, 4, 12), shares, strict=True):
        expected = task + 0.4 * align + own + 0.7 * share * against
        assert float(stage.loss(Step(rows, epoch))) == pytest.approx(float(expected), rel=1e-5)


def test_taking_turns() -> None:
    """Epochs of the adversary train ψ, encoders and h; epochs of the task all but ψ."""
    job = job_of(options={**ADVERSARY, "interleave": 2})
    stage, rows = first(job), torch.arange(13)
    moved(job)
    names = [k for k, _ in stage.module.named_parameters()]
    psi = {k for k in names if k.startswith("1.")}
    towards = {k for k in names if k.startswith("0.encoders.") and ".insert.back." not in k}
    assert psi
    assert towards
    for epoch in (1, 2, 5, 6):
        loss = stage.loss(Step(rows, epoch))
        assert grown(stage, loss) == psi | towards
    task = F.cross_entropy(job.adapter.model(**job.batch(rows)), job.at.train.targets[rows])
    for epoch in (3, 4, 7, 8):
        loss = stage.loss(Step(rows, epoch))
        assert torch.equal(loss, task)
        assert grown(stage, loss) == set(names) - psi
    assert stage.cycle == 4


def test_without_interleaving_every_epoch_trains_adversary_and_task() -> None:
    job = job_of(options=ADVERSARY)
    stage = first(job)
    moved(job)
    for epoch in (1, 2, 11):
        loss = stage.loss(Step(torch.arange(13), epoch))
        assert grown(stage, loss) == {k for k, _ in stage.module.named_parameters()}
    assert stage.cycle == 1


def test_without_an_adversary_epochs_do_not_alternate() -> None:
    job = job_of(options={"interleave": 3, "substitution": 0.0})
    stage, rows = first(job), torch.arange(13)
    expected = stage.loss(Step(rows, 1))
    for epoch in (1, 3, 4):
        assert torch.equal(stage.loss(Step(rows, epoch)), expected)
    assert stage.cycle == 1


@pytest.mark.parametrize(("alignment", "weight"), [("infonce", 1.0), ("coral", 0.1), ("vicreg", 0.1)])
@pytest.mark.parametrize("named", [None, 0.7])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_latent_encodings_are_brought_together(
    alignment: str, weight: float, named: float | None, task: str
) -> None:
    options = {"substitution": 0.0, "alignment": alignment, "alignment_weight": named, "align": 0.4}
    job = job_of(options=options, task=task)
    stage, rows = first(job), torch.arange(13)
    moved(job)
    with capture_latents(job.adapter.model) as heard:
        outputs = job.adapter.model(**job.batch(rows))
    given, y = [heard[m] for m in job.adapter.modalities], job.at.train.targets[rows]
    labels = y if task == "classification" else None
    expected = job.adapter.task.training_loss(outputs, y) + 0.4 * draw_together(given)
    expected = expected + (named or weight) * ALIGNMENTS[alignment][0](given, labels)
    assert float(stage.loss(Step(rows, 1))) == pytest.approx(float(expected), rel=1e-5)


def test_without_a_loss_that_brings_them_together_it_is_refused() -> None:
    assert "use the repair substitute" in refused(job_of(options={"alignment": "none"}))


def test_substitute_is_the_task_s_loss_under_substitution_alone(tmp_path: Path) -> None:
    job = make_job(make_model(), method="substitute", options={"substitution": 0.0})
    stage, rows = next(iter(registry.get_repair("substitute").stages(job))), torch.arange(13)
    moved(job)
    task = F.cross_entropy(job.adapter.model(**job.batch(rows)), job.at.train.targets[rows])
    assert torch.equal(stage.loss(Step(rows, 1)), task)
    job = make_job(make_model(), method="substitute", epochs=3)
    curves = run(job, tmp_path, registry.get_repair("substitute").stages(job), method="substitute")
    assert [c.stage for c in curves] == ["basis reallocation", curves[1].stage]
    assert [r.name for r in job.findings] == [*["substitution.similarity_before"] * 2, *["substitution.similarity"] * 2]


def test_the_paper_s_preset_brings_its_training_where_none_is_asked_for() -> None:
    job = make_job(make_model(), method="ebr")
    own = replace(job, training=Training()).at_place(0, EbrOptions(preset="paper")).training
    assert own.model_dump(exclude_defaults=True) == {
        "optimizer": "sgd",
        "rate": 0.01,
        "schedule": "paper",
        "epochs": 1200,
        "patience": 1200,
        "clip": None,
    }
    asked = replace(job, training=Training(epochs=7, clip=2.0)).at_place(0, EbrOptions(preset="paper")).training
    assert (asked.epochs, asked.clip, asked.optimizer) == (7, 2.0, "sgd")
    assert replace(job, training=Training()).at_place(0, EbrOptions()).training == Training()


CALLS_IT = {
    "a discriminator": {"adversary": 0.1},
    "stand in for a modality": {"substitution": 0.5},
    "a contrast": {"alignment": "infonce"},
    "CORAL": {"alignment": "coral"},
    "VICReg": {"alignment": "vicreg"},
    "plain fine-tuning": {"finish": True},
    "trained by SGD": {"preset": "paper"},
}
NOT_IT = {
    "a discriminator": {"adversary": 0.0},
    "stand in for a modality": {"substitution": 0.0},
    "a contrast": {"alignment": "coral"},
    "CORAL": {"alignment": "infonce"},
    "VICReg": {"alignment": "infonce"},
    "plain fine-tuning": {"finish": False},
    "trained by SGD": {},
}


@pytest.mark.parametrize("words", CALLS_IT)
def test_its_definition_says_what_is_trained_and_nothing_else(words: str) -> None:
    spec = registry.get_repair("ebr")
    assert words in spec.define(EbrOptions(**CALLS_IT[words]))
    assert words not in spec.define(EbrOptions(**NOT_IT[words]))
    assert "discriminator" not in registry.get_repair("substitute").define(SubstituteOptions())


def test_patience_lasts_over_both_turns(tmp_path: Path) -> None:
    """In the adversary's epochs the task cannot get better."""
    options = {**ADVERSARY, "interleave": 3}
    (curve,) = run(job_of(options=options, epochs=20, patience=1, rate=1e-8), tmp_path, method="ebr")
    assert curve.epochs[-1] == 12
    curves = run(job_of(epochs=20, patience=1, rate=1e-8), tmp_path / "other", method="ebr")
    assert [curve.epochs[-1] for curve in curves] == [1, 1]


def test_a_step_is_under_substitution(monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(make_model(THREE), method="substitute", widths=THREE, options={"substitution": 0.4})
    stage = next(iter(registry.get_repair("substitute").stages(job)))
    rows = torch.arange(10)
    moved(job)
    gone = torch.rand(10, 3, generator=torch.Generator().manual_seed(1)) < 0.4
    asked: list[Tensor] = []
    monkeypatch.setattr(heads, "drawn", lambda rates, n: asked.append(rates) or gone[:n])
    loss = stage.loss(Step(rows, 1))
    assert torch.equal(asked[0], torch.full((3,), 0.4))
    with substitute_missing(job.adapter.model, {m: gone[:, i] for i, m in enumerate(THREE)}):
        outputs = job.adapter.model(**job.batch(rows))
    assert torch.equal(loss, F.cross_entropy(outputs, job.at.train.targets[rows]))
    assert not torch.equal(outputs, job.adapter.model(**job.batch(rows)))


def test_the_held_out_loss_is_under_the_same_substitution() -> None:
    job = job_of(options={"substitution": 0.6})
    stage = first(job)
    moved(job)
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(stage.held())
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert abs(found[0] - job.held_loss()) > 1e-3
    draws = []
    torch.manual_seed(3)
    for _ in range(4):
        gone = heads.drawn(torch.tensor([0.6, 0.6]), 24)
        with torch.no_grad(), substitute_missing(job.adapter.model, {"image": gone[:, 0], "audio": gone[:, 1]}):
            out = job.adapter.model(**job.at.held.inputs).double()
        draws.append(float(F.cross_entropy(out, job.at.held_targets)))
    assert found[0] == pytest.approx(sum(draws) / 4, rel=1e-6)


# ---- whose encoding stands in for whose


def test_similarities_are_mean_cosines() -> None:
    g = torch.Generator().manual_seed(0)
    given = {m: torch.randn(30, 5, generator=g, dtype=torch.float64) for m in FOUR}
    for reference in FOUR:
        found = similarities(given, reference)
        for m, x in given.items():
            a, b = x.numpy(), given[reference].numpy()
            cosines = [float(np.dot(p, q) / np.sqrt(np.dot(p, p) * np.dot(q, q))) for p, q in zip(a, b, strict=True)]
            assert found[m] == pytest.approx(np.mean(cosines), abs=1e-12)
        assert found[reference] == pytest.approx(1.0, abs=1e-12)


def test_the_closest_in_the_ranked_list_comes_first() -> None:
    """By hand; of two as near, the one that is more like the reference."""
    assert order_of("rstu", "r") == ["s", "t", "u"]
    assert order_of("rstu", "s") == ["r", "t", "u"]
    assert order_of("rstu", "t") == ["s", "u", "r"]
    assert order_of("rstu", "u") == ["t", "s", "r"]
    assert order_of(["a", "b"], "a") == ["b"]
    assert order_of(["a", "b"], "b") == ["a"]
    for m in "vwxyz":
        near = order_of("vwxyz", m)
        assert sorted([*near, m]) == list("vwxyz")
        distances = [abs("vwxyz".index(o) - "vwxyz".index(m)) for o in near]
        assert distances == sorted(distances)


def planted(monkeypatch: pytest.MonkeyPatch, job: Job, cosines: dict[str, float], reference: str) -> None:
    """Latent vectors whose cosines with the reference's are these."""
    n = len(job.at.fit)
    base = torch.zeros(n, 6, dtype=torch.float64)
    base[:, 0] = torch.linspace(1, 2, n)
    found = {}
    for k, (m, cosine) in enumerate(cosines.items()):
        x = base * cosine
        x[:, 1 + k % 4] = base[:, 0] * math.sqrt(1 - cosine**2)
        found[m] = x
    assert cosines[reference] == 1
    monkeypatch.setattr("collapsekit.repairs.ingredients.substitution.latent_vectors", lambda _: found)


def told(job: Job) -> dict[str, list[str]]:
    """Each head's order, by name."""
    posts = posts_of(job.adapter.model, "basis")
    return {m: [post.insert.others[i] for i in post.insert.order.tolist()] for m, post in posts.items()}


def test_heads_are_told_who_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    credit = {"image": 0.2, "audio": 0.5, "text": 0.1, "depth": 0.3}
    job = job_of(make_model(FOUR), widths=FOUR, credit=credit)
    first(job)
    planted(monkeypatch, job, {"image": -0.5, "audio": 1.0, "text": 0.9, "depth": 0.3}, "audio")
    results = note_substitutes(job)  # ranked: audio, text, depth, image
    expected = {
        "audio": ["text", "depth", "image"],
        "text": ["audio", "depth", "image"],
        "depth": ["text", "image", "audio"],
        "image": ["depth", "text", "audio"],
    }
    assert told(job) == expected
    assert {r.modality: round(r.value, 9) for r in results} == {"image": -0.5, "audio": 1.0, "text": 0.9, "depth": 0.3}
    assert {r.versus for r in results} == {"audio"}
    for r in results:
        assert r.note == f"where it is missing there stand in, in this order: {', '.join(expected[r.modality])}"
    buffers = {k for k in state(job) if k.endswith(".insert.order")}
    assert buffers == {f"encoders.{m}.insert.order" for m in FOUR}


def test_of_modalities_as_alike_the_one_listed_first_is_ranked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(make_model(FOUR), widths=FOUR, credit=dict.fromkeys(FOUR, 0.5))
    first(job)
    planted(monkeypatch, job, {"image": 1.0, "audio": 0.4, "text": 0.4, "depth": 0.4}, "image")
    assert {r.versus for r in note_substitutes(job)} == {"image"}
    assert told(job)["image"] == ["audio", "text", "depth"]
    planted(monkeypatch, job, {"image": 1.0, "audio": 1.0, "text": 1.0, "depth": 1.0}, "image")
    note_substitutes(job)  # none is as near to the strongest as itself
    assert told(job)["depth"] == ["text", "audio", "image"]


def test_swapping_two_modalities_names_swaps_what_is_found() -> None:
    """The same encoders, data and credit under each other's name: similarities, orders and heads with them."""
    widths = {"left": 4, "mid": 5, "right": 4}
    other = {"left": "right", "right": "left", "mid": "mid"}
    arrays = make_arrays(widths, sizes={"train": 40, "val": 24})
    swapped = {f"{(p := k.split('/'))[0]}/{other.get(p[1], p[1])}": v for k, v in arrays.items()}
    credit = {"left": 0.1, "mid": 0.2, "right": 0.6}
    model, twin = make_model(widths), make_model(widths)
    for m in widths:
        twin.encoders[other[m]].load_state_dict(model.encoders[m].state_dict())
    one = job_of(model, widths=widths, arrays=arrays, credit=credit)
    two = job_of(twin, widths=widths, arrays=swapped, credit={other[m]: c for m, c in credit.items()})
    for job in (one, two):
        first(job)
    moved(one)
    for m, post in posts_of(one.adapter.model, "basis").items():
        mirror = posts_of(two.adapter.model, "basis")[other[m]].insert
        mirror.h.load_state_dict(post.insert.h.state_dict())
        mirror.back.load_state_dict(post.insert.back.state_dict())
    found = [{r.modality: (r.value, r.versus) for r in note_substitutes(job)} for job in (one, two)]
    for m, (value, versus) in found[0].items():
        assert found[1][other[m]] == (pytest.approx(value, abs=1e-9), other[versus])
    assert {other[m]: [other[o] for o in order] for m, order in told(one).items()} == told(two)
    assert len({v for v, _ in found[0].values()}) == 3


def test_latent_vectors_are_what_is_heard() -> None:
    job = job_of()
    first(job)
    moved(job)
    found = latent_vectors(job)
    for m, post in posts_of(job.adapter.model, "basis").items():
        with torch.no_grad():
            expected = post.insert.h(post.encoder(job.at.train.inputs[m]))
        torch.testing.assert_close(found[m].float(), expected)
        assert found[m].dtype == torch.float64


# ---- training


@pytest.mark.parametrize(
    "options", [{}, {**ADVERSARY, "align": 0.1}, {"preset": "paper", "interleave": 2}, {"aim": "reverse"}], ids=str
)
def test_training_lowers_the_held_out_loss_and_notes_its_findings(tmp_path: Path, options: dict[str, Any]) -> None:
    job = job_of(options=options, epochs=8)
    curve, *_ = run(job, tmp_path, method="ebr")
    assert curve.held[curve.kept] < curve.held[0] - 0.1
    assert curve.held[curve.kept] == pytest.approx(min(curve.held), abs=2e-4)
    torch.manual_seed(loop._seed(job.seed, 0, -1, 0))
    assert all(bool(torch.isfinite(v).all()) for v in state(job).values())
    names = [r.name for r in job.findings]
    assert names[:4] == [*["substitution.similarity_before"] * 2, *["substitution.similarity"] * 2]
    adversary = options.get("adversary") or options.get("preset")
    assert names[4:] == (["ebr.discriminator_loss", "ebr.discriminator_entropy"] if adversary else [])


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_training_lowers_the_held_out_loss_for_other_tasks_and_batch_norm(tmp_path: Path, task: str) -> None:
    options = {"adversary": 0.1}
    job = job_of(make_model(lively=True), task=task, options=options, epochs=8, amp=task == "multilabel")
    curve, _ = run(job, tmp_path, method="ebr")
    assert curve.held[curve.kept] < curve.held[0] - 0.02


def test_how_well_modalities_are_told_apart_is_noted(tmp_path: Path) -> None:
    job = job_of(options=ADVERSARY, epochs=2)
    made = iter(registry.get_repair("ebr").stages(job))
    stage = next(made)
    run(job, tmp_path, [stage], method="ebr")
    assert next(made, None) is None
    psi = stage.module[1].layers
    with torch.no_grad():
        logits = [psi(g.float()).double() for g in latent_vectors(job).values()]
    loss = sum(float(F.cross_entropy(x, torch.full((40,), i))) for i, x in enumerate(logits)) / 2
    entropy = sum(float(torch.distributions.Categorical(logits=x).entropy().mean()) for x in logits) / 2
    found = {r.name: r.value for r in job.findings}
    assert found["ebr.discriminator_loss"] == pytest.approx(loss, rel=1e-6)
    assert found["ebr.discriminator_entropy"] == pytest.approx(entropy, rel=1e-6)
    assert "ln 2 = 0.693" in str(job.findings[-1].note)


def test_an_adversary_makes_modalities_harder_to_tell_apart(tmp_path: Path) -> None:
    """What a discriminator trained along with the rest achieves without one that counts against the encoders."""
    entropy = []
    for weight in (1e-9, 3.0):
        job = job_of(options={**ADVERSARY, "adversary": weight}, epochs=16)
        stage = first(job)
        stage.keep = "last"
        run(job, tmp_path / str(weight), [stage], method="ebr")
        entropy.append(note_discriminator(job, stage.module[1])[1].value)
    assert entropy[1] > entropy[0] + 0.05
    assert entropy[1] > 0.9 * math.log(2)


OPTIONS = {"adversary": 0.3, "aim": "reverse", "interleave": 1, "align": 0.1}


def trained(folder: Path, stop: int | None = None) -> tuple[Job, list[Any]]:
    """A lively job trained to the end, or until the write number ``stop``."""
    job = job_of(make_model(lively=True), options=OPTIONS, epochs=4)
    kept = kept_in(folder)
    if stop is not None:
        real, calls = Snapshots.save, []

        def save(self: Snapshots, *given: Any) -> None:
            real(self, *given)
            calls.append(1)
            if len(calls) == stop:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Snapshots, "save", save)
            with pytest.raises(KeyboardInterrupt):
                loop.train(registry.get_repair("ebr").stages(job), job, "ebr", kept, loop.Progress())
        return job, []
    return job, loop.train(registry.get_repair("ebr").stages(job), job, "ebr", kept, loop.Progress())


def test_two_runs_are_the_same_and_interrupted_ones_go_on_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "ROUND", 2)
    job, curves = trained(tmp_path / "whole")
    torch.rand(5)
    again, same = trained(tmp_path / "again")
    assert differing(state(job), state(again)) == set()
    assert (same, again.findings) == (curves, job.findings)
    held = load_file(tmp_path / "whole" / "snapshots" / "stage0.safetensors")
    names = {k.removeprefix("now/0.") for k in held if k.startswith("now/0.")}
    assert names == set(state(job))
    assert {f"encoders.{m}.insert.h.0.weight" for m in ("image", "audio")} <= names
    assert any(k.startswith("now/1.layers.") for k in held)
    for stop in (1, 6):
        folder = tmp_path / str(stop)
        trained(folder, stop)
        gone_on, told_ = trained(folder)
        assert differing(state(job), state(gone_on)) == set(), stop
        assert (told_, gone_on.findings) == (curves, job.findings)
    done, told_ = trained(tmp_path / "whole")  # all of it is there already
    assert differing(state(job), state(done)) == set()
    assert (told_, done.findings) == (curves, job.findings)


@pytest.mark.parametrize("latent", [None, 11])
def test_a_repaired_model_can_be_repaired_again(tmp_path: Path, latent: int | None) -> None:
    """With the heads that are there, and a discriminator that fits them."""
    job = job_of(options={"latent": latent, "adversary": 0.1}, epochs=2)
    run(job, tmp_path / "a", method="ebr")
    names, structure = set(state(job)), job.adapter.config.structure
    before = state(job)
    again = job_of(job.adapter.model, options={"adversary": 0.1}, epochs=3)
    again.adapter.config = job.adapter.config
    assert differing(before, state(again)) == set()
    curve, _ = run(again, tmp_path / "b", method="ebr")
    assert set(state(again)) == names
    assert again.adapter.config.structure == structure
    assert len(posts_of(again.adapter.model, "basis")) == 2
    assert curve.held[curve.kept] <= curve.held[0]
    assert differing(before, state(again)) - {k for k in names if k.endswith("order")} == {
        k for k in names if not k.endswith("order")
    }


@pytest.mark.slow
def test_other_methods_may_follow(tmp_path: Path) -> None:
    job = job_of(epochs=2)
    for name in ("ebr", "dropout", "kd", "finetune"):
        part = replace(job, options=options_of(name))
        loop.train(registry.get_repair(name).stages(part), part, name, kept_in(tmp_path / name), loop.Progress())
    assert len(posts_of(job.adapter.model, "basis")) == 2
    with substitute_missing(job.adapter.model, {"audio": torch.ones(40, dtype=torch.bool)}):
        assert bool(torch.isfinite(job.adapter.model(**job.at.train.inputs)).all())


@pytest.mark.parametrize(("method", "stays"), [("finetune", False), ("kd", False), ("ebr", True)])
def test_what_would_be_trained_says_what_is_added_and_what_stays(method: str, stays: bool) -> None:
    job = make_job(method=method)
    own = frozenset(map(id, job.adapter.model.parameters()))
    before = sum(p.numel() for p in job.adapter.model.parameters())
    stage = next(iter(registry.get_repair(method).stages(job)))
    told = estimate_cost(stage, job, method, own)[0]
    trained, added, stay = (int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", told))
    assert trained == sum(p.numel() for p in stage.parameters)
    assert stay == sum(p.numel() for p in job.adapter.model.parameters()) - before
    assert (stay > 0) == stays
    assert added == trained - sum(p.numel() for p in stage.parameters if id(p) in own)
    assert (added == 0) == (method == "finetune")


def test_a_fresh_fusion_is_newly_initialised_and_encoders_stay() -> None:
    job = job_of(make_model(seed=7), options={"fresh_fusion": True, "substitution": 0.0})
    before = state(job)
    first(job)
    now = {k.replace(".encoder.", "."): v for k, v in state(job).items() if ".insert." not in k}
    assert differing(before, now) == {k for k in before if not k.startswith("encoders.")}
    twin = job.adapter.fresh(job.seed)
    assert twin is not None
    assert torch.equal(now["head.weight"], twin.model.state_dict()["head.weight"])
    said = refused(job_of(options={"fresh_fusion": True}, factory=False))
    assert said.startswith("ebr trains a fusion built anew")
    assert "--set ebr.fresh_fusion=false" in said


def test_a_similarity_has_the_interval_of_a_jackknife_over_groups() -> None:
    job = job_of(make_model(seed=3))
    first(job)
    moved(job)
    found = {r.modality: r for r in note_substitutes(job)}
    latents, groups = latent_vectors(job), job.at.train.groups.numpy()
    cosines = F.cosine_similarity(latents["image"], latents["audio"], dim=1).numpy()
    left = np.array([cosines[groups != g].mean() for g in np.unique(groups)])
    spread = np.sqrt((len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum())
    result = found["image"]
    assert result.versus == "audio"
    half, cosine = student.ppf(0.975, len(left) - 1) * spread, cosines.mean()
    ends = np.tanh(
        np.arctanh(cosine) + np.array([-1, 1]) * half / (1 - cosine**2)
    )  # Fisher's scale keeps it within -1 to 1
    assert result.interval == pytest.approx(tuple(ends), rel=1e-6)
    assert found["audio"].interval == pytest.approx((1.0, 1.0))
