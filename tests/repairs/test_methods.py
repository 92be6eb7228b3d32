"""Each repair: what it trains, with what loss, and what it leaves alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from collapsekit import registry
from collapsekit.errors import ConfigError
from collapsekit.repairs.ingredients import masking as missing
from collapsekit.repairs.ingredients.masking import drawn
from collapsekit.repairs.methods import kd
from collapsekit.repairs.methods.dropout import DropoutOptions, drop_rates
from collapsekit.repairs.methods.kd import Contrast, KdOptions
from collapsekit.repairs.training.job import Job, Step
from tests.problems import Late, make_arrays
from tests.repairs.making import WIDTHS, build, differing, make_job, make_model, run, state

THREE = {"image": 5, "audio": 4, "text": 3}


def stages(job: Job, method: str) -> list[Any]:
    return list(registry.get_repair(method).stages(job))


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
@pytest.mark.parametrize("method", ["finetune", "dropout", "kd"])
def test_an_undertrained_model_gets_better(tmp_path: Path, method: str, task: str) -> None:
    job = make_job(method=method, task=task, epochs=6, steps=None)
    before, weights = job.held_loss(), state(job)
    curves = run(job, tmp_path, method=method)
    assert job.held_loss() < before - 0.1
    for curve in curves:
        assert curve.held[curve.kept] == pytest.approx(min(curve.held), abs=2e-4)
        assert curve.held[curve.kept] < curve.held[0]
    assert differing(weights, state(job)) == set(weights)


def test_finetunes_loss_and_weights() -> None:
    job = make_job()
    (stage,) = stages(job, "finetune")
    rows = torch.tensor([4, 1, 7])
    outputs = job.adapter.model(**{k: v[rows] for k, v in job.at.train.inputs.items()})
    assert torch.equal(stage.loss(Step(rows, 1)), nn.functional.cross_entropy(outputs, job.at.train.targets[rows]))
    assert {id(p) for p in stage.parameters} == {id(p) for p in job.adapter.model.parameters()}
    still = make_job(freeze=("head",))
    (stage,) = stages(still, "finetune")
    assert {id(p) for p in stage.parameters}.isdisjoint(map(id, still.adapter.model.head.parameters()))


# ---- modality dropout


@pytest.mark.parametrize("rates", [(0.3, 0.3), (0.9, 0.9), (0.5, 0.05, 0.7), (0.9, 0.9, 0.9, 0.9)], ids=str)
def test_never_all_modalities_and_at_the_rates_asked(rates: tuple[float, ...]) -> None:
    """Of examples that would lose all, one modality stays, each as often."""
    n, k = 40_000, len(rates)
    torch.manual_seed(0)
    gone = drawn(torch.tensor(rates), n)
    assert gone.shape == (n, k)
    assert not bool(gone.all(1).any())
    for found, rate in zip(gone.double().mean(0).tolist(), rates, strict=True):
        expected = rate - math.prod(rates) / k
        assert abs(found - expected) < 4.5 * math.sqrt(expected * (1 - expected) / n)
    both = (gone[:, 0] & gone[:, 1]).double().mean()  # modalities are dropped independently of one another
    share = rates[0] * rates[1] - math.prod(rates) * (2 / k if k > 1 else 1)
    assert abs(float(both) - share) < 4.5 * math.sqrt(max(share * (1 - share), 1e-9) / n) + 1e-12


def test_rates_by_credit_are_proportional_and_of_the_same_mean() -> None:
    job = make_job(widths=THREE, credit={"image": 0.6, "audio": 0.3, "text": 0.1})
    assert drop_rates(job, DropoutOptions(rate=0.2)) == [0.2] * 3
    rates = drop_rates(job, DropoutOptions(rate=0.2, by_credit=True))
    assert rates == pytest.approx([0.36, 0.18, 0.06])
    assert sum(rates) / 3 == pytest.approx(0.2)
    assert drop_rates(job, DropoutOptions(rate=0.7, by_credit=True)) == pytest.approx([0.9, 0.63, 0.21])  # at most 0.9
    for credit, expected in [
        ({"image": 0.5, "audio": -0.2, "text": 0.5}, [0.3, 0.0, 0.3]),
        ({"image": -0.1, "audio": 0.0, "text": 0.0}, [0.2] * 3),  # nobody earns anything
    ]:
        job = make_job(widths=THREE, credit=credit)
        assert drop_rates(job, DropoutOptions(rate=0.2, by_credit=True)) == pytest.approx(expected)


@pytest.mark.parametrize("fill", ["zeros", "other"])
def test_dropped_rows_reach_the_fusion_as_zeros_or_as_another_row(monkeypatch: pytest.MonkeyPatch, fill: str) -> None:
    """Dropped rows are zeros, or the row before; all others arrive bit for bit."""
    job = make_job(method="dropout", options={"fill": fill})
    stage, _ = stages(job, "dropout")
    rows = torch.tensor([3, 8, 1, 20, 11])
    gone = torch.tensor([[1, 0], [0, 1], [0, 0], [1, 0], [0, 1]]).bool()
    monkeypatch.setattr(missing, "drawn", lambda *_: gone)
    arrived: list[Tensor] = []
    job.adapter.model.fusion.register_forward_pre_hook(lambda _, args: arrived.append(args[0].detach().clone()))
    loss = stage.loss(Step(rows, 1))
    parts = []
    for i, (m, encoder) in enumerate(job.adapter.model.encoders.items()):
        features = encoder(job.at.train.inputs[m][rows]).detach()
        other = torch.zeros_like(features) if fill == "zeros" else features[torch.tensor([4, 0, 1, 2, 3])]
        parts.append(torch.where(gone[:, i : i + 1], other, features))
    assert torch.equal(arrived[0], torch.cat(parts, 1))
    outputs = job.adapter.model.head(job.adapter.model.fusion(torch.cat(parts, 1)))
    assert torch.equal(loss, nn.functional.cross_entropy(outputs, job.at.train.targets[rows]))


@pytest.mark.parametrize("fill", ["zeros", "other"])
def test_dropped_rows_teach_their_encoder_nothing(monkeypatch: pytest.MonkeyPatch, fill: str) -> None:
    job = make_job(method="dropout", options={"fill": fill})
    stage, _ = stages(job, "dropout")
    monkeypatch.setattr(missing, "drawn", lambda _, n: torch.tensor([[True, False]]).expand(n, 2))
    stage.loss(Step(torch.arange(9), 1)).backward()
    image, audio = (job.adapter.model.encoders[m].weight.grad for m in ("image", "audio"))
    assert image is None or not bool(image.any())
    assert bool(audio.any())


def test_the_held_out_loss_is_that_of_dropped_modalities(tmp_path: Path) -> None:
    """By the same draws each time it is asked under the same seed, and other than with everything there."""
    job = make_job(method="dropout", options={"rate": 0.8})
    stage, _ = stages(job, "dropout")
    torch.manual_seed(3)
    first = stage.held()
    torch.manual_seed(3)
    assert stage.held() == first
    assert abs(first - job.held_loss()) > 1e-3
    curve, _ = run(job, tmp_path, method="dropout")
    assert curve.held[0] != pytest.approx(make_job().held_loss(), abs=1e-6)


# ---- distillation


STRONG = ("a", "b", "c")  # from the weakest to the strongest


def test_the_five_orders() -> None:
    assert kd.sequence(STRONG, "weakest-to-strongest", 0) == [("a",), ("b",), ("c",)]
    assert kd.sequence(STRONG, "strongest-to-weakest", 0) == [("c",), ("b",), ("a",)]
    assert kd.sequence(STRONG, "strongest", 0) == [("c",)]
    assert kd.sequence(STRONG, "simultaneous", 0) == [STRONG]
    drawn_ = [tuple(kd.sequence(STRONG, "random", seed)) for seed in range(60)]
    assert drawn_ == [tuple(kd.sequence(STRONG, "random", seed)) for seed in range(60)]
    assert all(sorted(order) == [("a",), ("b",), ("c",)] for order in drawn_)
    assert len(set(drawn_)) == 6
    for how in ("weakest-to-strongest", "strongest-to-weakest", "strongest", "random", "simultaneous"):
        assert kd.sequence((), how, 0) == []


@pytest.mark.parametrize(
    ("how", "names"),
    [
        ("weakest-to-strongest", ["text into audio", "image into audio"]),
        ("strongest-to-weakest", ["image into audio", "text into audio"]),
        ("strongest", ["image into audio"]),
        ("simultaneous", ["text and image into audio"]),
    ],
)
def test_stages_follow_the_sequence(tmp_path: Path, how: str, names: list[str]) -> None:
    job = make_job(
        widths=THREE,
        credit={"image": 0.5, "audio": 0.0, "text": 0.1},
        method="kd",
        options={"sequence": how},
        epochs=1,
    )
    curves = run(job, tmp_path, method="kd")
    assert [c.stage for c in curves] == [*(f"distilling {n}" for n in names), "training the fusion"]


def test_without_a_teacher_or_an_encoder_it_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"kd distils from modalities that survive, and none does"):
        stages(make_job(weak=("image", "audio"), method="kd"), "kd")
    model = make_model()
    for p in model.encoders["audio"].parameters():
        p.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"'audio' has no encoder of its own with weights to train"):
        stages(make_job(model, method="kd"), "kd")
    with pytest.raises(ConfigError, match=r"'audio' has no encoder"):
        stages(make_job(method="kd", freeze=("encoders.audio",)), "kd")


def distilled(job: Job, folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state before and after the first stage of kd."""
    before = state(job)
    run(job, folder, [next(iter(registry.get_repair("kd").stages(job)))], method="kd")
    return before, state(job)


@pytest.mark.parametrize("weak", ["audio", "image"])
@pytest.mark.parametrize("how", ["weakest-to-strongest", "simultaneous"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_distilling_changes_the_students_encoder_alone(tmp_path: Path, weak: str, how: str, task: str) -> None:
    """Parameters, and what batch norm keeps; swap student and teacher, and it goes the other way."""
    job = make_job(
        make_model(THREE, lively=True),
        widths=THREE,
        weak=(weak,),
        task=task,
        method="kd",
        options={"sequence": how},
    )
    before, after = distilled(job, tmp_path)
    assert differing(before, after) == {k for k in before if k.startswith(f"encoders.{weak}.")}


def test_names_do_not_matter_to_distilling(tmp_path: Path) -> None:
    """The same encoders under each other's name, and the other name to repair: the same weights."""
    widths = {"left": 4, "right": 4}
    arrays = make_arrays(widths, sizes={"train": 40, "val": 24})
    other = {"left": "right", "right": "left"}
    swapped = {f"{(p := k.split('/'))[0]}/{other.get(p[1], p[1])}": v for k, v in arrays.items()}
    model, twin = Late(widths), Late(widths)
    for m in widths:
        twin.encoders[other[m]].load_state_dict(model.encoders[m].state_dict())
    a = make_job(model, widths=widths, arrays=arrays, weak=("left",), method="kd")
    b = make_job(twin, widths=widths, arrays=swapped, weak=("right",), method="kd")
    assert torch.equal(a.at.train.targets, b.at.train.targets)
    before, after = distilled(a, tmp_path / "a")
    _, mirrored = distilled(b, tmp_path / "b")
    for part in ("weight", "bias"):
        assert torch.equal(after[f"encoders.left.{part}"], mirrored[f"encoders.right.{part}"])
        assert not torch.equal(after[f"encoders.left.{part}"], before[f"encoders.left.{part}"])


def test_the_fusion_is_trained_last_and_distilled_encoders_can_stay(tmp_path: Path) -> None:
    job = make_job(make_model(lively=True), method="kd", options={"freeze_distilled": True})
    made = iter(registry.get_repair("kd").stages(job))
    run(job, tmp_path / "first", [next(made)])
    before = state(job)
    run(job, tmp_path / "last", [next(made)])
    assert next(made, None) is None
    student = {k for k in before if k.startswith("encoders.audio.")}
    assert differing(before, state(job)) == set(before) - student
    free = make_job(make_model(lively=True), method="kd")
    *_, last = stages(free, "kd")
    assert {id(p) for p in last.parameters} == {id(p) for p in free.adapter.model.parameters()}


def test_the_fusion_is_built_anew(tmp_path: Path) -> None:
    """As the factory makes it under the job's seed, once all encoders are distilled, which keep what they learned."""
    job = make_job(make_model(lively=True), method="kd", seed=4)
    made = iter(registry.get_repair("kd").stages(job))
    run(job, tmp_path, [next(made)])
    distilled_ = state(job)
    next(made)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        new = build(WIDTHS, lively=True).state_dict()
    for name, value in state(job).items():
        assert torch.equal(value, distilled_[name] if name.startswith("encoders.") else new[name]), name
    assert not torch.equal(new["head.weight"], distilled_["head.weight"])


def test_the_fusion_is_kept_where_asked() -> None:
    job = make_job(make_model(lively=True), method="kd", options={"fresh_fusion": False}, factory=False)
    before = state(job)
    assert len(stages(job, "kd")) == 2
    assert differing(before, state(job)) == set()
    with pytest.raises(ConfigError, match=r"the config needs model\.factory"):
        stages(make_job(method="kd", factory=False), "kd")


def test_distilling_brings_the_student_nearer_to_its_teacher(tmp_path: Path) -> None:
    """An encoder of a modality that says the same learns to tell, of all examples, which it was."""
    job = make_job(sizes={"train": 96, "val": 24}, method="kd", options={"weight": 2.0}, epochs=12, steps=None)
    stage = next(iter(registry.get_repair("kd").stages(job)))
    (curve,) = run(job, tmp_path, [stage])
    assert curve.training[-1] < 0.8 * curve.training[1]


# ---- the contrastive loss


def contrast(count: int = 30, targets: Tensor | None = None, **options: Any) -> Contrast:
    torch.manual_seed(1)
    given = torch.arange(count) % 3 if targets is None else targets
    return Contrast(5, 4, given, KdOptions(**{"width": 6, "negatives": 7, "temperature": 0.3, **options}))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum(1, keepdims=True))


def by_definition(
    made: Contrast,
    student: Tensor,
    teacher: Tensor,
    rows: Tensor,
    negatives: Tensor,
    scales: tuple[float, float] | None,
) -> tuple[float, tuple[float, float], list[np.ndarray]]:
    """Loss, scales and both memories afterwards, in float64 and by loops over examples.

    Of Tian et al. 2020, section 3: h = p / (p + k/N), p = exp(score / temperature) / Z, Z the mean of exp(.) times N
    over the first batch; minus log h of the positive and log(1 - h) of each negative.
    """
    wide = {k: v.detach().double().numpy() for k, v in made.state_dict().items()}
    n, k = made.count, negatives.shape[1]
    anchors = [
        unit(x.double().numpy() @ wide[f"project_{who}.weight"].T + wide[f"project_{who}.bias"])
        for who, x in (("student", student), ("teacher", teacher))
    ]
    memories = [wide["memory_student"], wide["memory_teacher"]]
    total, found = 0.0, []
    for side in (0, 1):
        anchor, memory = anchors[side], memories[1 - side]
        raw = np.empty((len(rows), k + 1))
        for i, row in enumerate(rows.tolist()):
            for j, one in enumerate([row, *negatives[i].tolist()]):
                raw[i, j] = math.exp(float(anchor[i] @ memory[one]) / made.options.temperature)
        z = raw.mean() * n if scales is None else scales[side]
        h = (raw / z) / (raw / z + k / n)
        total -= (np.log(h[:, 0]) + np.log(1 - h[:, 1:]).sum(1)).mean()
        found.append(z)
    for memory, anchor in zip(memories, anchors, strict=True):
        for i, row in enumerate(rows.tolist()):
            memory[row] = unit((made.options.momentum * memory[row] + (1 - made.options.momentum) * anchor[i])[None])[0]
    return total, (found[0], found[1]), memories


@pytest.mark.parametrize("dense", [0, 10**9], ids=["gathered", "dense"])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_loss_is_that_of_its_definition(monkeypatch: pytest.MonkeyPatch, dense: int, momentum: float) -> None:
    monkeypatch.setattr(kd, "_DENSE", dense)
    made = contrast(momentum=momentum)
    scales = None
    for batch in range(3):
        g = torch.Generator().manual_seed(batch)
        student, teacher = torch.randn(8, 5, generator=g), torch.randn(8, 4, generator=g)
        rows = torch.randperm(30, generator=g)[:8]
        torch.manual_seed(batch)
        negatives = made._negatives(rows)
        expected, scales, memories = by_definition(made, student, teacher, rows, negatives, scales)
        torch.manual_seed(batch)
        loss = made(student, teacher, rows)
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
        for memory, wanted in zip((made.memory_student, made.memory_teacher), memories, strict=True):
            np.testing.assert_allclose(memory.numpy(), wanted, atol=1e-6)
            np.testing.assert_allclose(memory.norm(dim=1).numpy(), 1.0, atol=1e-6)
        assert made.scale.tolist() == pytest.approx(scales, rel=1e-5)


def test_both_ways_to_compute_it_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients, whether all similarities are computed or only those that are needed."""
    found = []
    for dense in (0, 10**9):
        monkeypatch.setattr(kd, "_DENSE", dense)
        made = contrast()
        student = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
        torch.manual_seed(0)
        loss = made(student, torch.randn(8, 4, generator=torch.Generator().manual_seed(1)), torch.arange(8) * 3)
        loss.backward()
        found.append([loss.detach(), student.grad, *(p.grad for p in made.parameters())])
    for a, b in zip(*found, strict=True):
        assert bool(a.any())
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("labels", ["even", "uneven"])
def test_negatives_are_of_other_classes_each_as_often(labels: str) -> None:
    targets = (
        torch.arange(30) % 3 if labels == "even" else torch.tensor([0] * 3 + [2] * 20 + [5] * 7)[torch.randperm(30)]
    )
    made = contrast(targets=targets, negatives=29)
    rows, counts = torch.arange(30), torch.zeros(30, 30)
    draws = 200
    for _ in range(draws):
        found = made._negatives(rows)
        assert found.shape == (30, 29)
        assert bool((targets[found] != targets[:, None]).all())
        counts.scatter_add_(1, found, torch.ones(30, 29))
    allowed = targets[:, None] != targets[None]
    expected = draws * 29 / allowed.sum(1, keepdim=True).expand(30, 30)
    assert bool(((counts - expected).abs() < 6 * expected.sqrt())[allowed].all())


@pytest.mark.parametrize(
    "targets",
    [torch.rand(30), torch.rand(30, 2), torch.zeros(30, dtype=torch.long)],
    ids=["values", "rows of values", "one class"],
)
def test_without_classes_negatives_are_all_others(targets: Tensor) -> None:
    made = contrast(targets=targets, negatives=100)
    counts = torch.zeros(30, 30)
    for _ in range(200):
        found = made._negatives(torch.arange(30))
        assert found.shape == (30, 29)  # not more than there are others
        counts.scatter_add_(1, found, torch.ones(30, 29))
    assert not bool(counts.diagonal().any())
    assert bool((counts + 200 * torch.eye(30) > 120).all())


def test_the_teacher_learns_nothing_from_the_loss() -> None:
    job = make_job(method="kd")
    stage = stages(job, "kd")[0]
    stage.loss(Step(torch.arange(16), 1)).backward()
    encoders = job.adapter.model.encoders
    assert bool(encoders["audio"].weight.grad.any())
    assert encoders["image"].weight.grad is None
    assert all(p.grad is None for p in job.adapter.model.fusion.parameters())
    assert all(p.grad is not None for p in stage.parameters)


@pytest.mark.parametrize("weight", [0.8, 3.0])
def test_the_losses_are_added_as_weighted(weight: float) -> None:
    """Of a stage with two teachers: the weight times the sum of both contrasts, and the head's loss."""
    job = make_job(make_model(THREE), widths=THREE, method="kd", options={"sequence": "simultaneous", "weight": weight})
    stage, rows = stages(job, "kd")[0], torch.arange(12)
    _, contrasts, head = stage.module
    pooled = {m: e(job.at.train.inputs[m][rows]) for m, e in job.adapter.model.encoders.items()}
    copy = {k: v.clone() for k, v in contrasts.state_dict().items()}
    torch.manual_seed(0)
    parts = [c(pooled["audio"], pooled[t], rows) for c, t in zip(contrasts.values(), ("image", "text"), strict=True)]
    expected = weight * (parts[0] + parts[1]) + nn.functional.cross_entropy(
        head(pooled["audio"]), job.at.train.targets[rows]
    )
    contrasts.load_state_dict(copy)
    torch.manual_seed(0)
    assert float(stage.loss(Step(rows, 1)).detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
