"""Does the probe `entanglement` rise where noise is put into neurons of another modality, and fall after a repair?

python -m benchmarks.entanglement --seeds 4 --records entanglement.jsonl

Subjects are synthetic worlds of two modalities that say different things, of which the codes are known:

- *sound*: trained with a head on each encoder; nothing is ignored;
- *fresh*: its encoders, before a fusion and a head of new random weights;
- *dose d*: the same model, its first mixing layer changed: to each neuron a random combination of the first modality's
  noise is added, of d times the deviation that the neuron had. Noise are the directions of its features in which no two
  states differ in the mean, by the world's own states and not by the probe's readouts;
- *fusion*, *noise*, *slow*: collapsed, as in benchmarks.repair.planted.

A method is applied to the modality that is dosed or collapsed, with its default options, and measured whether or not it was
accepted. All is measured on test.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import collapsekit
from benchmarks.planted.measure import config_of
from benchmarks.planted.subjects import Made, Subject
from benchmarks.planted.subjects import train as train_subject
from benchmarks.repair.planted import only_deciding, plant
from collapsekit.errors import CollapsekitError

DOSES = (0.5, 1.0, 2.0)
COLLAPSED = ("fusion", "noise", "slow")
METHODS = ("finetune", "kd", "ebr")
SUBJECTS = ("sound", "fresh", *(f"dose {d:g}" for d in DOSES), *COLLAPSED)
REPAIRED = ("dose 1", *COLLAPSED)
SIZES = {"train": 1000, "val": 400, "test": 800}
SHOWN = ("entangled", "expected", "shared_drive", "expected_shared")


def subject_of(kind: str, seed: int) -> Subject:
    """A world of the kind, and how its model is trained."""
    world = {
        "kind": "redundant" if kind == "slow" else "complementary",
        "modalities": 2,
        "distances": (3.0,),
        "dims": (16,),
        "classes": 3,
    }
    return Subject(f"{kind}-{seed}", kind, world, SIZES["train"], "concat", (0,), seed)


def sound(seed: int) -> Made:
    """A model that uses everything."""
    subject = replace(subject_of("healthy", seed), ignored=())
    world = subject.make_world()
    data = {s: world.sample(n, 1000 * seed + i) for i, (s, n) in enumerate(SIZES.items())}
    return train_subject(subject, world, data)


def fresh(made: Made) -> Made:
    """The same encoders before a fusion and a head that learned nothing."""
    torch.manual_seed(made.subject.seed + 1)
    model = type(made.model)(**made.kwargs)
    model.load_state_dict({k: v for k, v in made.model.state_dict().items() if k.startswith("encoders.")}, strict=False)
    return replace(made, model=model.eval())


@torch.no_grad()
def dosed(made: Made, dose: float) -> Made:
    """The same with noise of the first modality in every neuron of the first layer."""
    model, modality = type(made.model)(**made.kwargs), made.world.modalities[0]
    model.load_state_dict(made.model.state_dict())
    x = made.data["train"]
    features = {m: model.encoders[m](x[m]) for m in made.world.modalities}  # type: ignore[index]
    layer = model.fusion.mix[0]  # type: ignore[union-attr, index]
    before = layer(torch.cat(list(features.values()), 1)).std(0)
    quiet = _noise_directions(made, model.encoders[modality])  # type: ignore[index]
    own = features[modality]
    g = torch.Generator().manual_seed(made.subject.seed)
    added = quiet @ torch.randn(quiet.shape[1], len(before), generator=g)
    added *= dose * before / (own @ added).std(0)
    layer.weight[:, : own.shape[1]] += added.T
    return replace(made, model=model.eval())


def _noise_directions(made: Made, encoder: Any) -> Tensor:
    """Directions of the first modality's features, columns, along which the means of its states are alike."""
    world = made.world
    codes = world.codes[0].flatten(0, 1)
    g = torch.Generator().manual_seed(1)
    means = torch.stack([encoder(c + torch.randn(2000, len(c), generator=g)).mean(0) for c in codes])
    spread = means - means.mean(0)
    return torch.linalg.svd(spread)[2][len(codes) - 1 :].T


def read(checkpoint: Path, config: dict[str, Any], target: str) -> dict[str, Any]:
    """What the probe says of a checkpoint on test, and the task metric."""
    how: dict[str, Any] = {"config": config, "split": "test", "profile": "quick"}
    report = collapsekit.diagnose(checkpoint, probes=["entanglement", "reliance"], **how)
    other = next(m for m in report.subject.modalities if m != target)
    found = {name: report.find(f"entanglement.{name}") for name in SHOWN}
    found |= {name: report.find(f"entanglement.{name}", target, other) for name in ("pair", "feature_ratio")}
    found |= {name: report.find(f"entanglement.{name}", target) for name in ("noisy_drive", "expected_ratio")}
    found |= {f"gradient_{m or 'all'}": report.find("entanglement.gradient_sum", m) for m in (None, target)}
    values = {name: None if r is None else r.value for name, r in found.items()}
    return {**values, "metric": report.find("reliance.full_metric").value}  # type: ignore[union-attr]


def records(seed: int, names: Sequence[str], methods: Sequence[str] = METHODS) -> Iterator[dict[str, Any]]:
    """Those subjects of a seed, before and after each of ``methods``."""
    made = sound(seed)
    makers: dict[str, Callable[[], Made]] = {"sound": lambda: made, "fresh": lambda: fresh(made)}
    makers |= {f"dose {d:g}": partial(dosed, made, d) for d in DOSES}
    makers |= {kind: partial(plant, subject_of(kind, seed)) for kind in COLLAPSED}
    for name in names:
        one = makers[name]()
        target = (one.subject.ignores(one.world) or one.world.modalities)[0]
        with tempfile.TemporaryDirectory() as folder:
            at = Path(folder)
            config = config_of(one, at)
            torch.save(one.model.state_dict(), at / "ckpt.pt")
            about = {"seed": seed, "subject": name, "target": target}
            yield {**about, "method": "before", **read(at / "ckpt.pt", config, target)}
            for method in methods if name in REPAIRED else ():
                how: dict[str, Any] = {"control": False, "keep": True, "profile": "quick", "modalities": [target]}
                try:
                    with only_deciding():
                        collapsekit.repair(at / "ckpt.pt", output=at / method, method=method, config=config, **how)
                except CollapsekitError as e:
                    yield {**about, "method": method, "refused": str(e)}
                    continue
                yield {**about, "method": method, **read(at / method / "model.safetensors", config, target)}


def table(every: Sequence[dict[str, Any]]) -> str:
    """Means over seeds, a row a subject and method."""
    names = [k for k in every[0] if k not in ("seed", "subject", "target", "method")]
    rows = [["subject", "method", "n", *names]]
    for subject, method in dict.fromkeys((r["subject"], r["method"]) for r in every):
        of = [r for r in every if (r["subject"], r["method"]) == (subject, method) and "refused" not in r]
        cells = []
        for name in names:
            values = torch.tensor([r[name] for r in of if r[name] is not None], dtype=torch.float64)
            cells.append(f"{float(values.mean()):.3g}" if len(values) else "-")
        rows.append([subject, method, str(len(of)), *cells])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description="Does entanglement rise with planted noise, and fall after a repair?")
    parser.add_argument("--seeds", type=int, default=4, help="worlds of each kind")
    parser.add_argument("--subjects", nargs="+", default=SUBJECTS, choices=SUBJECTS, help="which of them")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="repairs of those that are dosed or collapsed")
    parser.add_argument("--records", type=Path, default=Path("entanglement.jsonl"), help="where each record goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    every = []
    with options.records.open("w", encoding="utf-8") as file:
        for seed in range(options.seeds):
            for record in records(seed, options.subjects, options.methods):
                file.write(json.dumps(record) + "\n")
                file.flush()
                every.append(record)
    print(table(every))


if __name__ == "__main__":
    main()
