"""One pass of the encoders; results that depend on nothing but the model and the set of examples."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from collapsekit.adapters.validate import FEW, PAIRS
from collapsekit.data.contents import canonical
from collapsekit.errors import CollapsekitError, DataError, NothingEvaluatedError
from collapsekit.features.extraction import extract
from collapsekit.report.diagnosis import Report, Result
from tests.factories import shuffled
from tests.problems import SIZES, Late, Problem, adapt, make_problem

pytestmark = pytest.mark.usefixtures("brief_joint")


ROWS: Counter[str] = Counter()  # outside of the model, which is given back as it was found, its class too


class Counting(nn.Linear):
    """Counts the rows that pass it."""

    name = ""

    def forward(self, x: Tensor) -> Tensor:
        ROWS[self.name] += len(x)
        return super().forward(x)


def close(a: Any, b: Any, rel: float) -> bool:
    """Numbers within ``rel`` (of 1, where they are small); everything else the same."""
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= rel * max(1.0, abs(a), abs(b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[k], b[k], rel) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(close(x, y, rel) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def differing(a: Report, b: Report, rel: float) -> list[str]:
    one, other = ([json.loads(r.model_dump_json()) for r in x.results] for x in (a, b))
    assert len(one) == len(other)
    return [f"{x['name']} {x['modality']}" for x, y in zip(one, other, strict=True) if not close(x, y, rel)]


def test_encoders_see_every_example_once_and_a_few_in_other_company(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, steps=0)
    for m, old in problem.model.encoders.items():
        problem.model.encoders[m] = Counting(old.in_features, old.out_features)
        problem.model.encoders[m].name = m
    ROWS.clear()
    problem.config["data"]["batch_size"] = 37
    problem.diagnose(skip=["noise"])  # which is about what encoders make of other inputs
    assert {m: sum(SIZES.values()) + FEW + 3 + 3 * PAIRS for m in ("image", "audio")} == ROWS


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, brief_joint: None) -> tuple[Problem, Report]:
    problem = make_problem(tmp_path_factory.mktemp("base"), spread=2.0, ignored=[], steps=40)
    return problem, problem.diagnose()


def test_the_same_call_twice_gives_the_same_bytes(base: tuple[Problem, Report]) -> None:
    problem, report = base
    torch.rand(3)  # whatever the caller's random state
    assert problem.diagnose().to_json() == report.to_json()
    other = problem.diagnose(seed=1, probes=["reliance"])
    assert other.results != tuple(r for r in report.results if r.probe == "reliance")


def test_batch_size_does_not_matter(base: tuple[Problem, Report]) -> None:
    problem, report = base
    config = {**problem.config, "data": {**problem.config["data"], "batch_size": 7}}
    assert differing(problem.diagnose(config=config), report, 1e-6) == []


def test_row_order_does_not_matter(base: tuple[Problem, Report]) -> None:
    problem, report = base
    before = problem.arrays
    try:
        problem.saved(shuffled(before))
        assert problem.diagnose().to_json() == report.to_json()
    finally:
        problem.saved(before)


def renamed(report: Report, names: dict[str, str]) -> tuple[dict[Any, Result], dict[str, Any]]:
    """Results and verdicts by renamed modalities, without what repeats names in words."""
    results = {}
    for r in report.results:
        curve = r.curve
        if curve is not None and r.name.startswith(("reliance.subsets", "missing.patterns")):
            labels = ["+".join(sorted(names.get(p, p) for p in str(x).split("+"))) for x in curve.x]
            order = sorted(range(len(labels)), key=labels.__getitem__)
            picked = {k: tuple(getattr(curve, k)[i] for i in order) for k in ("y", "lower", "upper")}
            curve = curve.model_copy(update={"x": tuple(labels[i] for i in order), **picked})
        m, v = (names.get(x, x) if x is not None else None for x in (r.modality, r.versus))
        results[r.name, m, v] = r.model_copy(update={"modality": m, "versus": v, "curve": curve})
    verdicts = {
        names[m]: (v.verdict, v.score, v.costs_now, {names[o]: c for o, c in v.costs_if_missing.items()})
        for m, v in report.modalities.items()
    }
    return results, verdicts


def test_names_and_order_of_modalities_do_not_matter(base: tuple[Problem, Report]) -> None:
    problem, report = base
    sections = problem.config["modalities"]
    swapped = {
        "image": {**sections["audio"], "input": "audio"},
        "audio": {**sections["image"], "input": "image"},
    }
    names = {"image": "audio", "audio": "image"}
    same = {m: m for m in names}
    for config, to in (
        ({**problem.config, "modalities": swapped}, names),
        ({**problem.config, "modalities": dict(reversed(sections.items()))}, same),
    ):
        wanted, verdicts = renamed(report, to)
        found, their_verdicts = renamed(problem.diagnose(config=config), same)
        assert found.keys() == wanted.keys()
        for key, result in wanted.items():
            one, other = (json.loads(r.model_dump_json()) for r in (found[key], result))
            assert close(one, other, 1e-9), key
        assert close(json.loads(json.dumps(their_verdicts)), json.loads(json.dumps(verdicts)), 1e-9)


@given(
    st.integers(2, 30), st.integers(0, 999), st.sampled_from([torch.float32, torch.uint8, torch.bool, torch.bfloat16])
)
def test_canonical_order_is_by_content(n: int, seed: int, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(seed)
    inputs = {k: torch.randint(0, 2, (n, 2), generator=g).to(dtype) for k in "ab"}  # with many rows alike
    order, digest, ids, _ = canonical(inputs)
    assert sorted(order.tolist()) == list(range(n))
    shuffle = torch.randperm(n, generator=g)
    again, other, same, _ = canonical({k: v[shuffle] for k, v in inputs.items()})
    assert other == digest
    assert torch.equal(ids, same)
    alike = {str([v[i].tolist() for v in inputs.values()]) for i in range(n)}
    assert len(ids.unique()) <= len(alike)  # a sum over tensors: swapped ones are alike
    for _k, v in inputs.items():
        assert torch.equal(v[order], v[shuffle][again])
    assert canonical({"x": inputs["a"], "y": inputs["b"]})[1] == digest
    plain = {k: torch.randn(n, 2, generator=g) for k in "ab"}
    assert torch.equal(canonical(plain)[0], canonical({"a": plain["b"], "b": plain["a"]})[0])
    changed = {k: v.clone() for k, v in inputs.items()}
    changed["a"][0, 0] = ~changed["a"][0, 0] if dtype == torch.bool else 1 - changed["a"][0, 0]
    assert canonical(changed)[1] != digest


class Concatenates(nn.Module):
    """Fusion is the features side by side, in an order of its own."""

    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.a, self.b, self.mixes = nn.Linear(3, 2), nn.Linear(3, 2), mixes
        self.fusion = nn.Identity()
        self.head = nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        side = torch.cat([self.b(b), self.a(a)], 1)[:, [2, 0, 3, 1]]
        return self.head(self.fusion(side + side.flip(1) * self.mixes))


@pytest.mark.parametrize("mixes", [False, True])
def test_concatenation_is_recognised(mixes: bool) -> None:
    g = torch.Generator().manual_seed(0)
    data = {
        "test": {"a": torch.randn(9, 3, generator=g), "b": torch.randn(9, 3, generator=g), "label": torch.arange(9) % 3}
    }
    adapter = adapt(Concatenates(mixes), {"modalities": {"a": "a", "b": "b"}, "fusion": "fusion"}, data)
    assert extract(adapter, "test").concatenated is not mixes


# -- little, constant or no information -----------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel"])
@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_few_examples_are_skipped_with_a_reason(n: int, task: str, tmp_path: Path) -> None:
    sizes = {"train": n, "val": n, "test": n}
    outputs = 1 if task == "regression" else 2
    problem = make_problem(tmp_path, task=task, outputs=outputs, sizes=sizes, steps=0)
    labels = torch.arange(n) % 2
    for split in sizes:
        label = {"classification": labels, "regression": labels + 0.5 * torch.arange(n)}.get(task)
        problem.arrays[f"{split}/label"] = label if label is not None else torch.stack([labels, 1 - labels], 1)
    problem.saved(problem.arrays)
    if n == 1:
        with pytest.raises(NothingEvaluatedError, match="has 1 example"):
            problem.diagnose()
        return
    report: Report | None = None
    with contextlib.suppress(NothingEvaluatedError):
        report = problem.diagnose()
    if report is None:
        assert n < 5
        return
    assert all(r.skipped or r.value is not None or r.curve is not None for r in report.results)
    if n < 10:
        assert {v.verdict for v in report.modalities.values()} <= {"inconclusive", "used"}


DEGENERATE = ["one feature", "constant features", "dead encoder", "constant output", "constant input"]


@pytest.mark.parametrize("how", DEGENERATE)
def test_degenerate_features_never_crash(how: str, tmp_path: Path) -> None:
    problem = make_problem(tmp_path, steps=0)
    model = problem.model
    with torch.no_grad():
        if how == "one feature":
            problem.model = Late({"image": 5, "audio": 4}, width=1, fused=1)
        elif how in ("constant features", "dead encoder"):
            model.encoders["audio"].weight.zero_()
            model.encoders["audio"].bias.fill_(0.0 if how == "dead encoder" else 2.0)
        elif how == "constant output":
            model.head.weight.zero_()
    if how == "constant input":
        problem.saved({k: torch.ones_like(v) if k.endswith("audio") else v for k, v in problem.arrays.items()})
    report = problem.diagnose()
    assert report.modalities["audio"].verdict != "used" or how == "one feature"
    assert json.loads(report.to_json())
    if how in ("dead encoder", "constant features", "constant input"):
        assert report.find("reliance.shapley", "audio").value == pytest.approx(0.0, abs=1e-9)  # type: ignore[union-attr]


@given(st.integers(2, 12), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_features_are_the_models_own_row_by_row(n: int, batch: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    model = Late({"a": 3, "b": 2})
    data = {"a": torch.randn(n, 3, generator=g), "b": torch.randn(n, 2, generator=g), "label": torch.arange(n) % 3}
    config = {
        "modalities": {"a": "encoders.a", "b": "encoders.b"},
        "fusion": "fusion",
        "data": {"batch_size": batch, "also": []},
    }
    features = extract(adapt(model, config, {"test": data}), "test")
    with torch.no_grad():
        for i in range(n):
            one = {m: features.inputs[m][i : i + 1] for m in "ab"}
            assert torch.allclose(features.outputs[i], model(**one)[0], atol=1e-6)
            assert torch.allclose(features.pooled["a"][i], model.encoders["a"](one["a"])[0], atol=1e-6)
            row = (data["a"] == one["a"]).all(1).nonzero()[0, 0]
            assert int(data["label"][row]) == int(features.targets[i])


def test_a_label_the_model_also_reads_stays_an_input() -> None:
    class Reads(Late):
        def forward(self, label: Tensor | None = None, **x: Tensor) -> Any:
            assert label is not None
            return {"logits": super().forward(**x), "loss": label.float().mean()}

    g = torch.Generator().manual_seed(0)
    data = {"a": torch.randn(20, 3, generator=g), "b": torch.randn(20, 2, generator=g), "label": torch.arange(20) % 3}
    config = {"modalities": {"a": "encoders.a", "b": "encoders.b"}, "fusion": "fusion", "data": {"also": ["label"]}}
    adapter = adapt(Reads({"a": 3, "b": 2}), config, {"test": data})
    features = extract(adapter, "test")
    assert torch.equal(adapter.rerun(features.recorded, features.inputs).outputs, features.outputs)


def test_errors_are_collapsekit_errors_with_exit_codes() -> None:
    assert issubclass(NothingEvaluatedError, CollapsekitError)
    assert NothingEvaluatedError.exit_code == 5


def test_groups_of_the_data_widen_intervals_and_change_no_value(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, steps=60)
    n = SIZES["test"]
    ten = {f"{s}/patient": torch.arange(k) // 10 for s, k in SIZES.items()}
    # Ten copies of each patient: as good as a tenth of the examples.
    first = {k: v[(torch.arange(len(v)) // 10) * 10] for k, v in problem.arrays.items() if k.startswith("test/")}
    problem.saved({**problem.arrays, **first, **ten})
    asked = {"probes": ["reliance"], "options": {"reliance": {"draws": 4}}}
    plain = problem.diagnose(**asked)
    problem.config["data"]["group"] = "patient"
    grouped = problem.diagnose(**asked)

    def width(report: Report) -> float:
        low, high = report.find("reliance.full_loss").interval
        return high - low

    assert [r.value for r in grouped.results] == pytest.approx([r.value for r in plain.results], abs=1e-12)
    assert width(grouped) > 1.5 * width(plain)
    assert grouped.subject.examples == n
    problem.config["data"]["group"] = "nothing"
    with pytest.raises(DataError, match="has no 'nothing'"):
        problem.diagnose(**asked)
    problem.config["data"]["group"] = "patient"
    problem.saved({**problem.arrays, "test/patient": torch.zeros(n)})
    with pytest.raises(DataError, match="the same 'patient'"):
        problem.diagnose(**asked)


def test_taken_rows_keep_their_units(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, steps=0)
    problem.saved({**problem.arrays, **{f"{s}/patient": torch.arange(k) // 10 for s, k in SIZES.items()}})
    problem.config["data"]["group"] = "patient"
    # noise runs only some examples through the encoders again; their intervals are over whole patients, too.
    some = {"probes": ["noise"], "options": {"noise": {"examples": 70, "draws": 1}}}
    report = problem.diagnose(**some)
    assert report.find("noise.input", "image").interval is not None
    adapter = adapt(
        problem.model,
        problem.config,
        {
            s: {k.split("/")[1]: v for k, v in load_file(tmp_path / "data.safetensors").items() if k.startswith(s)}
            for s in SIZES
        },
    )
    features = extract(adapter, "test")
    rows = torch.arange(30, 90)
    assert features.groups is features.groups
    taken = features.taken(rows)
    assert taken.facts is not features.facts
    assert torch.equal(taken.units, features.units[rows])
    assert len(taken.groups) == len(taken) == 60
    assert torch.equal(taken.outputs, features.outputs[rows])
