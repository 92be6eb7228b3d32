"""Planted collapsed subjects, repaired: how often the collapsed modality becomes used with the task metric it should give.

python -m benchmarks.repair.planted --records planted.jsonl

What the file of records holds already is not made again, so that a run that was ended goes on, or gets further methods or
subjects.

A subject is a synthetic world whose exact posterior is known, and a model trained so that it ignores a modality (KINDS); it
counts where the diagnosis finds that, on val and on test, before any method has seen it.

- *gain of the balanced reference*: its test metric minus the collapsed model's. The reference is utilisation's: calibrated
  readouts of each modality, their evidence added up; of the collapsed checkpoint, so the same for all methods.
- *gain reached*: metric after minus before is at least 90 % of that. Where the reference gains less than 0.02 (copies say
  nothing new) 90 % of it is noise; there the metric must not be worse: the 95 % interval of the paired difference reaches 0,
  and the loss is at most 0.02. *of prior gain*, the weaker reading, only shown: (after - constant) / (reference - constant).
- *repaired*: accepted on val, every repaired modality `used` on test, the gain reached. What was rejected is not repaired,
  and as it leaves the model as it was, it makes nothing worse (*or kept*: if it had been exported all the same).
- *of able*: those repaired among the subjects where the same architecture, trained healthily from scratch, reaches the gain;
  where it does not, a repair that keeps the architecture has to do better than that.
- *worse*: accepted, and the paired difference of the test metric lies below 0 with its whole 95 % interval, or the verdict
  of any modality falls (used > underused > collapsed).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import collapsekit
from benchmarks.planted.measure import config_of
from benchmarks.planted.models import Model
from benchmarks.planted.subjects import Made, Subject, loss_of, train
from benchmarks.records import Records
from benchmarks.repair.measure import options_of
from benchmarks.repair.planted_table import LEVEL, Record, able, by, explained, judged, table
from collapsekit import registry
from collapsekit.adapters.base import Adapter
from collapsekit.config.load import check_config
from collapsekit.context import Progress, Settings
from collapsekit.diagnosis import check_options
from collapsekit.errors import CollapsekitError
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.session.opening import build_adapter
from collapsekit.session.session import Session
from collapsekit.stats.inference.jackknife import interval
from collapsekit.tasks.scoring import leave_out_metric

KINDS = {
    "fusion": "encoders learned what they can; fusion and head trained while the modality was another example's",
    "noise": "everything trained while the modality was another example's",
    "late": "trained without the modality, which then joined for a few epochs at a small learning rate",
    "slow": "trained together, the modality's encoder a hundred times slower",
    "decayed": "trained together, the modality's encoder under heavy weight decay",
}
METHODS = ("finetune", "dropout", "kd", "substitute", "ebr", "rtf", "kd,dropout", "kd,substitute")
SIZES = {"train": 1000, "val": 400, "test": 800}
DECIDING = ("utilisation", "prefix_gap")
KEY = ("subject", "method")  # of no method: why the candidate was left out
_RATE = 3e-3


def candidates(seed: int) -> Iterator[Subject]:
    """Subjects without end, the kinds in turn; whether each is collapsed is for ``prepare`` to say."""
    pick = random.Random(seed)
    number = 0
    while True:
        kind = list(KINDS)[number % len(KINDS)]
        world_kind = pick.choice(["complementary"] * 7 + ["redundant"] * 2 + ["synergy"])
        if kind == "slow":  # where nothing else says it, even a slow encoder's first features are used
            world_kind = "redundant"
        modalities = 3 if world_kind == "synergy" else pick.choice([2, 2, 3])
        fusion = pick.choice(["concat", "sum", "gated", "attention", "bilinear", "film", "late"])
        if world_kind == "synergy" and fusion == "late":
            fusion = "concat"  # nothing late can hold an exclusive-or
        world = {
            "kind": world_kind,
            "modalities": modalities,
            "task": pick.choice(["classification", "classification", "multilabel", "regression"]),
            "distances": (6.0,) if world_kind == "synergy" else pick.choice([(3.0,), (4.0,), (5.0,), (5.0, 3.0)]),
            "dims": (pick.choice([8, 16, 40]),),
            "clusters": 2 if world_kind == "complementary" and pick.random() < 0.3 else 1,
            "classes": pick.choice([3, 5]),
        }
        which = 0 if kind == "slow" else pick.randrange(modalities)
        yield Subject(f"{number:03d}", kind, world, SIZES["train"], fusion, (which,), pick.randrange(10**6))
        number += 1


def plant(subject: Subject) -> Made:
    """Draw the data and train the model as the kind says; nothing of val or test but early stopping."""
    world = subject.make_world()
    data = {s: world.sample(n, 1000 * subject.seed + i) for i, (s, n) in enumerate(SIZES.items())}
    if subject.kind == "noise":
        return replace(train(replace(subject, kind="ignores"), world, data), subject=subject)
    if subject.kind == "slow":
        return replace(train(replace(subject, kind="natural", ignored=()), world, data), subject=subject)
    weak = subject.ignores(world)
    if subject.kind == "fusion":
        made = replace(train(replace(subject, kind="healthy", ignored=()), world, data), subject=subject)
        new = {k: v for k, v in Model(**made.kwargs).state_dict().items() if not k.startswith("encoders.")}
        made.model.load_state_dict(new, strict=False)
        rest = [p for k, p in made.model.named_parameters() if k in new]
        _fit(made, [{"params": rest}], 60, lambda m, v: v[torch.randperm(len(v))] if m in weak else v)
        return made
    kwargs = {"dims": {m: data["train"][m].shape[1] for m in world.modalities}, "outputs": world.outputs}
    kwargs |= {"fusion": subject.fusion, **subject.model}
    torch.manual_seed(subject.seed)
    made = Made(subject, world, Model(**kwargs), kwargs, data)  # type: ignore[arg-type]
    own = [p for k, p in made.model.named_parameters() if k.startswith(tuple(f"encoders.{m}." for m in weak))]
    others = [p for k, p in made.model.named_parameters() if not any(p is q for q in own)]
    if subject.kind == "late":
        _fit(made, [{"params": others}], 60, lambda m, v: torch.zeros_like(v) if m in weak else v)
        _fit(made, [{"params": [*own, *others], "lr": _RATE / 30}], 3, lambda m, v: v)
    else:
        _fit(made, [{"params": others}, {"params": own, "weight_decay": 100.0}], 60, lambda m, v: v)
    return made


def _fit(made: Made, groups: list[dict[str, Any]], epochs: int, shown: Callable[[str, Tensor], Tensor]) -> None:
    """AdamW, the epoch of the least val loss kept; modality m is ``shown(m, its values)``."""
    model, world, (fit, held) = made.model, made.world, (made.data["train"], made.data["val"])
    torch.manual_seed(made.subject.seed + 1)
    optimizer = torch.optim.AdamW(groups, lr=_RATE, weight_decay=1e-2)

    def loss(part: dict[str, Tensor], rows: Tensor) -> Tensor:
        return loss_of(world.task, model(**{m: shown(m, part[m][rows]) for m in world.modalities}), part["label"][rows])

    best, state = float("inf"), model.state_dict()
    for _ in range(epochs):
        for rows in torch.randperm(len(fit["label"])).split(64):
            optimizer.zero_grad()
            loss(fit, rows).backward()
            optimizer.step()
        now = float(loss(held, torch.arange(len(held["label"]))).detach())
        if now < best:
            best, state = now, {k: v.detach().clone() for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    model.eval()


@contextlib.contextmanager
def only_deciding() -> Iterator[None]:
    """Reports run the probes that verdicts are read from, and no other: half of a repair's time here is the others'."""
    registry.load_builtins()
    known = dict(registry.PROBES)
    registry.PROBES.update({name: replace(spec, default=name in DECIDING) for name, spec in known.items()})
    try:
        yield
    finally:
        registry.PROBES.update(known)


@dataclass
class Case:
    """A planted subject on disk, and what the diagnosis says of it before anything is repaired."""

    made: Made
    folder: Path
    config: dict[str, Any]
    profile: str
    metric: Tensor  # on test, and with each group left out
    reference: float
    constant: float
    possible: float  # the exact posterior's
    healthy: float  # of the same architecture, trained from scratch so that it uses everything


def prepare(made: Made, folder: Path, profile: str = "standard") -> Case | str:
    """The case, or why it is none: the diagnosis has to find what was planted, on val and on test."""
    config = config_of(made, folder)
    sound = train(replace(made.subject, kind="healthy", ignored=()), made.world, made.data)
    for file, model in (("ckpt.pt", made.model), ("healthy.pt", sound.model)):
        torch.save(model.state_dict(), folder / file)
    planted = made.subject.ignores(made.world)
    same: dict[str, Any] = {"profile": profile, "cache": folder / "cache"}
    for split in ("val", "test"):
        report = collapsekit.diagnose(folder / "ckpt.pt", config=config, split=split, probes=DECIDING, **same)
        for m in planted:
            if (found := report.modalities[m].verdict) not in ("collapsed", "underused"):
                return f"{m}, planted, is {found} on {split}"
    adapter, features = _on_test(config, folder / "ckpt.pt")
    settings = Settings(seed=0, level=LEVEL, progress=Progress(), others=check_options({}), **same)
    session = Session.of(adapter, features, settings)
    reference = session.balanced_reference.whole  # no result says its own metric
    test = made.data["test"]
    best = made.world.best(test, made.world.modalities).reshape(SIZES["test"], -1)
    return Case(
        made=made,
        folder=folder,
        config=config,
        profile=profile,
        metric=_metric(adapter, features),
        reference=float(reference.value(session.game.full).metric[0]),
        constant=float(reference.constant().metric[0]),
        healthy=float(_metric(*_on_test(config, folder / "healthy.pt"))[0]),
        possible=adapter.task.metric(best, adapter.task.check(test["label"], best, "test")),
    )


def _on_test(config: dict[str, Any], checkpoint: Path) -> tuple[Adapter, Features]:
    return (adapter := build_adapter(check_config(config, base=Path.cwd()), checkpoint)), extract(adapter, "test")


def _metric(adapter: Adapter, features: Features) -> Tensor:
    """The task metric of the model's outputs, and with each group of examples left out."""
    expected = adapter.task.expect(features.outputs)
    return leave_out_metric(adapter.task, expected, features.targets, features.groups)


def attempt(
    case: Case, chain: str, training: dict[str, Any] | None = None, options: dict[str, dict[str, Any]] | None = None
) -> Record:
    """One method (or chain, "kd,dropout") on one case through collapsekit.repair: a plain record."""
    made, began, folder = case.made, time.perf_counter(), case.folder / chain.replace(",", "-")
    record: Record = {
        **{"subject": made.subject.name, "kind": made.subject.kind, "fusion": made.subject.fusion},
        **{"world": made.world.name, "task": made.world.task, "method": chain},
        "planted": list(made.subject.ignores(made.world)),
        **{"metric_before": float(case.metric[0]), "metric_reference": case.reference},
        **{"metric_constant": case.constant, "metric_possible": case.possible, "metric_healthy": case.healthy},
    }
    try:
        with only_deciding():
            # What was rejected is kept to be measured; it counts as not repaired.
            how: dict[str, Any] = {"method": chain, "training": training, "control": False, "keep": True}
            how |= {"options": options, "profile": case.profile, "cache": case.folder / "cache", "config": case.config}
            report = collapsekit.repair(case.folder / "ckpt.pt", output=folder, **how)
    except CollapsekitError as e:
        return record | {"refused": str(e), "accepted": False, "seconds": time.perf_counter() - began}
    after = _metric(*_on_test(case.config, folder / "model.safetensors"))
    apart = (after - case.metric).tolist()
    pairs = {m: (report.before.modalities[m], v) for m, v in report.after.modalities.items()}
    return record | {
        "refused": None,
        "accepted": report.accepted,
        "failed_checks": [c.sentence for c in report.checks if not c.passed],
        "repaired": list(report.repaired),
        "verdicts": {m: [a.verdict, b.verdict] for m, (a, b) in pairs.items()},
        "scores": {m: [a.score, b.score] for m, (a, b) in pairs.items()},
        "metric_after": float(after[0]),
        "difference": apart[0],
        "interval": interval(apart[0], apart[1:], LEVEL),
        "stages": [[c.stage, c.kept, c.epochs[-1], c.held[0], min(c.held)] for c in report.losses],
        "seconds": time.perf_counter() - began,
    }


def leave_out(subject: Subject, reason: str) -> Record:
    """Make the record of a candidate in which the diagnosis does not find what was planted."""
    world = {"world": subject.world["kind"], "task": subject.world["task"]}
    return {
        "subject": subject.name,
        "kind": subject.kind,
        "fusion": subject.fusion,
        **world,
        "method": None,
        "reason": reason,
    }


def measure(
    subject: Subject,
    methods: Sequence[str],
    known: Records,
    profile: str,
    training: dict[str, Any],
    options: dict[str, dict[str, Any]],
) -> list[Record]:
    """Make those records of a candidate that are not known yet.

    Args:
        subject: The candidate.
        methods: Names of repairs, or chains.
        known: What was measured before; gets what is measured now, one record after the other.
        profile: Of the diagnoses.
        training: Settings of training.
        options: Of every method, by name.

    Returns:
        A record of each method, in their order; or a single one, of no method, where the candidate is left out.
    """
    if (out := known.find(subject=subject.name, method=None)) is not None:
        return [out]
    missing = [m for m in methods if known.find(subject=subject.name, method=m) is None]
    if missing:
        with tempfile.TemporaryDirectory() as name:
            case = prepare(plant(subject), Path(name), profile)
            if isinstance(case, str):
                known.add(leave_out(subject, case))
                return known.records[-1:]
            for method in missing:
                known.add(attempt(case, method, training, options))
    every = [known.find(subject=subject.name, method=m) for m in methods]
    return [record for record in every if record is not None]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How often each repair does what it is for, on planted subjects.")
    parser.add_argument("--count", type=int, default=20, help="collapsed subjects")
    parser.add_argument("--seed", type=int, default=0, help="which subjects are drawn")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="names of repairs, or chains as kd,dropout")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--profile", default="standard", help="profile of the diagnosis")
    parser.add_argument("--set", dest="options", nargs="*", default=[], metavar="METHOD.OPTION=JSON")
    parser.add_argument("--training", type=json.loads, default={}, help="JSON of training settings")
    parser.add_argument("--records", type=Path, help="file of the records, one JSON object a line, to go on from")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    how = {"profile": given.profile, "training": given.training, "options": options_of(given.options)}
    known = Records(given.records, {"seed": given.seed, **how}, KEY)
    began, counted, records, left = time.perf_counter(), 0, list[Record](), list[Record]()
    for subject in (s for s in candidates(given.seed) if s.kind in given.kinds):
        made = measure(subject, given.methods, known, **how)
        if made[0]["method"] is None:
            left += made
            continue
        records += made
        counted += 1
        if counted == given.count:
            break
    took = time.perf_counter() - began
    print(f"{counted} collapsed subjects, {len(left)} left out; {took:.0f} s\n\n{table(records)}")
    print(f"\nthe same models trained healthily from scratch reach the gain: {able(records)}")
    print(f"\nrepaired\n\n{by(records, 'kind')}\n\n{by(records, 'world')}\n\n{by(records, 'task')}")
    bad = [r for r in records if not judged(r)["repaired"] or judged(r)["worse"]]
    print("\nnot repaired, or worse\n" + ("\n".join(explained(r) for r in bad) or "none"))
    reasons = ["{subject} {kind} {world} {fusion}: {reason}".format(**r) for r in left]
    print("\nleft out, the diagnosis did not find what was planted\n" + ("\n".join(reasons) or "none"))


if __name__ == "__main__":
    main()
