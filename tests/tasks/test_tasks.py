"""Tasks: losses and metrics, what labels they accept, and what a whole diagnosis says of planted cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, log_loss, r2_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from collapsekit.errors import ConfigError, DataError
from collapsekit.registry import task_names
from collapsekit.tasks.base import Task
from collapsekit.tasks.make import make_task
from tests.problems import CHEAP, SIZES, Late, make_problem


def task(name: str, metric: str | None = None, base: Path = Path(), temperature: float = 0.1) -> Task:
    return make_task(name, metric=metric, temperature=temperature, base=base)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


# -- losses and metrics against outside code ------------------------------------------------------------------------


def test_classification_is_cross_entropy() -> None:
    y, out, t = torch.arange(40) % 4, rows(40, 4), task("classification")
    expected = t.expect(out)
    assert float(t.loss(expected, y).mean()) == pytest.approx(log_loss(y, out.double().softmax(1)), rel=1e-9)
    assert float(t.training_loss(out, y)) == pytest.approx(float(t.loss(expected, y).mean()), rel=1e-5)
    assert t.metric(expected, y) == float((out.argmax(1) == y).double().mean())


@pytest.mark.parametrize("shape", [(40, 1), (40,)])
def test_a_single_logit_is_two_classes(shape: tuple[int, ...]) -> None:
    y, out, t = torch.arange(40) % 2, rows(*shape), task("classification")
    p = out.double().reshape(-1).sigmoid()
    expected = t.expect(out)
    assert torch.allclose(expected, torch.stack([1 - p, p], 1))
    assert float(t.loss(expected, y).mean()) == pytest.approx(log_loss(y, p), rel=1e-9)
    assert float(t.training_loss(out, y)) == pytest.approx(log_loss(y, p), rel=1e-5)
    assert torch.equal(t.check(y, out, "test"), y)


def test_multilabel_is_mean_binary_cross_entropy() -> None:
    y, out, t = (rows(50, 3, seed=1) > 0).long(), rows(50, 3), task("multilabel")
    checked, expected = t.check(y, out, "test"), t.expect(out)
    truth = F.binary_cross_entropy_with_logits(out.double(), y.double())
    assert float(t.loss(expected, checked).mean()) == pytest.approx(float(truth), rel=1e-9)
    assert float(t.training_loss(out, checked)) == pytest.approx(float(truth), rel=1e-5)
    assert t.metric(expected, checked) == pytest.approx(roc_auc_score(y, out, average="macro"), rel=1e-9)
    assert t.check(y[:, 0], out[:, :1], "test").shape == (50, 1)


def test_areas_of_classes_are_the_second_s_of_two_and_a_mean_over_more() -> None:
    for width, y in ((1, torch.arange(40) % 3 % 2), (2, torch.arange(40) % 3 % 2), (4, torch.arange(40) % 3)):
        area, precision, f1 = (task("classification", m) for m in ("auroc", "average_precision", "macro_f1"))
        p = area.expect(rows(40, width, seed=2))
        if width == 4:  # nothing is of the fourth class
            truth = F.one_hot(y, 3)
            assert area.metric(p, y) == pytest.approx(roc_auc_score(truth, p[:, :3], average="macro"), abs=1e-12)
            assert precision.metric(p, y) == pytest.approx(average_precision_score(truth, p[:, :3]), abs=1e-12)
        else:
            assert area.metric(p, y) == pytest.approx(roc_auc_score(y, p[:, 1]), abs=1e-12)
            assert precision.metric(p, y) == pytest.approx(average_precision_score(y, p[:, 1]), abs=1e-12)
            assert precision.metric(p, y) != pytest.approx(average_precision_score(1 - y, p[:, 0]), abs=0.01)
        assert f1.metric(p, y) == pytest.approx(f1_score(y, p.argmax(1), average="macro"), abs=1e-12)


def test_metrics_of_labels() -> None:
    y, out = (rows(50, 3, seed=1) > 1).double(), rows(50, 3)
    for name, truth in (
        ("macro_average_precision", average_precision_score(y, out)),
        ("micro_average_precision", average_precision_score(y, out, average="micro")),
        ("macro_f1", f1_score(y, out > 0, average="macro")),
    ):
        t = task("multilabel", name)
        assert t.metric(t.expect(out), y) == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
def test_regression_is_squared_error(outputs: int) -> None:
    y, out, t = rows(50, outputs, seed=1), rows(50, outputs), task("regression")
    flat = y if outputs > 1 else y[:, 0]
    checked, expected = t.check(flat, out, "test"), t.expect(out)
    truth = F.mse_loss(out.double(), y.double())
    assert float(t.loss(expected, checked).mean()) == pytest.approx(float(truth), rel=1e-9)
    assert t.metric(expected, checked) == pytest.approx(r2_score(y.double(), out.double()), rel=1e-9)
    # A model that returns (n,) for labels (n,) is not broadcast to (n, n).
    squeezed = out if outputs > 1 else out[:, 0]
    assert float(t.training_loss(squeezed, checked)) == pytest.approx(float(truth), rel=1e-5)


@pytest.mark.parametrize("n", [1, 2, 64, 100, 200])
def test_contrastive_is_infonce_in_equal_blocks(n: int) -> None:
    out, t = rows(n, 10), task("contrastive")
    expected = t.expect(out)
    a, b = (F.normalize(x.double(), dim=1) for x in out.chunk(2, 1))
    blocks = max(1, round(n / 64))
    truth, hits = [], []
    for x, y in zip(a.tensor_split(blocks), b.tensor_split(blocks), strict=True):
        s, i = x @ y.T / 0.1, torch.arange(len(x))
        truth.append((F.cross_entropy(s, i, reduction="none") + F.cross_entropy(s.T, i, reduction="none")) / 2)
        hits.append((s.argmax(1) == i).double())
    assert torch.allclose(t.loss(expected, torch.zeros(n)), torch.cat(truth))
    assert t.metric(expected, torch.zeros(n)) == float(torch.cat(hits).mean())
    if blocks == 1:
        assert float(t.training_loss(out, torch.zeros(n))) == pytest.approx(
            float(torch.cat(truth).mean()), rel=1e-4, abs=1e-6
        )


@given(st.sampled_from(["classification", "multilabel", "regression"]), st.integers(0, 999))
def test_natural_space_goes_there_and_back(name: str, seed: int) -> None:
    t = task(name)
    expected = t.expect(rows(6, 3, seed=seed))
    assert torch.allclose(t.from_natural(t.to_natural(expected)), expected, atol=1e-9)


@given(st.sampled_from(["classification", "multilabel", "regression"]), st.integers(0, 999))
def test_no_other_constant_beats_the_prior(name: str, seed: int) -> None:
    """The prior is the best constant on its own targets, but for the one pseudo-count a class."""
    t, n = task(name), 400
    g = torch.Generator().manual_seed(seed)
    y = {
        "classification": torch.randint(0, 3, (n,), generator=g),
        "multilabel": (torch.rand(n, 3, generator=g) < 0.3).double(),
        "regression": torch.randn(n, 3, generator=g).double(),
    }[name]
    prior = t.prior(y, 3)
    other = t.from_natural(t.to_natural(prior) + 0.3 * torch.randn(1, 3, generator=g).double())
    loss = [float(t.loss(p.expand(n, -1), y).mean()) for p in (prior, other)]
    assert loss[0] <= loss[1] + 1e-4


# -- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "labels", "width", "says"),
    [
        ("classification", torch.tensor([0, 1, 3]), 3, "label 3 of split 'test' is out of range.*0 to 2"),
        ("classification", torch.tensor([0, -1, 1]), 3, "label -1"),
        ("classification", torch.tensor([0, 2, 1]), 1, "label 2.*the model has 2 outputs|label 2 of split"),
        ("classification", torch.tensor([0.0, 0.5, 1.0]), 3, "fractional.*task: regression"),
        ("classification", torch.zeros(3, 3), 3, "task: multilabel"),
        ("classification", torch.zeros(2), 3, "2 labels for 3 predictions"),
        ("multilabel", torch.zeros(3), 3, r"shape \(3,\)"),
        ("multilabel", torch.full((3, 3), 2), 3, "not all 0 or 1"),
        ("regression", torch.zeros(3, 2), 3, r"output has shape \(3, 3\), its labels \(3, 2\)"),
        ("regression", torch.tensor([0.0, float("inf"), 1.0]), 1, "label of example 1 of split 'test' is infinite"),
    ],
)
def test_labels_that_do_not_fit(name: str, labels: Tensor, width: int, says: str) -> None:
    with pytest.raises(DataError, match=says):
        task(name).check(labels, rows(3, width), "test")


@pytest.mark.parametrize(
    ("name", "shape", "labels", "says"),
    [
        (
            "classification",
            (3, 8, 40),
            torch.zeros(3, 8),
            r"shape \(3, 8, 40\).*a token for each of 8 positions: set `task: tokens`",
        ),
        (
            "classification",
            (3, 4, 5, 6),
            torch.zeros(3, 5, 6),
            "answer for each of 5 × 6 positions: set `task: dense`\\.$",
        ),
        ("classification", (3, 5, 6, 4), torch.zeros(3, 5, 6), "dense`, `task_options: {channels: last}`"),
        ("classification", (3, 8, 40), torch.zeros(3, 8, 40), "task: regression"),
        ("classification", (3, 8, 40), torch.zeros(3, dtype=torch.long), "several answers an example.*pool them"),
        (
            "multilabel",
            (3, 8, 40),
            torch.zeros(3, 8, 40, dtype=torch.long),
            "one answer for each label.*module:function",
        ),
        ("multilabel", (3, 8, 40), torch.zeros(3, 320), "several answers an example"),
        ("contrastive", (3, 3), torch.zeros(3), "two embeddings of equal width"),
        ("contrastive", (3, 5, 4), torch.zeros(3), r"shape \(3, 5, 4\).*two embeddings of equal width"),
    ],
)
def test_outputs_of_shapes_that_no_task_knows(name: str, shape: tuple[int, ...], labels: Tensor, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        task(name).check(labels, torch.zeros(shape), "test")


@pytest.mark.parametrize("name", ["classification", "multilabel"])
def test_rows_of_numbers_are_not_made_of_other_shapes(name: str) -> None:
    for call in (task(name).expect, lambda x: task(name).training_loss(x, torch.zeros(len(x), 320))):
        with pytest.raises(ConfigError, match=r"\(3, 8, 40\)"):
            call(torch.zeros(3, 8, 40))


@pytest.mark.parametrize("extra", [(), (1,), (1, 1)])
def test_axes_of_size_one_say_nothing(extra: tuple[int, ...]) -> None:
    one, several = rows(5, *extra), rows(5, 4, *extra)
    y = torch.arange(5) % 2
    for name, labels in (("classification", y), ("multilabel", y), ("regression", y)):
        found = task(name).check(labels, one, "test")
        flat = task(name).check(labels, one.reshape(5, 1), "test")
        assert torch.equal(found, flat)
        assert torch.equal(task(name).expect(one), task(name).expect(one.reshape(5, 1)))
    for name, labels in (("classification", y), ("multilabel", several > 0), ("regression", several)):
        found = task(name).check(labels, several, "test")
        assert torch.equal(task(name).expect(several), task(name).expect(several.reshape(5, 4)))
        assert float(task(name).training_loss(several, found)) == float(
            task(name).training_loss(several.reshape(5, 4), found)
        )


def test_values_have_the_shape_of_their_labels() -> None:
    t, y = task("regression"), rows(6, 2, 3)
    assert t.check(y, rows(6, 2, 3, seed=1), "test").shape == (6, 6)
    for shape in ((6, 6), (6, 3, 2), (6, 2)):
        with pytest.raises(DataError, match="one value for each label"):
            t.check(y, torch.zeros(shape), "test")
    with pytest.raises(DataError, match="task: classification"):
        t.check(torch.arange(6) % 3, rows(6, 3), "test")


def test_labels_that_do() -> None:
    t, y = task("classification"), torch.tensor([0, 2, 1])
    for given_labels in (y, y.int(), y.double(), y[:, None], y.to(torch.uint8)):
        assert torch.equal(t.check(given_labels, rows(3, 3), "test"), y)
    assert t.unvarying(torch.tensor([1, 1])) == "1"
    assert t.unvarying(y) is None
    assert task("multilabel").unvarying(torch.zeros(3, 2)) == "the same"


@pytest.mark.parametrize("value", [0, 2])
def test_one_class_only_is_an_error_for_the_diagnosed_split(value: int, tmp_path: Path) -> None:
    problem = make_problem(tmp_path, steps=0)
    problem.saved({**problem.arrays, "test/label": torch.full((160,), value)})
    with pytest.raises(DataError, match=f"every label of split 'test' is {value}"):
        problem.diagnose(probes=["vif"])


@pytest.mark.parametrize("split", ["train", "val"])
def test_one_class_only_elsewhere_skips_what_is_fitted(split: str, tmp_path: Path) -> None:
    problem = make_problem(tmp_path, steps=0)
    problem.saved({**problem.arrays, f"{split}/label": torch.zeros(SIZES[split], dtype=torch.long)})
    report = problem.diagnose(probes=["reliance", "utilisation"])
    skipped = [r.skipped for r in report.results if r.probe == "utilisation"]
    assert skipped
    assert all(s is not None and f"every label of split '{split}' is the same" in s for s in skipped)
    assert report.find("reliance.full_loss").value is not None  # type: ignore[union-attr]


def test_names_and_metrics() -> None:
    with pytest.raises(ConfigError, match="did you mean 'classification'"):
        task("clasification")
    with pytest.raises(ConfigError, match=r"metric 'accurcy'.*did you mean 'accuracy'"):
        task("classification", "accurcy")
    with pytest.raises(ConfigError, match="metric 'accuracy' is not one of recall_at_1"):
        task("contrastive", "accuracy")
    assert task("classification", "balanced_accuracy").metric_name == "balanced_accuracy"
    for name in task_names():
        assert task(name).name == name


# -- a loss of the user's own ---------------------------------------------------------------------------------------

LOSSES = """
import torch
from torch.nn import functional as F
def huber(outputs, targets): return F.huber_loss(outputs[:, 0], targets.double(), reduction="none")
def mean(outputs, targets): return F.mse_loss(outputs[:, 0], targets.double())
def fails(outputs, targets): raise IndexError("oh")
number = 3
"""


def test_custom_loss(tmp_path: Path) -> None:
    (tmp_path / "taskt_losses.py").write_text(LOSSES)
    out, y = rows(20, 1), rows(20, seed=1)
    t = task("taskt_losses:huber", base=tmp_path)
    truth = F.huber_loss(out[:, 0].double(), y.double(), reduction="none")
    assert torch.allclose(t.loss(t.expect(out), y), truth)
    assert t.metric(t.expect(out), y) == pytest.approx(-float(truth.mean()))
    for name, says in (("mean", r"returned \(\) for 20 examples"), ("fails", "IndexError: oh"), ("number", "is int")):
        with pytest.raises(ConfigError, match=says):
            task(f"taskt_losses:{name}", base=tmp_path).loss(out.double(), y)


# -- whole diagnoses ------------------------------------------------------------------------------------------------

TASK_KINDS: dict[str, dict[str, Any]] = {
    "classification": {"outputs": 3},
    "binary": {"outputs": 1},
    "multilabel": {"task": "multilabel", "outputs": 3},
    "regression": {"task": "regression", "outputs": 1},
    "regression of three": {"task": "regression", "outputs": 3},
}


# The others' losses and metrics are tested above; whole diagnoses of them take seconds each.
QUICK = ("classification",)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in TASK_KINDS]
)
def test_planted_modalities_are_told_apart(kind: str, tmp_path: Path) -> None:
    """image is used, audio ignored though informative, hum is noise and ignored; quick tells the first two."""
    problem = make_problem(
        tmp_path, {"image": 5, "audio": 4, "hum": 3}, ignored=["audio", "hum"], noise=["hum"], **TASK_KINDS[kind]
    )
    report = problem.diagnose(probes=None if kind == "classification" else ["reliance", "utilisation"])
    assert {m: v.verdict for m, v in report.modalities.items()} == {
        "image": "used",
        "audio": "collapsed",
        "hum": "inconclusive",  # as no encoder of it was trained, which might find something
    }
    assert report.verdict == "collapsed"
    due, most = (
        report.find(f"utilisation.{k}", m).value for k, m in (("reference_credit", "audio"), ("prior_loss", None))
    )  # type: ignore[union-attr]
    assert report.modalities["audio"].score == pytest.approx(due / (due + 0.005 * most), rel=1e-6)
    exact = report.find("reliance.shapley", "audio")
    assert exact is not None
    assert exact.value == pytest.approx(0.0, abs=1e-12)
    total = sum(r.value for r in report.named("reliance.shapley"))  # type: ignore[misc]
    full, empty = (report.find(f"reliance.{k}_loss").value for k in ("full", "empty"))  # type: ignore[union-attr]
    assert total == pytest.approx(empty - full, abs=1e-10)


def test_a_model_that_uses_both_is_healthy(tmp_path: Path) -> None:
    report = make_problem(tmp_path, spread=2.0).diagnose(probes=["reliance", "utilisation"])
    assert {v.verdict for v in report.modalities.values()} == {"used"}
    assert report.verdict == "healthy"


class Flat(Late):
    """One number an example, shape (n,)."""

    def forward(self, **x: Tensor) -> Tensor:
        return super().forward(**x).squeeze(-1)


def test_values_without_an_axis_of_their_own_give_the_same_numbers(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, task="regression", outputs=1, steps=20, spread=2.0)
    flat = Flat({"image": 5, "audio": 4}, 1)
    flat.load_state_dict(problem.model.state_dict())
    probes = ["reliance", "utilisation", "gradient_rank"]
    options = {**CHEAP, "gradient_rank": {"agop": "outputs"}}
    plain, squeezed = (problem.diagnose(model=m, probes=probes, options=options) for m in (problem.model, flat))
    assert [r.value for r in squeezed.results] == [r.value for r in plain.results]
    assert [r.skipped for r in squeezed.results] == [r.skipped for r in plain.results]
    assert any(r.probe == "gradient_rank" and r.value is not None for r in squeezed.results)
    assert squeezed.modalities == plain.modalities


class Sequence(Late):
    """One answer for each of 8 positions."""

    batches = 0

    def forward(self, **x: Tensor) -> Tensor:
        self.batches += 1
        return super().forward(**x)[:, None].expand(-1, 8, -1)


def test_an_answer_a_position_is_refused_before_other_batches_run(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, steps=0)
    problem.saved({k: v[:, None].expand(-1, 8) if "label" in k else v for k, v in problem.arrays.items()})
    problem.config["data"]["batch_size"] = 4
    model = Sequence({"image": 5, "audio": 4})
    with pytest.raises(ConfigError, match=r"shape \(4, 8, 3\).*a token for each of 8 positions.*task: tokens"):
        problem.diagnose(model=model)
    assert model.batches < 15  # of 40
    assert ConfigError("").exit_code == 2


class TwoTowers(Late):
    """Embeddings side by side, for contrastive training; the mixture is the two projected."""

    def forward(self, **x: Tensor) -> Any:
        z = [e(x[m]) * (m not in self.ignored) for m, e in self.encoders.items()]
        return {"embeds": self.fusion(torch.cat(z, 1)), "image": z[0], "audio": z[1]}


def test_contrastive_diagnosis(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, {"image": 5, "audio": 5}, task="contrastive", steps=0)
    problem.model = TwoTowers({"image": 5, "audio": 5})
    with torch.no_grad():  # the same encoder on near-equal inputs: well aligned
        problem.model.encoders["audio"].load_state_dict(problem.model.encoders["image"].state_dict())
    problem.saved({**problem.arrays, **{f"{s}/audio": problem.arrays[f"{s}/image"] + 0.05 for s in SIZES}})
    problem.config |= {"output": ["image", "audio"], "head": None}
    report = problem.diagnose()
    assert report.subject.metric == "recall@1"
    assert report.find("reliance.full_metric").value > 0.8  # type: ignore[union-attr,operator]
    for m in ("image", "audio"):
        assert report.find("reliance.shapley", m).value > 0  # type: ignore[union-attr,operator]
        assert report.find("utilisation.costs_now", m).skipped  # type: ignore[union-attr]
    assert report.find("utilisation.alone_gain", "image").value == pytest.approx(0, abs=1e-12)  # type: ignore[union-attr]
    assert {v.verdict for v in report.modalities.values()} == {"used"}


def test_embeddings_of_unlike_shapes_are_not_cut_elsewhere(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, {"image": 5, "audio": 5}, task="contrastive", steps=0)
    problem.model = TwoTowers({"image": 5, "audio": 5})
    problem.config |= {"output": ["embeds", "audio"], "head": None}
    with pytest.raises(ConfigError, match=r"shapes \(160, 12\), \(160, 6\).*of one shape"):
        problem.diagnose()


def test_custom_loss_diagnosis(tmp_path: Path) -> None:
    (tmp_path / "taskt_losses2.py").write_text(LOSSES)
    problem = make_problem(tmp_path, task="regression", outputs=1, ignored=["audio"])
    from collapsekit.config.load import check_config

    config = check_config({**problem.config, "task": "taskt_losses2:huber"}, base=tmp_path)
    report = problem.diagnose(config=config)
    assert report.subject.task == "taskt_losses2:huber"
    assert report.subject.metric == "negative loss"
    assert report.find("reliance.shapley", "audio").value == 0.0  # type: ignore[union-attr]
    credit, verdict = report.find("reliance.shapley", "image"), report.modalities["image"]
    assert credit.interval[0] > 0  # type: ignore[union-attr,index]
    assert {v.verdict for v in report.modalities.values()} == {
        "inconclusive"
    }  # what is due is not known for such a loss
    assert "whether it is used for all it is worth is not known" in verdict.reason
    assert report.verdict == "inconclusive"
    assert report.judged is not None
    assert report.judged.extent == "partly"
