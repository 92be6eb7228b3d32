"""What every probe promises, whatever it measures: each test runs over all built-in ones, so a new one is covered."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit import registry
from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.context import Settings
from collapsekit.data.arrays import ArraySource
from collapsekit.diagnosis import check_options, estimate_cost
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.measures import lookup, measures_of
from collapsekit.probes.runner import run_probe
from collapsekit.render.figures.diagnosis import draw, pictures_of, state
from collapsekit.render.figures.style import settle
from collapsekit.report.cost import CostRow
from collapsekit.report.diagnosis import Report, Result
from collapsekit.report.verdicts import judge
from collapsekit.session.session import Session
from tests.probes.counting import Counts, counted, differing
from tests.problems import Late, Problem, make_problem, train

registry.load_builtins()
PROBES = {n: s for n, s in registry.PROBES.items() if s.run.__module__.startswith("collapsekit.probes.")}
WIDTHS = {"sight": 5, "sound": 4, "touch": 4}  # sight and sound are what the renaming swaps
NAMES = {"sight": "sound", "sound": "sight"}
SIZES = {"train": 160, "val": 80, "test": 128}
FEW = {name: {"draws": 3} for name, spec in PROBES.items() if "draws" in spec.options.model_fields}
FEW["reliance"]["flips"] = True  # which are counted where they are asked for
OF_SAMPLING = {"reliance.seed_noise"}  # made of models that draw random numbers alone: tests/adapters/test_sampling.py

each_probe = pytest.mark.parametrize("probe", sorted(PROBES))


class Normed(Late):
    """With a buffer a probe could change, and random in training mode."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__(widths)
        self.fusion.insert(1, nn.BatchNorm1d(12))
        self.fusion.append(nn.Dropout(0.1))


@dataclass
class Variants:
    """The same problem told in other ways, each diagnosed once; and what each probe changed when run directly."""

    base: Report
    batches: Report
    shuffled: Report
    renamed: Report
    reordered: Report
    costs: dict[str, CostRow]  # what base was estimated to cost, by probe
    counts: Counts  # what it ran and trained
    backwards: dict[str, list[Result]]  # probes run on one Features, the last one first
    changed: dict[str, list[str]]  # what of model and Features each left in another state


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory, brief_joint: None) -> Variants:
    base = _problem(tmp_path_factory.mktemp("contract"))
    with preserve_rng_state():
        backwards, changed = _one_by_one(base)
    sections = base.config["modalities"]
    how: dict[str, Any] = {"probes": sorted(PROBES), "options": FEW, "profile": "quick", "config": base.config}
    with counted() as counts:
        estimated = estimate_cost(model=base.model, **how)
        counts.by_probe.clear()
        report = _diagnose(base)
    return Variants(
        base=report,
        costs={row.name: row for row in (estimated.opening, *estimated.probes)},
        counts=counts,
        batches=_diagnose(base, data={**base.config["data"], "batch_size": 37}),
        shuffled=_diagnose(_shuffled(base, tmp_path_factory.mktemp("shuffled"))),
        renamed=_diagnose(_renamed(base, tmp_path_factory.mktemp("renamed"))),
        reordered=_diagnose(base, modalities={m: sections[m] for m in ("touch", "sound", "sight")}),
        backwards=backwards,
        changed=changed,
    )


def _problem(folder: Path) -> Problem:
    """Sight says most, sound less, touch is noise; saved, as is a model of sight and sound, so that probes can build
    them again."""
    problem = make_problem(folder, WIDTHS, noise=["touch"], spread=1.5, sizes=SIZES, steps=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        problem.model = Normed(WIDTHS)
        train(problem.model, problem.arrays, list(WIDTHS), "classification", 60)
    problem.model.eval()
    problem.model.encoders["sight"].bias.requires_grad_(False)  # as a user may have left them
    torch.save(problem.model.state_dict(), folder / "ckpt.pt")
    factory = {"factory": "tests.probes.test_contract:Normed", "kwargs": {"widths": WIDTHS}}
    problem.config |= {"model": {**factory, "checkpoint": str(folder / "ckpt.pt")}, "metrics": ["macro_f1", "auroc"]}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        smaller = Normed({m: WIDTHS[m] for m in NAMES})
        train(smaller, problem.arrays, list(NAMES), "classification", 60)
    problem.config |= {"subsets": [_subset(smaller, WIDTHS, folder)]}
    return problem


def _subset(model: nn.Module, widths: Mapping[str, int], folder: Path) -> dict[str, Any]:
    torch.save(model.state_dict(), folder / "subset.pt")
    kwargs = {"widths": {m: d for m, d in widths.items() if m in NAMES}}
    return {"modalities": list(NAMES), "checkpoint": str(folder / "subset.pt"), "kwargs": kwargs}


def _diagnose(problem: Problem, **config: Any) -> Report:
    """All built-in probes on the live model."""
    return problem.diagnose(probes=sorted(PROBES), options=FEW, config={**problem.config, **config})


def _shuffled(base: Problem, folder: Path) -> Problem:
    """Rows of every split in another order."""
    g = torch.Generator().manual_seed(1)
    orders = {s: torch.randperm(len(base.arrays[f"{s}/label"]), generator=g) for s in ("train", "val", "test")}
    return _moved(base, folder, {k: v[orders[k.split("/")[0]]] for k, v in base.arrays.items()})


def _moved(base: Problem, folder: Path, arrays: dict[str, Tensor]) -> Problem:
    data = {**base.config["data"], "path": str(folder / "data.safetensors")}
    moved = replace(base, folder=folder, config={**base.config, "data": data})
    moved.saved(arrays)
    return moved


def _renamed(base: Problem, folder: Path) -> Problem:
    """Sight and sound swap their names everywhere: in model, checkpoint, config and data."""
    moved = _moved(base, folder, {_swap(k): v for k, v in base.arrays.items()})
    widths = {NAMES.get(m, m): d for m, d in WIDTHS.items()}
    moved.model = Normed(widths).eval()
    moved.model.load_state_dict({_swap(k): v for k, v in base.model.state_dict().items()})
    moved.model.encoders["sound"].bias.requires_grad_(False)
    torch.save(moved.model.state_dict(), folder / "ckpt.pt")
    model = {**base.config["model"], "kwargs": {"widths": widths}, "checkpoint": str(folder / "ckpt.pt")}
    modalities = {m: {"encoder": f"encoders.{m}"} for m in widths}
    smaller = torch.load(base.folder / "subset.pt", weights_only=True)
    other = Normed({m: d for m, d in widths.items() if m in NAMES})
    other.load_state_dict({_swap(k): v for k, v in smaller.items()})
    moved.config |= {"model": model, "modalities": modalities, "subsets": [_subset(other, widths, folder)]}
    return moved


def _swap(text: str) -> str:
    return re.sub("|".join(NAMES), lambda m: NAMES[m[0]], text)


def _one_by_one(problem: Problem) -> tuple[dict[str, list[Result]], dict[str, list[str]]]:
    """Run every probe without what diagnose() does to keep the model, noting what each leaves changed."""
    config = check_config(problem.config, base=Path.cwd())
    arrays: dict[str, dict[str, Tensor]] = {}
    for key, value in problem.arrays.items():
        split, name = key.split("/")
        arrays.setdefault(split, {})[name] = value
    adapter = ModuleAdapter(config, model=problem.model, source=ArraySource(arrays, "memory"))
    problem.model.head.bias.grad = torch.ones(3)
    features = extract(adapter, "test")
    options = check_options(FEW)
    found, changed = {}, {}
    for name in sorted(PROBES, reverse=True):
        before = dict(_state(problem.model, features))
        settings = Settings(others=options, profile="quick", cache=problem.folder / "cache")
        seed_everything(99)  # what a probe draws may not depend on the state that others left the generators in
        found[name] = run_probe(PROBES[name], Session.of(adapter, features, settings))
        after = dict(_state(problem.model, features))
        changed[name] = [k for k in before | after if before.get(k) != after.get(k)]
    problem.model.head.bias.grad = None
    return found, changed


def _state(model: nn.Module, features: Features) -> Iterator[tuple[str, object]]:
    """Everything a probe must leave as it is, by name, in a form that can be compared."""
    for name, value in model.state_dict().items():
        yield f"weights {name}", _content(value)
    for name, parameter in model.named_parameters():
        yield f"place of {name}", parameter.data_ptr()
        yield f"requires_grad of {name}", parameter.requires_grad
        yield f"grad of {name}", None if parameter.grad is None else _content(parameter.grad)
    for name, module in model.named_modules():
        yield f"training of {name}", module.training
        yield f"hooks on {name}", (len(module._forward_hooks), len(module._forward_pre_hooks))
    for split in ("test", "train", "val"):
        f = features.of(split)
        tensors = {**f.inputs, **{f"pooled {m}": x for m, x in f.pooled.items()}}
        tensors |= {f"recorded {m} {i}": x for m, parts in f.recorded.items() for i, x in enumerate(parts)}
        tensors |= {"fused": f.fused, "outputs": f.outputs, "targets": f.targets}
        for name, value in tensors.items():
            yield f"features {split} {name}", _content(value)


def _content(value: Tensor) -> tuple[object, ...]:
    return value.dtype, tuple(value.shape), value.requires_grad, value.detach().numpy().tobytes()


def _of(report: Report, probe: str) -> list[Result]:
    return [r for r in report.results if r.probe == probe]


def _json(results: list[Result]) -> str:
    return "\n".join(r.model_dump_json() for r in results)


# -- comparing results that rounding or another order of the modalities may touch -----------------------------------


def _unordered(results: list[Result], name: Callable[[str], str] = lambda m: m) -> dict[str, Any]:
    """Results by name and modality, whatever their order; the order of modalities in texts and labels put aside."""
    out: dict[str, Any] = {}
    for r in results:
        fields = r.model_dump(mode="json", exclude={"modality", "versus", "curve"})
        plain = {k: _words(name(v)) if isinstance(v, str) else v for k, v in fields.items()}
        if r.curve is not None:
            plain["curve"] = {_label(x, name): y for x, y in zip(r.curve.x, _points(r), strict=True)}
        about = [name(m) if m is not None else None for m in (r.modality, r.versus)]
        assert str((r.name, *about)) not in out
        out[str((r.name, *about))] = plain
    return out


def _words(text: str) -> list[str]:
    text = re.sub(r"SHA-256 [0-9a-f]+", "SHA-256", text)  # of a checkpoint, in which the modalities' names stand too
    return sorted(re.findall(r"[\w.]+", text))


def _label(x: float | str, name: Callable[[str], str]) -> str:
    return "+".join(sorted(name(x).split("+"))) if isinstance(x, str) else repr(x)


def _points(r: Result) -> list[tuple[float | None, ...]]:
    assert r.curve is not None
    none = [None] * len(r.curve.x)
    return list(zip(r.curve.y, r.curve.lower or none, r.curve.upper or none, strict=True))


def _differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """Where two nested values differ by more than rounding."""
    if isinstance(a, float) and isinstance(b, float):
        if not math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9):
            yield f"{where}: {a!r} and {b!r}"
    elif isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a:
            yield from _differences(a[key], b[key], f"{where} {key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _differences(x, y, f"{where} {i}")
    elif a != b:
        yield f"{where}: {a!r} and {b!r}"


# -- the promises -----------------------------------------------------------------------------------------------------


@each_probe
def test_the_same_bytes_again_whatever_ran_before(probe: str, variants: Variants) -> None:
    assert _json(variants.backwards[probe]) == _json(_of(variants.base, probe))


@each_probe
def test_model_and_features_stay_as_they_were(probe: str, variants: Variants) -> None:
    assert variants.changed[probe] == []


@each_probe
def test_the_batch_size_does_not_matter(probe: str, variants: Variants) -> None:
    base, other = _unordered(_of(variants.base, probe)), _unordered(_of(variants.batches, probe))
    assert list(_differences(base, other)) == []


@each_probe
def test_the_order_of_rows_does_not_matter(probe: str, variants: Variants) -> None:
    assert _json(_of(variants.shuffled, probe)) == _json(_of(variants.base, probe))


@each_probe
def test_two_modalities_that_swap_names_swap_results(probe: str, variants: Variants) -> None:
    base, other = _unordered(_of(variants.base, probe), _swap), _unordered(_of(variants.renamed, probe))
    assert list(_differences(base, other)) == []


@each_probe
def test_the_order_of_modalities_in_the_config_does_not_matter(probe: str, variants: Variants) -> None:
    base, other = _unordered(_of(variants.base, probe)), _unordered(_of(variants.reordered, probe))
    assert list(_differences(base, other)) == []


@each_probe
def test_results_survive_the_way_through_json(probe: str, variants: Variants) -> None:
    results, who = tuple(_of(variants.base, probe)), variants.base.subject
    judgement = judge(results, who.modalities, who.metric)
    report = variants.base.model_copy(update={"results": results, **judgement.fields})
    again = Report.from_json(report.to_json())
    assert again == report
    assert again.to_json() == report.to_json()


@each_probe
def test_something_is_measured_and_every_result_says_what_and_whence(probe: str, variants: Variants) -> None:
    results = _of(variants.base, probe)
    assert any(r.skipped is None for r in results), [r.skipped for r in results]
    for r in results:
        assert r.definition.strip()
        assert r.source.strip()
        assert r.skipped is None or r.skipped.strip()


@each_probe
def test_every_result_is_of_a_measure_that_says_the_same(probe: str, variants: Variants) -> None:
    for r in _of(variants.base, probe):
        measure = lookup(r.name)
        assert measure is not None, r.name
        assert measure.fits(r), (measure, r)


@each_probe
def test_every_measure_is_made_by_its_probe(probe: str, variants: Variants) -> None:
    names = {r.name for r in _of(variants.base, probe)} | OF_SAMPLING
    assert [m.name for m in measures_of(probe) if not any(map(m.names, names))] == []


@each_probe
def test_numbers_are_finite_and_lie_in_their_intervals(probe: str, variants: Variants) -> None:
    for r in _of(variants.base, probe):
        points = [(r.value, *(r.interval or (None, None)))] if r.value is not None else []
        for value, low, high in [*points, *(_points(r) if r.curve is not None else [])]:
            assert value is not None
            assert all(v is None or math.isfinite(v) for v in (value, low, high)), r
            assert low is None or low <= value + 1e-12, r
            assert high is None or value - 1e-12 <= high, r


@each_probe
def test_it_costs_what_it_says_before(probe: str, variants: Variants) -> None:
    row = variants.costs[probe]
    assert row.estimated, f"say in its file what it costs: @probe({probe!r}, ..., cost=...)"
    assert row.skipped is None
    assert differing(row, variants.counts.of(probe)) == {}
    assert bool(row.at_most) == bool(row.why)


def test_the_problem_tells_modalities_apart(variants: Variants) -> None:
    """Otherwise nothing above could fail: swapped results must differ from those not swapped."""
    credit = {r.modality: r.value for r in variants.base.named("reliance.shapley")}
    assert len({round(v, 3) for v in credit.values() if v is not None}) == 3
    names = [r.modality for r in variants.reordered.named("reliance.shapley")]
    assert names == ["touch", "sound", "sight"]


@each_probe
def test_its_figures_are_drawn_within_their_canvas(probe: str, variants: Variants) -> None:
    """Of what it yields here, and none of what it had to skip; the same drawing from the same report."""
    own = tuple(r for r in variants.base.results if r.probe == probe)
    report = variants.base.model_copy(update={"results": own})
    measured = any(r.value is not None or r.curve is not None for r in own)
    for wide in (True, False):
        figure = draw(report, probe, wide)
        assert (figure is not None) == measured
        if figure is not None:
            settle(figure)
            assert all(ax.get_window_extent().width > 0.25 * figure.dpi for ax in figure.axes)
            assert figure.get_tightbbox().width <= figure.get_figwidth() + 0.03  # inches
    pictures = pictures_of(report)
    assert pictures
    assert not measured or any(state(report, p) for p in pictures)
