"""What is done on the CPU and on a device, and the numbers that have to agree: probes, repairs, live models."""

from __future__ import annotations

import contextlib
import copy
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

import collapsekit
from benchmarks.gpu.subjects import EVERYWHERE, KINDS, build, make_project
from benchmarks.plugins import import_plugin
from benchmarks.repair.planted import only_deciding
from collapsekit.adapters.inserts import substitute_missing
from collapsekit.config.load import check_config
from collapsekit.context import Progress
from collapsekit.features.extraction import extract
from collapsekit.interventions.edits import unread_inputs
from collapsekit.interventions.replay import by_row
from collapsekit.report.diagnosis import Report
from collapsekit.session.opening import build_adapter

Numbers = dict[str, float | None]
REPAIRS: dict[str, dict[str, Any]] = {
    "finetune": {},
    "late_fusion": {},
    "dropout": {"dropout": {"fresh_fusion": True, "warm_up": True}},
    "kd": {"kd": {"width": 6, "negatives": 8, "warm_up": True}},
    "substitute": {},
    "ebr": {"ebr": {"adversary": 0.5, "interleave": 1}},
    "rtf": {"rtf": {"fresh_fusion": True}},
    "kd,dropout": {"kd": {"width": 6, "negatives": 8}},
}
BRIEF = {"epochs": 2, "batch": 16, "rate": 0.01}
FEW = {"prefix_gap": {"epochs": 4, "rates": [0.01]}, "rank_sweep": {"mode": "train", "epochs": 3, "betas": [0.5, 1, 2]}}


@dataclass(frozen=True)
class Check:
    """One piece of work that gives the same numbers on any device. ``trained``: they come out of training on it, in which
    rounding grows; ``anywhere``: whether it needs no kernel that a plain backend may lack."""

    name: str
    numbers: Callable[[str, Path], Numbers]  # the device, and a folder to work in
    trained: bool = False
    anywhere: bool = True


@contextlib.contextmanager
def briefly() -> Iterator[None]:
    """Joint networks train for a moment: what they learn is not what is asked here."""
    from collapsekit.readouts import synergy as joint

    before = joint.EPOCHS, joint.STEPS
    joint.EPOCHS, joint.STEPS = 10, 1
    try:
        yield
    finally:
        joint.EPOCHS, joint.STEPS = before


@cache
def project(folder: Path, kind: str, task: str = "classification") -> dict[str, Any]:
    """The subject's config, made once a folder."""
    return make_project(folder / f"{kind} {task}", kind, task)


def numbers_of(report: Report) -> Numbers:
    """Every number of a report by name; what was skipped is None, so that an error on one side is seen."""
    found: Numbers = {}
    for r in report.results:
        name = ", ".join(filter(None, [r.name, r.modality, r.versus]))
        found[name] = r.value
        if r.curve is not None:
            found |= {f"{name} at {x}": y for x, y in zip(r.curve.x, r.curve.y, strict=True)}
        for end, value in zip(("lower", "upper"), r.interval or (), strict=False):
            found[f"{name}.{end}"] = value
    return found


def diagnosed(device: str, folder: Path, *, kind: str, task: str = "classification", profile: str = "quick") -> Numbers:
    """Every default probe, and growing where there are models of fewer modalities."""
    notes = _Notes()
    report = collapsekit.diagnose(
        config=project(folder, kind, task),
        device=device,
        profile=profile,  # type: ignore[arg-type]
        subsets=kind == "linear" and task == "classification",
        options=FEW if profile != "quick" else None,
        cache=folder / f"cache {device}",
        progress=notes,
    )
    return numbers_of(report) | {"trained one at a time": notes.slow}


def shortcuts(device: str, folder: Path, *, kind: str) -> Numbers:
    """Which shortcuts are found to be open: where one fails, the long way gives the same numbers, and nobody would see."""
    config = check_config(project(folder, kind), base=Path.cwd())
    adapter = build_adapter(config, config.model.checkpoint, device=device)
    features = extract(adapter, "test")
    return {
        "answers by row": by_row(adapter, features),
        "inputs not read past the encoders": len(unread_inputs(adapter, features)),
    }


class _Notes(Progress):
    """Counts notes that something has to be done the slow way."""

    slow = 0

    def note(self, text: str) -> None:
        self.slow += "one at a time" in text


def repaired(
    device: str, folder: Path, *, method: str, kind: str = "linear", resumed: bool = False, **how: Any
) -> Numbers:
    """A repair of the modality that the model ignores: its weights, and what the reports say before and after."""
    output = folder / f"{kind} {method} {device.partition(':')[0]}{' again' if resumed else ''}"
    shutil.rmtree(output, ignore_errors=True)
    asked: dict[str, Any] = {
        **{"config": project(folder, kind), "method": method, "modalities": list(KINDS[kind])[-1:], "output": output},
        **{"options": REPAIRS[method], "training": {**BRIEF, **how}, "control": method == "finetune", "keep": True},
        **{"profile": "quick", "device": device, "cache": folder / f"cache {device}"},
    }
    with only_deciding():
        if resumed:
            with contextlib.suppress(KeyboardInterrupt):
                collapsekit.repair(**asked, progress=_Stopping())
            assert (output / "snapshots").is_dir(), "it was not interrupted"
        report = collapsekit.repair(**asked, resume=resumed)
    numbers = {f"{part}: {k}": v for part in ("before", "after") for k, v in numbers_of(getattr(report, part)).items()}
    return numbers | state_numbers(_loaded(output, kind, "cpu"))


class _Stopping(Progress):
    """Interrupts training once its first epoch is over."""

    def step(self, what: str, done: int, total: int | None, said: str = "") -> None:
        if said.startswith("held-out loss") and done == 1:
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C does


def _loaded(output: Path, kind: str, device: str) -> nn.Module:
    return collapsekit.load_repaired(output, build(kind).to(device))


def state_numbers(model: nn.Module) -> Numbers:
    """Sum, mean square and largest value of every weight and buffer."""
    found: Numbers = {}
    for name, value in model.state_dict().items():
        x = value.detach().cpu().double()
        if x.numel():
            found |= {
                f"{name} sum": float(x.sum()),
                f"{name} square": float(x.square().mean()),
                f"{name} max": float(x.max()),
            }
    return found


def substituted(device: str, folder: Path) -> Numbers:
    """Outputs of a model repaired by ebr, loaded into one that is on the device already, with a modality absent."""
    output = folder / "linear ebr cpu"
    if not (output / "model.safetensors").is_file():
        repaired("cpu", folder, method="ebr")
    model = _loaded(output, "linear", device)
    assert {p.device.type for p in model.parameters()} == {torch.device(device).type}
    inputs = {k: v.to(device) for k, v in _held("linear", folder).items() if k != "label"}
    gone = torch.arange(len(inputs["a"])) % 2 == 0
    found: Numbers = {}
    with torch.no_grad():
        for where, mask in (("here", gone), ("there", gone.to(device))):
            with substitute_missing(model, {"c": mask}):
                found |= _listed(f"mask {where}", model(**inputs))
        return found | _listed("whole", model(**inputs))


def monitored(device: str, folder: Path, *, kind: str) -> Numbers:
    """The monitor of training on a model and batches on the device: what it says over two steps."""
    config, held = project(folder, kind), _held(kind, folder)
    model = _live(config, device).train()
    before = state_numbers(model)
    monitor = import_plugin("callbacks").Monitor(
        model, {k: v.to(device) for k, v in held.items()}, _without_data(config), every=1
    )
    found = {f"before: {k}": v for k, v in monitor.measure().items()}
    assert state_numbers(model) == before
    assert model.training
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = _live_inputs(config, held, device)
    nn.functional.cross_entropy(model(**inputs), held["label"].to(device)).backward()
    optimizer.step()
    return found | {f"after: {k}": v for k, v in (monitor.step(1) or {}).items()}


def live(device: str, folder: Path, *, kind: str, there: bool) -> Numbers:
    """A live model that is on the device already, with data on the CPU or (``there``) on the device."""
    config = project(folder, kind)
    model = _live(config, device)
    parameters, before = list(model.parameters()), state_numbers(model)
    data = {s: {k: v.to(device) if there else v for k, v in _split(kind, folder, s).items()} for s in ("train", "test")}
    torch.manual_seed(7)
    report = collapsekit.diagnose(
        model=model,
        data=data,
        config=_without_data(config),
        device=device,
        profile="quick",
        probes=["reliance", "spectrum"],
    )
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert {p.device.type for p in model.parameters()} == {torch.device(device).type}
    assert state_numbers(model) == before
    drawn = torch.rand(2), torch.rand(2, device=device)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(2), drawn[0])  # the generators were given back as they were
    assert torch.equal(torch.rand(2, device=device), drawn[1])
    return numbers_of(report)


def moved(device: str, folder: Path) -> Numbers:
    """A live model on the CPU that is diagnosed on the device, and given back where it was."""
    config = project(folder, "linear")
    model = _live(config, "cpu")
    report = collapsekit.diagnose(
        model=model, config=config, device=device, profile="quick", probes=["reliance", "gradient_rank"]
    )
    assert {t.device.type for t in model.state_dict().values()} == {"cpu"}
    return numbers_of(report)


def _live(config: Mapping[str, Any], device: str) -> nn.Module:
    adapter = build_adapter(check_config(config, base=Path.cwd()), config["model"]["checkpoint"])
    return copy.deepcopy(adapter.model).to(device)


def _live_inputs(config: Mapping[str, Any], held: Mapping[str, Tensor], device: str) -> dict[str, Tensor]:
    scales = {m: section.get("scale", 1) for m, section in config["modalities"].items()}
    given = {k: v.to(device) for k, v in held.items() if k != "label"}
    return {k: v / scales[k] if scales.get(k, 1) != 1 else v for k, v in given.items()}


def _without_data(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in ("data", "model", "subsets")}


def _split(kind: str, folder: Path, split: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    arrays = load_file(project(folder, kind)["data"]["path"])
    return {k.removeprefix(f"{split}/"): v for k, v in arrays.items() if k.startswith(f"{split}/")}


def _held(kind: str, folder: Path) -> dict[str, Tensor]:
    return {k: v[:32] for k, v in _split(kind, folder, "val").items()}


def _listed(name: str, values: Tensor) -> Numbers:
    return {f"{name} {i}": v for i, v in enumerate(values.detach().cpu().flatten().tolist())}


def make_checks() -> list[Check]:
    """All checks, the short ones first."""
    found = [
        *(Check(f"diagnose {k}, quick", partial(diagnosed, kind=k), anywhere=k in EVERYWHERE) for k in KINDS),
        *(Check(f"shortcuts {k}", partial(shortcuts, kind=k), anywhere=k in EVERYWHERE) for k in KINDS),
        Check("substitution on a loaded repair", substituted, trained=True),
        *(Check(f"monitor {k}", partial(monitored, kind=k), anywhere=k in EVERYWHERE) for k in KINDS),
        *(Check(f"live {k}", partial(live, kind=k, there=True), anywhere=k in EVERYWHERE) for k in KINDS),
        Check("live linear, data on the CPU", partial(live, kind="linear", there=False)),
        # torch moves a module's weights in place where both kinds of tensor allow it, which a plain backend's do not.
        Check("live model moved, and given back", moved, anywhere=False),
        *(Check(f"repair {m}", partial(repaired, method=m), trained=True) for m in REPAIRS),
        Check("repair ebr, resumed", partial(repaired, method="ebr", resumed=True), trained=True),
        Check("repair kd,dropout, resumed", partial(repaired, method="kd,dropout", resumed=True), trained=True),
    ]
    for kind in KINDS:
        if kind != "linear":
            methods = ("ebr", "rtf") if kind in ("convolution", "attention") else ("dropout",)
            repairs = [(f"repair {m}, {kind}", partial(repaired, method=m, kind=kind)) for m in methods]
            found += [Check(name, run, trained=True, anywhere=kind in EVERYWHERE) for name, run in repairs]
    for task in ("multilabel", "regression", "contrastive"):
        found.append(Check(f"diagnose linear, {task}", partial(diagnosed, kind="linear", task=task)))
    for profile in ("standard", "full"):
        for kind in KINDS if profile == "standard" else ("linear",):
            run = partial(diagnosed, kind=kind, profile=profile)
            found.append(Check(f"diagnose {kind}, {profile}", run, trained=True, anywhere=kind in EVERYWHERE))
    found.append(
        Check("repair dropout, --amp", partial(repaired, method="dropout", amp=True), trained=True, anywhere=False)
    )
    return found


@dataclass(frozen=True)
class Outcome:
    """What became of a check: the largest difference, relative beyond 1, and which numbers differ by more than allowed."""

    name: str
    numbers: int
    worst: float
    odd: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.odd


def compare(check: Check, here: Numbers, there: Numbers, tolerance: float) -> Outcome:
    """The numbers of the CPU beside those of the device."""
    odd, worst = [], 0.0
    for name in dict.fromkeys([*here, *there]):
        a, b = here.get(name), there.get(name)
        if a is None or b is None:
            if a is not b or (name in here) != (name in there):
                odd.append(f"{name}: {a} on the CPU, {b} on the device")
            continue
        away = abs(a - b) / max(1.0, abs(a))
        worst = max(worst, away)
        if not away <= tolerance:
            odd.append(f"{name}: {a:.6g} on the CPU, {b:.6g} on the device")
    return Outcome(check.name, len(here), worst, tuple(odd))


def run_check(check: Check, device: str, folder: Path, tolerance: float) -> Outcome:
    """Do it on the CPU and on the device. An error is an outcome, too."""
    try:
        with briefly():
            here, there = check.numbers("cpu", folder), check.numbers(device, folder)
    except Exception as e:  # noqa: BLE001 - whatever it is, the next check goes on
        return Outcome(check.name, 0, 0.0, (f"{type(e).__name__}: {e}",))
    return compare(check, here, there, tolerance)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Part = TypeVar("Part", bound=_Named)


def named(checks: list[Part], names: list[str]) -> list[Part]:
    """Those whose names hold one of ``names``; all where there are none."""
    return [c for c in checks if not names or any(n in c.name for n in names)]


__all__ = ["Check", "Outcome", "make_checks", "named", "run_check"]
