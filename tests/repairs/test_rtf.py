"""rtf: which channels are exchanged with whom, what the model then computes, and what is noted down of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file
from scipy.stats import entropy, hmean
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit import diagnose, registry
from collapsekit.adapters import inserts
from collapsekit.adapters.encode_fuse_head import EncodeFuseHeadAdapter
from collapsekit.adapters.inserts import ChannelExchange, posts_of
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.errors import ConfigError
from collapsekit.features.extraction import extract
from collapsekit.interventions.replay import predict
from collapsekit.repairs.export import export_weights
from collapsekit.repairs.ingredients.channels import features_of, pooled, scores_of
from collapsekit.repairs.methods import rtf
from collapsekit.repairs.methods.rtf import RtfOptions, givers_of
from collapsekit.repairs.training import loop
from collapsekit.repairs.training.job import Job, Step
from collapsekit.report.repair import Insert
from collapsekit.stats.linalg.exchange import channel_scores
from tests.problems import adapt, make_arrays, make_problem
from tests.repairs.making import SIZES, differing, make_job, options_of, run, state

Shapes = Mapping[str, tuple[int, ...]]
VECTORS: Shapes = {"image": (6,), "audio": (6,)}
LAYOUTS: dict[str, Shapes] = {
    "vectors": VECTORS,
    "three": {**VECTORS, "text": (6,)},
    "widths": {"image": (8,), "audio": (5,)},
    "tokens": {"image": (4, 6), "audio": (4, 6)},
    "other-tokens": {"image": (4, 6), "audio": (3, 7)},
    "maps": {"image": (6, 2, 2), "audio": (4, 6)},
    "mixed": {"image": (6,), "audio": (3, 2, 2)},
}


class Shaped(nn.Module):
    """Encoders that give features of any shape, (c,), (t, c) or (c, h, w); their means over positions are fused."""

    def __init__(self, shapes: Shapes, inputs: int = 5) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(
            {
                m: nn.Sequential(nn.Linear(inputs, math.prod(s)), nn.Unflatten(1, s), nn.Tanh())
                for m, s in shapes.items()
            }
        )
        widths = [s[0] if len(s) == 3 else s[-1] for s in shapes.values()]
        self.fusion, self.head = nn.Sequential(nn.Linear(sum(widths), 7), nn.Tanh()), nn.Linear(7, 3)

    def forward(self, **x: Tensor) -> Tensor:
        given = [encoder(x[m]) for m, encoder in self.encoders.items()]
        pooled = [g if g.ndim == 2 else g.mean(1) if g.ndim == 3 else g.mean((2, 3)) for g in given]
        return self.head(self.fusion(torch.cat(pooled, 1)))


def shaped(shapes: Shapes, seed: int = 0) -> Shaped:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Shaped(shapes).eval()


def job_of(shapes: Shapes = VECTORS, **more: Any) -> Job:
    """A job on such a model; further keywords are options of the method, or of ``make_job``."""
    options = {k: more.pop(k) for k in list(more) if k in RtfOptions.model_fields}
    model = more.pop("model", None) or shaped(shapes)
    return make_job(model, widths=dict.fromkeys(shapes, 5), factory=False, method="rtf", options=options, **more)


def inserted(job: Job) -> Any:
    """The stage, and the exchanges put in, by modality."""
    stages = registry.get_repair("rtf").stages(job)
    stage = next(iter(stages))
    return stage, exchanges(job)


def exchanges(job: Job) -> dict[str, ChannelExchange]:
    return {m: post.insert for m, post in posts_of(job.adapter.model, "exchange").items()}  # type: ignore[misc]


def spread_alpha(job: Job, seed: int = 0) -> None:
    """Give every channel a share of its own, and every map other weights."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for made in exchanges(job).values():
            made.blend.copy_(torch.randn(made.blend.shape, generator=g) * 0.1)
            if made.project is not None:
                made.project.weight.copy_(torch.randn(made.project.weight.shape, generator=g))


def by_hand(job: Job, inputs: Mapping[str, Tensor]) -> Tensor:
    """Outputs of the repaired model, written out: channels last, blended one by one, put back."""
    model = job.adapter.model
    raw = {m: getattr(post, "encoder", post)(inputs[m]) for m, post in model.encoders.items()}
    last = {m: f if f.ndim < 4 else f.permute(0, 2, 3, 1) for m, f in raw.items()}
    pooled = []
    for m, own in last.items():
        made, out = exchanges(job)[m], last[m].clone()
        other = last[made.giver]
        if made.project is not None:
            other = other @ made.project.weight.T + made.project.bias
        n, places = len(own), int(np.prod(own.shape[1:-1], initial=1))
        flat = other.reshape(n, -1, other.shape[-1])
        flat = flat if flat.shape[1] == places else flat.mean(1, keepdim=True).repeat(1, places, 1)
        there = flat.reshape(*own.shape[:-1], -1)
        energy = own.reshape(n, places, -1).var(1, correction=0).detach().numpy()
        for i, (to, source) in enumerate(zip(made.receiving.tolist(), made.source.tolist(), strict=True)):
            alpha = 1 / (1 + math.exp(-10 * made.blend[i].item()))
            rows = [r for r in range(n) if made.each is None or to in np.argsort(energy[r])[: made.each]]
            out[rows, ..., to] = (1 - alpha) * own[rows, ..., to] + alpha * there[rows, ..., source]
        pooled.append(out.reshape(n, places, -1).mean(1))
    return model.head(model.fusion(torch.cat(pooled, 1)))


# ---- what the model computes


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("pairing", "select"), [("same", "auto"), ("same", "dataset"), ("strongest", "auto")])
def test_the_model_computes_the_blend(layout: str, pairing: str, select: str) -> None:
    job = job_of(LAYOUTS[layout], pairing=pairing, proportion=0.5, select=select)
    rows = torch.tensor([3, 1, 30, 7])
    stage, made = inserted(job)
    spread_alpha(job)
    assert set(made) == set(LAYOUTS[layout])
    expected = by_hand(job, job.batch(rows))
    outputs = job.run(Step(rows, 1)).outputs
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stage.loss(Step(rows, 1)), F.cross_entropy(expected, job.at.train.targets[rows]))
    apart = [job.run(Step(row[None], 1)).outputs for row in rows]
    torch.testing.assert_close(torch.cat(apart), outputs, rtol=1e-5, atol=1e-6)


def test_each_encoder_runs_once_receiver_or_not() -> None:
    job = job_of(LAYOUTS["three"], receivers="weak", credit={"image": 2.0, "audio": 0.1, "text": 1.0})
    _, made = inserted(job)
    assert {m: len(e.receiving) for m, e in made.items()} == {"image": 0, "audio": 1, "text": 0}
    calls: list[str] = []
    for m, post in job.adapter.model.encoders.items():
        post.encoder.register_forward_hook(lambda *_, m=m: calls.append(m))
    job.run(Step(torch.arange(4), 1))
    assert sorted(calls) == ["audio", "image", "text"]


@pytest.mark.parametrize("layout", ["vectors", "widths", "other-tokens"])
def test_the_loss_teaches_encoders_blends_and_maps(layout: str) -> None:
    job = job_of(LAYOUTS[layout])
    stage, made = inserted(job)
    stage.loss(Step(torch.arange(16), 1)).backward()
    assert len({id(p) for p in stage.parameters}) == len(stage.parameters)
    assert {id(p) for p in stage.parameters} == {id(p) for p in job.adapter.model.parameters()}
    assert all(bool(p.grad.any()) for p in stage.parameters)
    assert all((e.project is not None) == (layout != "vectors") for e in made.values())


@pytest.mark.parametrize("layout", ["three", "other-tokens"])
def test_training_lowers_the_loss_and_moves_each_alpha(tmp_path: Path, layout: str) -> None:
    job = job_of(LAYOUTS[layout], blend=0.3, proportion=0.5)
    (curve,) = run(job, tmp_path, started(job))
    assert curve.held[curve.kept] < curve.held[0] - 0.01
    for made in exchanges(job).values():
        alpha = made.alpha()
        assert bool(((alpha > 0) & (alpha < 1)).all())
        assert bool(((alpha - 0.3).abs() > 1e-3).all())


def started(job: Job) -> Any:
    """The stages; every α is as asked when they are made."""
    for stage in registry.get_repair("rtf").stages(job):
        for made in exchanges(job).values():
            assert made.alpha().tolist() == pytest.approx([0.3] * (3 if made.each is None else len(made.receiving)))
        yield stage


def test_freezing_an_encoder_leaves_its_blend_to_learn(tmp_path: Path) -> None:
    job = job_of(LAYOUTS["widths"], freeze=("encoders.audio",))
    stages = iter(registry.get_repair("rtf").stages(job))
    stage = next(stages)
    before = state(job)
    run(job, tmp_path, [stage])
    same = set(before) - differing(before, state(job))
    learned = {k for k in same if "receiving" not in k and "source" not in k}
    assert learned == {"encoders.audio.encoder.0.weight", "encoders.audio.encoder.0.bias"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_another_precision(dtype: torch.dtype) -> None:
    job = job_of(LAYOUTS["widths"], model=shaped(LAYOUTS["widths"]).to(dtype))
    inserted(job)
    assert job.run(Step(torch.arange(8), 1)).outputs.dtype == dtype


def test_under_autocast_the_blend_is_nearly_the_same() -> None:
    job = job_of(LAYOUTS["widths"])
    stage, _ = inserted(job)
    step = Step(torch.arange(16), 1)
    with torch.autocast("cpu", torch.bfloat16):
        found = stage.loss(step)
    assert found.detach() == pytest.approx(stage.loss(step).item(), rel=0.02)


# ---- which channels, whose


def test_the_giver_has_the_highest_credit_among_the_others_or_is_named() -> None:
    three, credit = LAYOUTS["three"], {"image": 0.2, "audio": 0.1, "text": 0.9}
    job = job_of(three, credit=credit, weak=("audio",))
    assert givers_of(job, RtfOptions(receivers="all")) == {"image": "text", "audio": "text", "text": "image"}
    assert givers_of(job, RtfOptions(receivers="weak")) == {"audio": "text"}
    assert givers_of(job, RtfOptions(receivers="all", giver="audio")) == {
        "image": "audio",
        "audio": "text",
        "text": "audio",
    }
    job = job_of(three, credit=credit, weak=("audio", "text"))
    assert givers_of(job, RtfOptions(receivers="weak")) == {"audio": "text", "text": "image"}
    with pytest.raises(
        ConfigError, match=r"rtf.giver names 'txt' \(did you mean 'text'\?\): known are image, audio, text"
    ):
        givers_of(job, RtfOptions(giver="txt"))


@pytest.mark.parametrize("score", ["energy", "std", "magnitude", "spectral"])
@pytest.mark.parametrize("layout", ["vectors", "tokens", "maps"])
@pytest.mark.parametrize("proportion", [0.34, 1.0])
def test_the_weakest_by_the_score_receive(layout: str, score: str, proportion: float) -> None:
    shapes = LAYOUTS[layout]
    job = job_of(shapes, score=score, proportion=proportion, select="dataset")
    scores = {}
    for m, encoder in job.adapter.model.encoders.items():
        x = encoder(job.at.train.inputs[m]).detach()
        x = x.permute(0, 2, 3, 1).flatten(1, 2) if x.ndim == 4 else x
        scores[m] = channel_scores(x, score)
    for strongest in (False, True):
        pairing = "strongest" if strongest else "same"
        twin = job_of(shapes, score=score, proportion=proportion, pairing=pairing, select="dataset")
        _, made = inserted(twin)
        for m, e in made.items():
            k = int(proportion * 6)
            assert e.receiving.tolist() == scores[m].argsort()[:k].tolist()
            other = scores[e.giver].argsort(descending=True)[:k].tolist()
            assert e.source.tolist() == (other if strongest else e.receiving.tolist())


@pytest.mark.parametrize("score", ["energy", "std"])
def test_38_of_128_channels_are_blended_in_each_example(score: str) -> None:
    """The rule behind the features that the authors published: the lowest deviation over an example's tokens."""
    job = job_of({"image": (5, 128), "audio": (5, 128)}, score=score)
    tokens = {m: e(job.at.train.inputs[m]).detach() for m, e in job.adapter.model.encoders.items()}
    _, made = inserted(job)
    for m, e in made.items():
        blended = e(tokens[m], tokens[e.giver])
        changed = ((blended - tokens[m]).abs() > 1e-7).any(1)
        assert torch.equal(changed.sum(1), torch.full((len(changed),), 38))
        assert len(changed.unique(dim=0)) > 10  # other channels in other examples
        for row, x in zip(changed, tokens[m].numpy(), strict=True):
            assert set(row.nonzero()[:, 0].tolist()) == set(np.argsort(x.std(0))[:38].tolist())


def test_channels_that_move_alike_are_taken_by_number_in_each_example_too() -> None:
    x = torch.zeros(2, 4, 6)
    x[0, :, 3] = torch.arange(4.0)
    _, made = inserted(job_of(LAYOUTS["tokens"], proportion=0.5))
    marked = made["image"].chosen(x)
    assert marked[:, 0].tolist() == [[1, 1, 1, 0, 0, 0]] * 2


@pytest.mark.parametrize(
    ("layout", "options", "words"),
    [
        ("vectors", {}, "one vector an example"),
        ("tokens", {"score": "magnitude"}, "rtf.score magnitude"),
        ("tokens", {"pairing": "strongest"}, "rtf.pairing strongest"),
    ],
)
def test_what_cannot_be_chosen_in_each_example_is_refused_or_chosen_once(
    layout: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        inserted(job_of(LAYOUTS[layout], select="example", **options))
    _, made = inserted(job_of(LAYOUTS[layout], **options))
    assert all(e.each is None for e in made.values())


def test_with_a_mask_channels_are_chosen_once() -> None:
    """What is inserted does not know which tokens are padding."""
    found = []
    for select in ("auto", "example"):
        job = job_of(LAYOUTS["tokens"], select=select)
        job.at.train.inputs["keep"] = torch.ones(len(job.at.train), 4)
        sections = {m: s.model_copy(update={"mask": "keep"}) for m, s in job.adapter.config.modalities.items()}
        job.adapter.config = job.adapter.config.model_copy(update={"modalities": sections})
        try:
            found.append([e.each for e in inserted(job)[1].values()])
        except ConfigError as e:
            found.append(str(e))
    assert found[0] == [None, None]
    assert "has a mask" in found[1]


@pytest.mark.parametrize("layout", ["vectors", "tokens", "maps"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_gradient_score_is_autograds_example_by_example(layout: str, task: str) -> None:
    job = job_of(LAYOUTS[layout], task=task)
    found = scores_of(job, features_of(job), "gradient")
    model = job.adapter.model
    for m in job.adapter.modalities:
        total = torch.zeros(6, dtype=torch.float64)
        for i in range(len(job.at.fit)):
            held: list[Tensor] = []

            def keep(_m: Any, _a: Any, out: Tensor, held: list[Tensor] = held) -> Tensor:
                held.append(out.detach().requires_grad_())
                return held[0]

            handle = model.encoders[m].register_forward_hook(keep)
            outputs = model(**job.batch(torch.tensor([i])))
            handle.remove()
            y = job.at.train.targets[i : i + 1]
            loss = (
                F.cross_entropy(outputs, y) if task == "classification" else job.adapter.task.training_loss(outputs, y)
            )
            (g,) = torch.autograd.grad(loss, held)
            each = (g * held[0]).detach().abs().double()
            each = each.mean((2, 3)) if each.ndim == 4 else each.mean(1) if each.ndim == 3 else each
            total += each[0]
        np.testing.assert_allclose(found[m].numpy(), (total / len(job.at.fit)).numpy(), rtol=1e-4, atol=1e-9)
    _, made = inserted(job_of(LAYOUTS[layout], task=task, score="gradient"))
    assert made["audio"].receiving.tolist() == [int(found["audio"].argmin())]


def test_the_gradient_score_is_of_the_part_the_model_reads() -> None:
    """An encoder that gives two floating tensors, of which the second is its features."""

    class Two(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Any:
            return {"extra": x.sum(1, keepdim=True), "features": self.inner(x)}

    class Reads(Shaped):
        def forward(self, **x: Tensor) -> Tensor:
            parts = [self.encoders["image"](x["image"]), self.encoders["audio"](x["audio"])["features"]]
            return self.head(self.fusion(torch.cat(parts, 1)))

    plain, reads = shaped(VECTORS), Reads(VECTORS)
    reads.load_state_dict(plain.state_dict())
    reads.encoders["audio"] = Two(reads.encoders["audio"])
    given = job_of(score="gradient", proportion=0.5)
    config = given.adapter.config.model_dump()
    config["modalities"]["audio"]["select"] = "features"
    splits = {s: {**f.inputs, "label": f.targets} for s, f in (("train", given.at.train), ("val", given.at.held))}
    config = {k: config[k] for k in ("modalities", "fusion", "head")} | {"data": {"path": "unused.npz"}}
    adapter = adapt(reads, config, splits)
    extract(adapter, "train")
    other = replace(given, adapter=adapter, findings=[])
    expected = scores_of(given, features_of(given), "gradient")
    found = scores_of(other, features_of(other), "gradient")
    for m in expected:
        torch.testing.assert_close(found[m], expected[m])
    _, made = inserted(given)
    _, again = inserted(other)
    assert again["audio"].receiving.tolist() == made["audio"].receiving.tolist()
    rows = torch.arange(5)
    torch.testing.assert_close(other.run(Step(rows, 1)).outputs, given.run(Step(rows, 1)).outputs)


def test_padding_does_not_choose_channels() -> None:
    """Tokens that the mask leaves out: another content of theirs, the same channels and figures."""
    shapes = {"image": (4, 6), "audio": (4, 6)}
    found = []
    for junk in (0.0, 50.0):
        job = job_of(shapes)
        keep = (torch.arange(4) < torch.arange(40)[:, None] % 4 + 1).float()
        job.at.train.inputs["keep"] = keep
        sections = {m: s.model_copy(update={"mask": "keep"}) for m, s in job.adapter.config.modalities.items()}
        job.adapter.config = job.adapter.config.model_copy(update={"modalities": sections})
        x = {m: f + junk * (1 - keep[..., None]) for m, f in features_of(job).items()}
        found.append([scores_of(job, x, how) for how in ("energy", "spectral", "std", "magnitude")])
        found[-1].append({m: pooled(job, m, x[m]) for m in x})
    for a, b in zip(*found, strict=True):
        for m in a:
            torch.testing.assert_close(a[m], b[m], rtol=1e-4, atol=1e-5)


def test_one_token_is_a_vector_and_flattened_tokens_are_their_mean() -> None:
    """A token has no spread of its own; channels are counted once, however the config pools."""
    job = job_of({"image": (4, 6), "audio": (4, 6)})
    x = features_of(job)["image"]
    found = scores_of(job, {"image": x[:, :1]}, "std")["image"]
    torch.testing.assert_close(found, channel_scores(x[:, 0], "std"))
    sections = {m: s.model_copy(update={"pool": "flatten"}) for m, s in job.adapter.config.modalities.items()}
    job.adapter.config = job.adapter.config.model_copy(update={"modalities": sections})
    torch.testing.assert_close(pooled(job, "image", x), x.mean(1).double())


def test_random_channels_follow_the_seed() -> None:
    wide = {"image": (40,), "audio": (40,)}
    made = [inserted(job_of(wide, score="random", seed=seed))[1] for seed in (0, 0, 1)]
    chosen = [{m: e.receiving.tolist() for m, e in each.items()} for each in made]
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]
    assert chosen[0]["image"] != chosen[0]["audio"]


def test_a_dead_encoder_receives_all_the_same(tmp_path: Path) -> None:
    model = shaped(VECTORS)
    nn.init.zeros_(model.encoders["audio"][0].weight)
    job = job_of(model=model, proportion=0.5)
    run(job, tmp_path, registry.get_repair("rtf").stages(job))
    assert exchanges(job)["audio"].receiving.tolist() == [0, 1, 2]
    early = finding(job, "erank_before", "audio")
    assert early.skipped is not None
    assert "constant" in early.skipped
    assert finding(job, "harmonic_mean", "image", "audio").skipped == f"audio: {early.skipped}"


def test_where_widths_differ_the_map_begins_as_directions_of_the_giver() -> None:
    """Of norm 1, at right angles where the giver has as many; another seed, others."""
    _, made = inserted(job_of(LAYOUTS["widths"]))
    _, again = inserted(job_of(LAYOUTS["widths"]))
    _, other = inserted(job_of(LAYOUTS["widths"], seed=1))
    narrow, wide = (made[m].project.weight.detach() for m in ("audio", "image"))
    torch.testing.assert_close(narrow @ narrow.T, torch.eye(5))
    assert wide.shape == (8, 5)
    torch.testing.assert_close(wide.norm(dim=1), torch.ones(8))
    for m, e in made.items():
        assert torch.equal(e.project.weight, again[m].project.weight)
        assert not torch.allclose(e.project.weight, other[m].project.weight)
        assert not bool(e.project.bias.any())


# ---- symmetry, export, what others see


@pytest.mark.parametrize(
    ("layout", "score"), [("vectors", "random"), ("tokens", "spectral"), ("other-tokens", "gradient")]
)
def test_swapped_modalities_swap_the_results(tmp_path: Path, layout: str, score: str) -> None:
    """Once under other names, once in the other order: the same repair."""
    shapes, names = LAYOUTS[layout], {"image": "audio", "audio": "image"}
    arrays = make_arrays(dict.fromkeys(shapes, 5), sizes=SIZES)
    renamed_arrays = {"/".join([s, names.get(n, n)]): v for k, v in arrays.items() for s, n in [k.split("/")]}
    renamed = shaped(shapes)
    renamed.encoders = nn.ModuleDict({names[m]: e for m, e in renamed.encoders.items()})
    credit = {"image": 2.0, "audio": 1.0}
    same: dict[str, Any] = {"score": score, "epochs": 1}
    jobs = [
        job_of(shapes, arrays=arrays, credit=credit, **same),
        job_of(
            {names[m]: s for m, s in shapes.items()},
            model=renamed,
            arrays=renamed_arrays,
            credit={names[m]: c for m, c in credit.items()},
            weak=("image",),
            **same,
        ),
        job_of(dict(reversed(shapes.items())), model=shaped(shapes), arrays=arrays, credit=credit, **same),
    ]
    for i, job in enumerate(jobs):
        run(job, tmp_path / str(i), registry.get_repair("rtf").stages(job))
    first = told(jobs[0])
    assert {(name, names[m], None if v is None else names[v]): r for (name, m, v), r in told(jobs[1]).items()} == first
    assert told(jobs[2]) == first
    swapped = {
        k.replace("image", "*").replace("audio", "image").replace("*", "audio"): v for k, v in state(jobs[1]).items()
    }
    assert differing(swapped, state(jobs[0])) == set()
    assert differing(state(jobs[2]), state(jobs[0])) == set()
    assert len({value for (name, _, _), (value, _) in first.items() if name == "rtf.erank_after"}) == 2


def told(job: Job) -> dict[Any, Any]:
    return {(r.name, r.modality, r.versus): (r.value, r.skipped) for r in job.findings}


@pytest.mark.parametrize("layout", ["vectors", "three", "other-tokens", "maps"])
def test_the_exported_structure_and_weights_are_the_repaired_model(tmp_path: Path, layout: str) -> None:
    job = job_of(LAYOUTS[layout], receivers="weak" if layout == "three" else "all")
    run(job, tmp_path, registry.get_repair("rtf").stages(job))
    structure = job.adapter.config.structure
    checked = TypeAdapter(tuple[Insert, ...]).validate_python(structure)
    assert [r.model_dump() for r in checked] == list(structure)
    model, batch = job.adapter.model.eval(), job.batch(torch.arange(9))
    saved = load_file(export_weights(model, tmp_path))
    fresh = inserts.insert(shaped(LAYOUTS[layout], seed=9), [r.model_dump() for r in checked]).eval()
    fresh.load_state_dict(saved)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        expected = model(**batch)
        assert torch.equal(fresh(**batch), expected)
        assert torch.equal(twin(**batch), expected)
        for p in twin.parameters():
            p.add_(0.5)
        assert not torch.equal(twin(**batch), expected)
        assert torch.equal(model(**batch), expected)
    assert inserts.junction_of(twin, "exchange") is not inserts.junction_of(model, "exchange")


@pytest.mark.parametrize(
    "change",
    [{"to": (0, 0)}, {"to": (0, 6)}, {"source": (1,)}, {"source": (1, -1)}, {"blend": 1.0}, {"giver": "audio"}],
    ids=str,
)
def test_records_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    record = {
        "modality": "audio",
        "giver": "image",
        "features": 6,
        "given": 6,
        "to": (0, 1),
        "source": (2, 3),
        "blend": 0.5,
    }
    ChannelExchange(record, ["image"])
    with pytest.raises(ValueError, match="audio cannot get channels"):
        ChannelExchange({**record, **change}, ["image"])


def test_a_blend_is_of_the_receivers_precision() -> None:
    record = {
        "modality": "audio",
        "giver": "image",
        "features": 6,
        "given": 6,
        "to": (0,),
        "source": (2,),
        "blend": 0.5,
    }
    own, other = torch.randn(3, 6).bfloat16(), torch.randn(3, 6)
    assert ChannelExchange(record, ["image"])(own, other).dtype == torch.bfloat16


def test_the_adapter_still_records_features_before_the_exchange(tmp_path: Path) -> None:
    job = job_of(LAYOUTS["other-tokens"])
    run(job, tmp_path, registry.get_repair("rtf").stages(job))
    spread_alpha(job)
    adapter, model = job.adapter, job.adapter.model.eval()
    features = extract(adapter, "val")
    for m in adapter.modalities:
        expected = model.encoders[m].encoder(features.inputs[m]).mean(1)
        torch.testing.assert_close(features.pooled[m], expected.detach())
    with torch.no_grad():
        torch.testing.assert_close(features.outputs, model(**{m: features.inputs[m] for m in adapter.modalities}))
    other = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    for m in adapter.modalities:  # another example's modality brings its channels along
        inputs = {k: v[other] if k == m else v for k, v in features.inputs.items()}
        with torch.no_grad():
            expected = model(**{k: inputs[k] for k in adapter.modalities})
        torch.testing.assert_close(predict(adapter, features, swap={m: other}).outputs, expected)


def test_a_repaired_model_can_be_diagnosed(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, sizes={"train": 60, "val": 40, "test": 40}, steps=20)
    adapter = ModuleAdapter(check_config(problem.config, base=tmp_path), model=problem.model)
    job = make_job(method="rtf")
    features = {split: extract(adapter, split) for split in ("train", "val")}
    at = replace(job.at, train=features["train"], held=features["val"], fit=torch.arange(60), choose=torch.arange(40))
    job = replace(job, adapter=adapter, at=at)
    run(job, tmp_path, registry.get_repair("rtf").stages(job))
    report = diagnose(
        model=adapter.model, config=adapter.config, profile="quick", probes=("utilisation", "spectrum"), split="val"
    )
    assert set(report.modalities) == {"image", "audio"}
    with torch.no_grad():
        own = adapter.model.encoders["audio"].encoder(features["val"].inputs["audio"]).double().numpy()
    sigma = np.linalg.svd(own - own.mean(0), compute_uv=False)
    found = report.find("spectrum.effective_rank", "audio")
    assert found is not None
    assert found.value == pytest.approx(math.exp(entropy(sigma)), rel=1e-5)


# ---- what is noted down


def finding(job: Job, name: str, modality: str, versus: str | None = None) -> Any:
    (found,) = [r for r in job.findings if (r.name, r.modality, r.versus) == (f"rtf.{name}", modality, versus)]
    return found


def rank(x: np.ndarray) -> float:
    return math.exp(entropy(np.linalg.svd(x - x.mean(0), compute_uv=False)))


@pytest.mark.parametrize(
    ("layout", "blend"), [("vectors", 0.3), ("vectors", 1e-3), ("three", 0.3), ("other-tokens", 0.3), ("maps", 0.3)]
)
def test_the_findings_are_numpys(tmp_path: Path, layout: str, blend: float) -> None:
    """Ranks before, after and without the exchange; the gap, the change and the novelty at k = ⌊rank⌋."""
    job = job_of(LAYOUTS[layout], receivers="weak" if layout == "three" else "all", proportion=0.5, blend=blend)
    early = {m: flat(e, job).copy() for m, e in job.adapter.model.encoders.items()}
    run(job, tmp_path, registry.get_repair("rtf").stages(job))
    own = {m: flat(p.encoder, job) for m, p in job.adapter.model.encoders.items()}
    after = {m: flat(lambda _, m=m: heard(job)[m], job, m) for m in own}
    for m in own:
        assert finding(job, "erank_before", m).value == pytest.approx(rank(early[m]), rel=1e-5)
        assert finding(job, "erank_after", m).value == pytest.approx(rank(after[m]), rel=1e-5)
    receivers = [m for m, e in exchanges(job).items() if len(e.receiving)]
    assert len([r for r in job.findings if r.name == "rtf.novelty"]) == len(receivers)
    for m in receivers:
        made = exchanges(job)[m]
        u, sigma, _ = np.linalg.svd(own[m] - own[m].mean(0), full_matrices=False)
        k = math.floor(rank(own[m]))
        gap = sigma[k - 1] - (sigma[k] if k < len(sigma) else 0)
        change = after[m] - own[m]
        alpha = made.alpha().detach().double().numpy()
        to = made.receiving.numpy()
        given = own[m][:, to] + change[:, to] / alpha  # solved for what was blended in
        if made.each is not None:
            given = given_to(job, m)
        given = given - given.mean(0)
        outside = given - u[:, :k] @ (u[:, :k].T @ given)
        novelty = np.linalg.norm(outside, axis=0) / np.linalg.norm(given, axis=0)
        assert finding(job, "erank_own", m, made.giver).value == pytest.approx(rank(own[m]), rel=1e-5)
        assert finding(job, "sigma_gap", m, made.giver).value == pytest.approx(gap, rel=1e-3)
        assert finding(job, "relative_gap", m, made.giver).value == pytest.approx(gap / sigma[0], rel=1e-3)
        norm = np.linalg.norm(change - change.mean(0), 2)
        assert finding(job, "perturbation", m, made.giver).value == pytest.approx(norm / gap, rel=1e-3)
        found = finding(job, "novelty", m, made.giver)
        assert found.value == pytest.approx(novelty.mean(), rel=1e-3)
        each = np.linalg.norm(change[:, to] - change[:, to].mean(0), axis=0)
        assert f"k = {k}; alone, {int((2 * each < gap).sum())} of {len(to)} channels change" in found.note
        assert ("for all at once the gap condition holds" in found.note) == bool(2 * norm < gap)
        assert f"({rank(after[m]) - rank(own[m]):+.3g})" in found.note
        assert ("not raise" in found.note) == bool(rank(after[m]) <= rank(own[m]))
        assert finding(job, "blend", m, made.giver).value == pytest.approx(alpha.mean(), rel=1e-5)
        gains = [rank(after[o]) - rank(early[o]) for o in (m, made.giver)]
        expected = hmean(gains) if min(gains) > 0 else 0.0
        assert finding(job, "harmonic_mean", m, made.giver).value == pytest.approx(expected, rel=1e-3, abs=1e-9)


def given_to(job: Job, modality: str) -> np.ndarray:
    """What another modality offers each channel of this one, as means over positions."""
    posts = job.adapter.model.encoders
    made = posts[modality].insert
    with torch.no_grad():
        own, other = (posts[m].features_in(posts[m].encoder(job.at.train.inputs[m])) for m in (modality, made.giver))
        return made.given(own, other).flatten(1, -2).mean(1).double().numpy()


def flat(encoder: Any, job: Job, modality: str | None = None) -> np.ndarray:
    """What an encoder gives the training examples, as means over positions."""
    m = modality or next(
        m for m, e in job.adapter.model.encoders.items() if encoder in (e, getattr(e, "encoder", None))
    )
    with torch.no_grad():
        x = encoder(job.at.train.inputs[m]).double()
    return (x if x.ndim == 2 else x.mean(1) if x.ndim == 3 else x.mean((2, 3))).numpy()


def heard(job: Job) -> dict[str, Tensor]:
    """What reaches the rest of the model from each encoder."""
    out: dict[str, Tensor] = {}
    handles = [
        post.register_forward_hook(lambda _m, _a, output, m=m: out.__setitem__(m, output))
        for m, post in job.adapter.model.encoders.items()
    ]
    with torch.no_grad():
        job.adapter.model(**job.batch(job.at.fit))
    for handle in handles:
        handle.remove()
    return out


def test_few_examples_have_no_ranks(tmp_path: Path) -> None:
    job = job_of({"image": (24,), "audio": (24,)})
    run(job, tmp_path, registry.get_repair("rtf").stages(job))
    names = {r.name for r in job.findings if r.skipped == "needs at least 2·d = 48 examples for 24 features, found 40"}
    assert names == {f"rtf.{n}" for n in ("erank_before", "erank_after", *rtf.CONDITIONS)}
    assert finding(job, "blend", "audio", "image").value is not None


# ---- resuming, refusing


def test_interrupted_and_resumed_the_repair_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After fine-tuning, as in a chain: Ctrl-C in the k-th step of the exchange."""
    monkeypatch.setattr(loop, "ROUND", 1)
    shapes = {"image": (4, 6), "audio": (3, 7), "text": (6,)}

    def attempt(folder: Path, stop: int | None) -> Any:
        job = job_of(shapes, epochs=1, receivers="weak", weak=("audio", "text"), score="gradient")
        run(replace(job, options=options_of("finetune")), folder / "first")
        run(job, folder, interrupted(registry.get_repair("rtf").stages(job), stop))
        return state(job), told(job)

    expected, findings = attempt(tmp_path / "whole", None)
    for stop in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            attempt(tmp_path / str(stop), stop)
        again, found = attempt(tmp_path / str(stop), None)
        assert differing(again, expected) == set()
        assert found == findings


def interrupted(stages: Any, stop: int | None) -> Any:
    """The stages, their loss stopping at its ``stop``-th call; what comes behind them still runs."""
    for stage in stages:
        calls, good = 0, stage.loss

        def loss(step: Step, good: Any = good) -> Tensor:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise KeyboardInterrupt
            return good(step)

        stage.loss = loss
        yield stage


class Parts(EncodeFuseHeadAdapter):
    """Calls the model's parts rather than the model."""

    def encode(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {m: e(batch[m]) for m, e in self.model.encoders.items()}

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        return self.model.fusion(torch.cat([features[m] for m in self.modalities], 1))

    def head(self, fused: Tensor) -> Tensor:
        return self.model.head(fused)


def test_what_cannot_be_exchanged_is_refused(tmp_path: Path) -> None:
    def refused(job: Job, words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            inserted(job)

    job = job_of()
    inserted(job)
    refused(job, "has exchanged channels already")

    job = job_of()
    python = Parts(job.adapter.config, model=job.adapter.model, source=job.adapter.source)
    refused(replace(job, adapter=python), "has to call the model, not its parts")

    job = job_of()
    sections = dict(job.adapter.config.modalities)
    sections["audio"] = sections["audio"].model_copy(update={"encoder": "fusion:input"})
    job.adapter.config = job.adapter.config.model_copy(update={"modalities": sections})
    refused(job, "modality 'audio' names none that is a submodule of its own")

    job = job_of()
    tap = job.adapter.taps["audio"]  # type: ignore[attr-defined]
    tap.shape = replace(tap.shape, axes=[1])
    refused(job, "first axis is not the example")

    class Scalar(Shaped):
        def forward(self, **x: Tensor) -> Tensor:
            parts = [self.encoders["image"](x["image"]), self.encoders["audio"](x["audio"])[:, None].expand(-1, 6)]
            return self.head(self.fusion(torch.cat(parts, 1)))

    model = Scalar(VECTORS)
    model.encoders["audio"] = nn.Sequential(nn.Linear(5, 1), nn.Flatten(0))
    refused(job_of(model=model), "'audio' gives one number an example, which has no channels")


@pytest.mark.parametrize(
    "options", [{"proportion": 0}, {"proportion": 1.1}, {"blend": 0}, {"blend": 1}, {"score": "x"}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        RtfOptions(**options)
