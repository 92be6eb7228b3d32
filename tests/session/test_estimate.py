"""What a diagnosis would cost is told before, from the first examples, and is what it costs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from collapsekit import registry
from collapsekit.context import Progress
from collapsekit.data.loaders import LoaderSource
from collapsekit.errors import ConfigError, DataError
from collapsekit.ext import Cost, CostReport, Preview, estimate_cost
from collapsekit.interventions.marginal import marginal_samples, shifts
from collapsekit.probes.geometry import rank_sweep
from collapsekit.readouts.fit import steps_of
from collapsekit.readouts.synergy import RATES, recipe_for
from collapsekit.report.cost import COUNTED, CostRow
from collapsekit.session.costs import estimate
from collapsekit.session.costs.pricing import EARLY, LEARNED, SHARED, SMALLEST
from collapsekit.session.costs.timing import evaluation, peak_bytes
from collapsekit.stats import missing as stats_missing
from collapsekit.stats.solvers.newton import Curvature, Newton
from tests.probes.counting import Counts, counted, differing
from tests.problems import Late, Problem, make_problem

registry.load_builtins()
PROBES = sorted(
    n for n, s in registry.PROBES.items() if s.run.__module__.startswith("collapsekit.probes.") and n != "growing"
)
SIZES = {"train": 90, "val": 50, "test": 70}
FEW = {"reliance": {"draws": 3}, "missing": {"rates": [0.5]}, "noise": {"levels": [0.1], "draws": 1}}
TWO = ("reliance", "collision")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """A live model with its checkpoint and factory; no test changes it."""
    return built(make_problem(tmp_path_factory.mktemp("estimate"), sizes=SIZES, steps=5))


def built(problem: Problem) -> Problem:
    torch.save(problem.model.state_dict(), problem.folder / "ckpt.pt")
    widths = {k.split("/")[1]: v.shape[1] for k, v in problem.arrays.items() if k.startswith("test/") and v.ndim > 1}
    model = {
        "factory": "tests.problems:Late",
        "kwargs": {"widths": widths},
        "checkpoint": str(problem.folder / "ckpt.pt"),
    }
    problem.config["model"] = model
    return problem


def estimated(problem: Problem, **how: Any) -> CostReport:
    how = {"profile": "quick", "options": FEW, "config": problem.config, **how}
    return estimate_cost(model=problem.model, **how)


def both(problem: Problem, **how: Any) -> tuple[CostReport, Counts]:
    """The estimate, and what the same diagnosis then counts."""
    how = {"profile": "quick", "options": FEW, **how}
    report = estimated(problem, **how)
    with counted() as counts:
        problem.diagnose(**how)
    return report, counts


def check(report: CostReport, counts: Counts) -> None:
    for row in report.probes:
        assert row.skipped is None, row
        assert differing(row, counts.of(row.name)) == {}, row.name
    assert report.contradiction() is None


# -- counts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_by_itself_pays_for_all_that_it_needs(probe: str, small: Problem, brief_joint_here: None) -> None:
    report, counts = both(small, probes=[probe])
    check(report, counts)
    # What is shared, too, is not hidden in a bound.
    bounded = {"passes", "gradients"} & set(report.probes[0].at_most)
    assert bounded == (
        {"gradients"} if probe == "entanglement" else set()
    )  # which modalities predict, only a fit tells


def test_replays_of_a_sweep_are_counted_where_features_can_be_aligned(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, sizes={"test": 70}, steps=0)
    problem.model = Late({"image": 5, "audio": 4}, fused=6).eval()
    report, counts = both(
        problem, probes=["similarity"], options={"rank_sweep": {"modality": "image", "betas": [1.0, 3.0]}}
    )
    check(report, counts)
    assert report.probes[0].replays > 2 * 70


@pytest.mark.parametrize("fills", [["zeros", "mean"], ["mean", "class_mean"]])
def test_without_draws_what_goes_missing_is_no_bound(small: Problem, fills: list[str]) -> None:
    report, counts = both(small, probes=["missing"], options={"missing": {"fills": fills}})
    check(report, counts)
    assert report.probes[0].at_most == ()
    assert report.probes[0].passes == 90 + 50


def test_a_fill_that_reads_labels_is_counted_and_chooses_nothing(small: Problem) -> None:
    report, counts = both(small, probes=["missing"], options={"missing": {"fills": ["class_mean"]}})
    check(report, counts)
    assert report.probes[0].at_most == ()
    assert report.probes[0].passes == 90


def test_what_is_trained_is_bounded_by_name(small: Problem, brief_joint_here: None) -> None:
    options = {
        **FEW,
        "prefix_gap": {"epochs": 3},
        "polysemanticity": {"epochs": 2, "hidden": 8},
        "rank_sweep": {"mode": "train", "epochs": 2, "betas": [1.0, 2.0], "modality": "image"},
    }
    probes = ["prefix_gap", "polysemanticity", "rank_sweep", "utilisation"]
    report, counts = both(small, probes=probes, options=options, profile="standard", cache=small.folder / "none")
    check(report, counts)
    rows = {row.name: row for row in report.probes}
    assert {"encoders", "encoder_steps", "encodings"} <= set(rows["prefix_gap"].at_most)
    assert "heads" not in rows["prefix_gap"].at_most
    assert set(rows["polysemanticity"].at_most) == {"steps"}
    assert any("held-out loss" in why for why in rows["polysemanticity"].why)
    # Three epochs are too few to stop in: of encoders trained alone the bound is reached.
    assert rows["prefix_gap"].encoder_steps == counts.of("prefix_gap")["encoder_steps"]


def test_one_fusion_after_the_other_is_bounded_too(small: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("not stacked")

    monkeypatch.setattr("collapsekit.readouts.fit_stacked.fit_stacked", fail)
    options = {"rank_sweep": {"mode": "train", "epochs": 2, "betas": [1.0, 2.0], "modality": "all"}}
    report, counts = both(small, probes=["rank_sweep"], options=options)
    check(report, counts)
    (row,) = report.probes
    assert counts.of("rank_sweep")["gradients"] > row.gradients / 3 > 0
    assert rank_sweep.STACKED in row.why


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    names = {f"m{i}": 2 for i in range(7)}
    return make_problem(tmp_path_factory.mktemp("seven"), names, sizes={"train": 60, "val": 40, "test": 44}, steps=0)


@pytest.mark.parametrize("probes", [("reliance",), ("utilisation", "reliance"), ("similarity", "rank_sweep")])
def test_coalitions_that_sampled_orders_meet(probes: tuple[str, ...], seven: Problem, brief_joint_here: None) -> None:
    report, counts = both(seven, probes=probes, options={"reliance": {"draws": 2, "permutations": 3}})
    check(report, counts)
    assert 2 * 44 < sum(row.replays for row in report.probes) < 2 * 2**7 * 44


@pytest.mark.parametrize("n", [2, 3, 8, 31, 64])
@pytest.mark.parametrize("draws", [1, 2, 7, 40, 100])
def test_shifts_tell_which_draws_are_inverse_to_one_another(n: int, draws: int) -> None:
    turns, samples = shifts(n, draws), marginal_samples(n, draws, 5)
    inverse = sum(any(torch.equal(a.argsort(), b) for b in samples) for a in samples)
    assert len(turns) == len(samples)
    assert sum(n - turn in turns for turn in turns) == inverse


def test_held_out_rows_of_units_are_a_bound(tmp_path: Path) -> None:
    sizes = {"train": 60, "test": 70}
    problem = make_problem(tmp_path, sizes=sizes, steps=0)
    problem.saved({**problem.arrays, **{f"{s}/who": torch.arange(n) // 3 for s, n in sizes.items()}})
    problem.config["data"]["group"] = "who"
    report, counts = both(problem, probes=["missing", "gradient_rank"])
    check(report, counts)
    assert any("data.group" in why for why in report.total.why)


def test_a_model_that_mixes_its_batch_is_replayed_in_the_data_s_batches(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, sizes=SIZES, steps=0)
    real = problem.model.forward

    def mixed(**x: Tensor) -> Tensor:
        out: Tensor = real(**x)
        return out - 0.5 * out.mean(0)

    problem.model.forward = mixed  # type: ignore[method-assign]
    problem.config["data"]["batch_size"] = 20
    report, counts = both(problem, probes=["reliance", "rank_sweep"])
    check(report, counts)


# -- what is looked at -------------------------------------------------------------------------------------------------


def test_only_the_first_examples_are_run(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, sizes={"train": 3000, "val": 2000, "test": 5000}, steps=0)
    problem.config["data"]["batch_size"] = 16
    with counted() as counts:
        report = estimated(problem)
    assert report.examples == {"test": 5000, "train": 3000, "val": 2000}
    assert report.total.passes == 10_000
    assert counts.of("opening")["passes"] < 500
    assert counts.of("opening")["replays"] < 20_000  # a few whole batches of 2,048, which are timed


def test_a_limit_and_a_split_are_those_of_the_diagnosis(small: Problem) -> None:
    report, counts = both(small, probes=["missing", "reliance"], split="val", limit=33)
    check(report, counts)
    assert report.split == "val"
    assert report.examples == {"val": 33, "train": 33}
    assert estimated(small, split="train", probes=["reliance"]).examples == {"train": 90}


def test_labels_that_come_sorted_are_no_reason_to_refuse(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, sizes={"train": 300, "val": 300, "test": 300}, steps=0)
    problem.config["data"]["batch_size"] = 16
    order = {s: problem.arrays[f"{s}/label"].argsort() for s in ("train", "val", "test")}
    data = {s: Sorted(problem, s, order[s]) for s in order}
    report = estimated(problem, data=data, probes=["missing", "utilisation"])
    assert [row.skipped for row in report.probes] == [None, None]
    assert report.examples == {"test": 300, "train": 300, "val": 300}


class Sorted:
    """Batches of a split in some order, without a length, that can be read once."""

    def __init__(
        self, problem: Problem, split: str, order: Tensor | None = None, read: list[int] | None = None
    ) -> None:
        self.columns = {k.split("/")[1]: v for k, v in problem.arrays.items() if k.startswith(f"{split}/")}
        n = len(self.columns["label"])
        self.rows = torch.arange(n) if order is None else order
        self.read, self.again = read if read is not None else [], False

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        assert not self.again
        self.again = True
        for rows in self.rows.split(7):
            self.read.append(len(rows))
            yield {k: v[rows] for k, v in self.columns.items()}


def test_a_loader_without_a_length_is_read_once_and_counted(small: Problem) -> None:
    notes: list[str] = []

    class Told(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    plain = estimated(small, probes=["missing", "reliance"])
    data = {s: Sorted(small, s) for s in SIZES}
    report = estimated(small, data=data, probes=["missing", "reliance"], progress=Told())
    assert report.examples == plain.examples == {"test": 70, "train": 90, "val": 50}
    assert [getattr(report.total, k) for k in COUNTED] == [getattr(plain.total, k) for k in COUNTED]
    assert len([text for text in notes if "--limit" in text]) == 3
    read: list[int] = []
    few = estimated(small, data={"test": Sorted(small, "test", read=read)}, probes=["reliance"], limit=20)
    assert few.examples == {"test": 20}
    assert sum(read) == 21


class Rows(Dataset[dict[str, Tensor]]):
    """A dataset that counts what is read of it."""

    def __init__(self, problem: Problem, split: str) -> None:
        self.columns = Sorted(problem, split).columns
        self.read = 0

    def __len__(self) -> int:
        return len(self.columns["label"])

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        self.read += 1
        return {k: v[i] for k, v in self.columns.items()}


def test_a_dataset_that_says_its_length_is_not_read_through(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, sizes={"test": 900}, steps=0)
    problem.config["data"]["batch_size"] = 16
    rows = Rows(problem, "test")
    for data in (rows, DataLoader(rows, batch_size=16)):
        rows.read = 0
        assert estimated(problem, data={"test": data}, probes=["reliance"]).examples == {"test": 900}
        assert 0 < rows.read <= 80


def test_lengths_of_loaders_are_those_of_what_they_yield() -> None:
    rows = TensorDataset(torch.arange(23))

    def length(loader: Any) -> int | None:
        return LoaderSource({"test": loader}, "here").length("test")

    assert length(rows) == 23
    assert length(DataLoader(rows, batch_size=5)) == sum(len(b[0]) for b in DataLoader(rows, batch_size=5)) == 23
    assert length(DataLoader(rows, batch_size=5, drop_last=True)) == 20
    twice = DataLoader(rows, batch_size=5, collate_fn=lambda parts: parts * 2)  # type: ignore[return-value]
    assert length(twice) is None
    assert length(DataLoader(rows, batch_size=None)) is None
    assert length(iter([])) is None


def test_nothing_is_written_and_the_model_is_given_back(small: Problem, tmp_path: Path) -> None:
    before = copy.deepcopy(small.model.state_dict())
    grads = [(p.grad, p.requires_grad) for p in small.model.parameters()]
    files = sorted(small.folder.rglob("*"))
    small.model.train()
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    estimated(small, profile="standard", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    assert sorted(small.folder.rglob("*")) == files
    assert small.model.training
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(v, before[k]) for k, v in small.model.state_dict().items())
    after = [(p.grad, p.requires_grad) for p in small.model.parameters()]
    assert all(a is b and wants is wanted for (a, wants), (b, wanted) in zip(grads, after, strict=True))
    small.model.eval()


def test_a_checkpoint_costs_what_the_live_model_does(small: Problem) -> None:
    live, read = (
        estimated(small, probes=TWO),
        estimate_cost(small.folder / "ckpt.pt", config=small.config, probes=TWO, options=FEW, profile="quick"),
    )
    assert read.checkpoint == "ckpt.pt"
    assert [r.replays for r in read.probes] == [r.replays for r in live.probes]


# -- seconds and memory ------------------------------------------------------------------------------------------------


def test_seconds_are_those_of_one_batch_times_the_counts(small: Problem) -> None:
    ticks = count()
    report = estimated(small, profile="standard", clock=lambda: float(next(ticks)))
    assert report.unit_seconds["passes"] == 1 / 70  # every call takes a second: one of 70 examples does
    assert report.unit_seconds["encodings"] == 1 / 64
    assert report.unit_seconds["steps"] == report.unit_seconds["encoder_steps"] == 1.0
    assert report.unit_seconds["replays"] == 1 / 2048
    rows = {row.name: row for row in report.probes}

    def least(name: str) -> float:
        """Of what is run and trained alone, and of training that is bounded the usual part."""
        row = rows[name]
        shares = {what: EARLY if what in row.at_most else 1.0 for what in COUNTED}
        return sum(getattr(row, what) * report.unit_seconds.get(what, 0.0) * shares[what] for what in COUNTED)

    for name in ("reliance", "noise", "gradient_rank"):  # which fit nothing; whoever came before valued all coalitions
        assert rows[name].seconds == pytest.approx(least(name) + SMALLEST, abs=1e-3)
    (alone,) = estimated(small, probes=["reliance"], clock=lambda: float(next(ticks))).probes
    scored = 4 * 70 / 512  # a score of 512 examples takes a second too, and there are four coalitions
    assert alone.seconds == pytest.approx(alone.replays / 2048 + SMALLEST + scored, abs=1e-3)
    assert rows["vif"].seconds == pytest.approx(SMALLEST, abs=1e-3)
    assert report.opening.seconds == pytest.approx(1 + 70 / 70)
    assert report.total.seconds == pytest.approx(sum(r.seconds or 0.0 for r in (report.opening, *report.probes)))


def test_readouts_have_their_price_and_networks_end_a_few_epochs_after_their_best(small: Problem) -> None:
    ticks = count()
    (row,) = estimated(small, probes=["utilisation"], clock=lambda: float(next(ticks))).probes
    runs, fit = 2 * len(RATES), SIZES["train"]
    recipe = recipe_for(fit, 0.0, 0)
    assert row.steps == runs * recipe.epochs * steps_of(fit)
    expected = runs * (recipe.patience + LEARNED) * steps_of(fit)
    assert expected < row.steps / 3
    assert row.seconds is not None
    beside = 2**2 * SHARED  # what two modalities add beside each other is reckoned in steps
    # A step takes a second here; the rest is replays and readouts.
    assert expected + beside < row.seconds < expected + beside + 60


def test_a_readout_is_reckoned_by_one_that_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes far apart take more evaluations than those that overlap; the clock here counts evaluations."""
    evaluations = 0
    whole, timed = Newton._at, estimate.time_units
    units: list[float] = []

    def counting(self: Newton, coefficients: Tensor) -> Any:
        nonlocal evaluations
        evaluations += 1
        here = whole(self, coefficients)

        def times(direction: Tensor) -> Tensor:
            nonlocal evaluations
            evaluations += 1
            return curvature.times(direction)

        curvature, here.curvature = here.curvature, Curvature(times, here.curvature.size)
        return here

    def kept(session: Any, wanted: Any, clock: Any) -> Any:
        found = timed(session, wanted, clock)
        units.append(found.seconds["readouts"] * evaluation(64, 6, 3))
        return found

    monkeypatch.setattr(Newton, "_at", counting)
    monkeypatch.setattr(estimate, "time_units", kept)
    for spread in (30.0, 0.05):
        problem = make_problem(tmp_path / str(spread), sizes=SIZES, steps=5, spread=spread)
        estimated(problem, probes=["missing"], clock=lambda: float(evaluations))
    overlapping, apart = units
    assert apart > 1.5 * overlapping > 15  # in all three penalties that are tried


def test_distances_are_reckoned_as_they_are_taken(small: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, whole = 0, list[float]()
    squared, counting = stats_missing._squared, estimate.count_probes

    def noted(a: Tensor, b: Tensor) -> Tensor:
        nonlocal taken
        taken += len(a) * len(b)
        return squared(a, b)

    def kept(preview: Any, chosen: Any) -> Any:
        found = counting(preview, chosen)
        whole.append(found[0].whole.compared)
        return found

    monkeypatch.setattr(stats_missing, "_squared", noted)
    monkeypatch.setattr(estimate, "count_probes", kept)
    for fill in ("neighbour", "zeros"):
        options = {**FEW, "missing": {"fills": [fill]}}
        estimated(small, probes=["missing"], options=options)
        small.diagnose(profile="quick", probes=["missing"], options=options)
    near, none = whole
    assert none == 0
    assert 0.5 * taken < near <= taken


def test_times_of_this_machine_are_above_zero(small: Problem) -> None:
    report = estimated(small)
    assert report.unit_seconds.keys() == {"passes", "encodings", "encoder_steps", "replays", "gradients", "steps"}
    assert all(seconds > 0 for seconds in report.unit_seconds.values())


def test_memory_is_that_of_inputs_and_features(small: Problem) -> None:
    report = estimated(small, probes=["reliance"])
    # Inputs of 5 and 4 numbers, what is recorded and pooled of two modalities, 12 fused, 3 outputs, and a label.
    assert report.kept_bytes == 70 * (4 * (5 + 4 + 2 * 2 * 6 + 12 + 3) + 8)
    assert report.peak_bytes > 2048 * 4 * 12


def test_the_peak_is_the_most_that_is_held_at_a_time() -> None:
    x, cpu = torch.zeros(1000), torch.device("cpu")

    def one_after_the_other() -> None:
        for _ in range(3):
            x.add(1.0)

    assert peak_bytes(cpu, one_after_the_other) == 4000
    assert peak_bytes(cpu, lambda: [x.add(1.0) for _ in range(3)]) == 12000
    assert peak_bytes(cpu, lambda: x.add_(1.0).view(10, 100)) == 0
    weight = torch.zeros(1000, requires_grad=True)
    kept = peak_bytes(cpu, lambda: weight.exp().exp().sum().backward())
    assert 8000 <= kept <= 20_004


# -- probes of others, and what is refused -----------------------------------------------------------------------------

PLUGIN = """
from collapsekit.ext import Cost, NumericsError, Options, Result, probe

FACTS = dict(summary="s", definition="d", source="s", cannot="c")

@probe("silent_one", **FACTS)
def silent(session):
    yield Result(name="silent_one.x", probe="silent_one", definition="d", source="s", value=1.0)

@probe("older_one", **FACTS)
def older(adapter, features, *, settings):
    yield Result(name="older_one.x", probe="older_one", definition="d", source="s", value=1.0)

def costs(preview):
    BEFORE_IT
    return preview.replayed(2) + preview.coalitions([1]) + Cost(heads=1)

@probe("dear_one", cost=costs, **FACTS)
def dear(session):
    session.game.value(1)
    yield Result(name="dear_one.x", probe="dear_one", definition="d", source="s", value=1.0)
"""


def plugin(folder: Path, act: str = "pass") -> Path:
    file = folder / "mine.py"
    file.write_text(PLUGIN.replace("BEFORE_IT", act))
    return file


@pytest.fixture(autouse=True)
def _forget_plugins() -> Iterator[None]:
    before = dict(registry.PROBES)
    yield
    registry.PROBES.clear()
    registry.PROBES.update(before)


def test_a_probe_of_a_plugin_says_its_cost_or_is_not_estimated(small: Problem, tmp_path: Path) -> None:
    probes = ["silent_one", "older_one", "dear_one", "vif"]
    report = estimated(small, probes=probes, plugins=[plugin(tmp_path)])
    rows = {row.name: row for row in report.probes}
    assert [name for name in probes if not rows[name].estimated] == ["silent_one", "older_one"]
    assert rows["silent_one"].seconds is None
    assert rows["dear_one"].heads == 1
    assert rows["dear_one"].replays > 2 * 70


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("1 / 0", "the cost of probe 'dear_one' cannot be estimated: ZeroDivisionError: division by zero"),
        ("return 3", "the cost of probe 'dear_one' is int, expected a collapsekit.ext.Cost"),
        ("raise SystemExit(0)", "ended the run with SystemExit"),
    ],
)
def test_a_cost_that_cannot_be_had_is_the_plugin_s_fault(small: Problem, tmp_path: Path, act: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        estimated(small, probes=["dear_one"], plugins=[plugin(tmp_path, act)])


def test_what_would_be_skipped_is_said_and_costs_nothing(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, sizes={"test": 70}, steps=0)
    report, counts = both(problem, probes=["prefix_gap", "utilisation", "vif"])
    rows = {row.name: row for row in report.probes}
    assert "no train split" in str(rows["prefix_gap"].skipped)
    assert "no train split" in str(rows["utilisation"].skipped)
    assert rows["utilisation"] == CostRow(name="utilisation", skipped=rows["utilisation"].skipped, seconds=0.0)
    assert not counts.of("utilisation")
    assert rows["vif"].skipped is None


def test_a_probe_that_reads_a_split_and_then_measures_nothing_pays_for_that(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, sizes={"train": 80, "test": 70}, steps=0)
    report, counts = both(problem, probes=["utilisation", "vif"])
    row = report.probes[0]
    assert "found 16 held out" in str(row.skipped)
    assert row.passes == counts.of("utilisation")["passes"] == 80
    assert report.total.passes == 150
    after = estimated(problem, probes=["missing", "utilisation"])
    assert [(r.name, r.passes, r.replays > 0) for r in after.probes] == [
        ("missing", 80, True),
        ("utilisation", 0, False),
    ]


def test_what_cannot_be_meant_is_refused_as_by_a_diagnosis(small: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collapsekit.diagnosis.open_model", None)  # nothing is opened before
    for wrong, said in (
        ({"probes": ["vof"]}, "there is no probe 'vof'"),
        ({"options": {"vif": {"x": 1}}}, "has no option 'x'"),
        ({"split": "tst"}, "there is no split 'tst'"),
        ({"device": "tpu9"}, "device 'tpu9'"),
        ({"limit": 0}, "limit"),
    ):
        with pytest.raises(ConfigError, match=said):
            estimated(small, **wrong)
    with pytest.raises(TypeError, match="no argument 'sead'"):
        estimate_cost(sead=1)  # type: ignore[call-arg]


def test_a_model_that_cannot_be_diagnosed_is_refused(small: Problem) -> None:
    broken = copy.deepcopy(small)
    broken.model.head.weight.data.fill_(float("nan"))
    with pytest.raises(DataError, match="NaN or infinity first appears in the model's output"):
        estimated(broken)


# -- adding up ---------------------------------------------------------------------------------------------------------


def test_costs_add_up_and_bounds_stay_bounds() -> None:
    exact, bound = Cost(passes=3, replays=2), Cost(replays=5, steps=7).at_most("it stops")
    both_ = exact + bound + bound
    assert both_.counts() == {**Cost().counts(), "passes": 3, "replays": 12, "steps": 14}
    assert both_.bounded == {"replays", "steps"}
    assert both_.why == ("it stops",)
    assert Cost().at_most("nothing") == Cost()
    assert exact.bounded == frozenset()


def test_whoever_asks_first_pays(small: Problem) -> None:
    seen: list[Cost] = []

    def twice(preview: Preview) -> Cost:
        seen.extend([preview.prefixes(), preview.prefixes(), preview.coalitions([1]), preview.coalitions([1])])
        return Cost()

    registry.PROBES["vif"] = replace(registry.PROBES["vif"], cost=twice)
    estimated(small, probes=["vif"])
    assert [bool(any(cost.counts().values())) for cost in seen] == [True, False, True, False]


def test_a_total_that_is_not_the_sum_is_no_report(small: Problem) -> None:
    report = estimated(small, probes=["reliance"])
    assert CostReport.from_json(report.to_json()) == report
    wrong = report.model_copy(update={"total": report.total.model_copy(update={"replays": 1})})
    assert "replays of the total" in str(wrong.contradiction())
    double = report.model_copy(update={"probes": report.probes * 2})
    assert "twice" in str(double.contradiction())


@pytest.mark.parametrize("absent", ["zero", "noise"])
def test_a_stand_in_that_is_always_the_same_is_asked_once(tmp_path: Path, absent: str) -> None:
    problem = built(make_problem(tmp_path, sizes=SIZES, steps=5))
    first = next(iter(problem.config["modalities"]))
    problem.config["modalities"][first] |= {"absent": absent}
    check(*both(problem, probes=["reliance", "utilisation"]))


class Sampling(Late):
    """Draws noise onto its answers."""

    def forward(self, **inputs: Tensor) -> Tensor:
        out = super().forward(**inputs)
        return out + 0.1 * torch.randn_like(out)


def test_what_seeds_do_is_counted(tmp_path: Path) -> None:
    problem = built(make_problem(tmp_path, sizes=SIZES, steps=5))
    problem.config["model"] |= {"factory": f"{__name__}:Sampling", "samples": 2}
    problem.model.__class__ = Sampling
    check(*both(problem, probes=["reliance", "utilisation"]))
