"""Subjects on real data: views degraded by known amounts, models trained with views shuffled or not."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.planted.subjects import Made, Subject, train
from benchmarks.planted.worlds import Role
from collapsekit.demo.make import demo_data
from collapsekit.interventions.marginal import marginal_samples

FOLDER = Path(os.environ.get("COLLAPSEKIT_DATA", Path(__file__).parents[3] / "shared" / "data"))
VIEWS = {"mfeat": ("pix", "fou", "zer", "kar"), "avmnist": ("image", "audio")}


@dataclass(frozen=True)
class RealWorld:
    """What the planted worlds say of themselves, of real data; no posterior is known."""

    name: str
    roles: dict[str, Role]
    outputs: int = 10
    task: str = "classification"

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.roles)


def available() -> list[str]:
    """Data sets that are at hand: the embedded one, and avMNIST where its file is."""
    return ["mfeat", *(["avmnist"] if (FOLDER / "avmnist1500.safetensors").is_file() else [])]


def draw_real() -> list[Subject]:
    """Every data set with each view intact and used, ignored in training, half shuffled, and shuffled everywhere."""
    out = []
    for name in available():
        count = len(VIEWS[name])
        for view in range(count):
            for kind, degraded in (("healthy", 0.0), ("ignores", 0.0), ("ignores", 0.5), ("healthy", 1.0)):
                if kind == "healthy" and degraded == 0 and view:
                    continue
                ignored = (view,) if kind == "ignores" else ()
                world = {"kind": name, "degraded": degraded, "view": view, "task": "classification", "clusters": 1}
                out.append(
                    Subject(f"{name}-{len(out):02d}", kind, {**world, "distances": ()}, 0, "concat", ignored, view)
                )
    return out


def make_real(subject: Subject) -> Made:
    """The data set with one view taken from other examples in the given share of them, and a model trained on it."""
    name, share = subject.world["kind"], subject.world["degraded"]
    data = _mfeat() if name == "mfeat" else _avmnist()
    view = VIEWS[name][subject.world["view"]]
    if share > 0:
        for number, part in enumerate(data.values()):
            moved = torch.rand(len(part["label"]), generator=torch.Generator().manual_seed(number)) < share
            part[view] = torch.where(moved[:, None], part[view][marginal_samples(len(moved), 1, number)[0]], part[view])
    roles: dict[str, Role] = {v: "noise" if v == view and share == 1 else "redundant" for v in VIEWS[name]}
    return train(subject, RealWorld(name, roles), data)  # type: ignore[arg-type]


def truth_of_real(made: Made) -> dict[str, tuple[str, float | None, float | None]]:
    """By construction; a credit is not known."""
    ignored = made.subject.ignores(made.world)
    state = {m: "uninformative" if r == "noise" else "used" for m, r in made.world.roles.items()}
    return {m: ("collapsed" if m in ignored else s, None, None) for m, s in state.items()}


def _mfeat() -> dict[str, dict[str, Tensor]]:
    flat = demo_data()
    return {split: {v: flat[f"{split}/{v}"] for v in (*VIEWS["mfeat"], "label")} for split in ("train", "val", "test")}


def _avmnist() -> dict[str, dict[str, Tensor]]:
    from safetensors.torch import load_file

    raw = load_file(FOLDER / "avmnist1500.safetensors")
    image = F.avg_pool2d(raw["image"].float() / 255, 2).flatten(1)
    audio = F.avg_pool2d(raw["audio_logmel"].float() / 255, 4).flatten(1)
    return {
        split: {k: v[raw["split"] == i] for k, v in (("image", image), ("audio", audio), ("label", raw["label"]))}
        for i, split in enumerate(("train", "val", "test"))
    }
