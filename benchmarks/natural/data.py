"""Real data by split: inputs as the files have them, and labels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.natural.settings import Setting
from benchmarks.planted.real import FOLDER
from collapsekit.demo.make import load_mfeat

PEPTIDES = Path(__file__).parents[2] / "examples" / "public_checkpoint" / "data.safetensors"
PEPTIDES_READ = {"train": 4000, "val": 600, "test": 1000}
SPLITS = ("train", "val", "test")
Split = dict[str, Tensor]


@dataclass(frozen=True)
class Data:
    """Inputs (n, ...) and ``label`` (n,) or (n, 1) by split; how many outputs a model of them has.

    ``fresh``, where there is such a split, is the test split and what training left over: on more examples
    the truth is surer.
    """

    splits: dict[str, Split]
    outputs: int
    task: str = "classification"

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(name for name in self.splits["train"] if name != "label")

    @property
    def judging(self) -> str:
        """The split that the truth is found on."""
        return "fresh" if "fresh" in self.splits else "test"


def load(setting: Setting) -> Data:
    """Read what a setting trains on.

    Raises:
        FileNotFoundError: Where its file is not at hand.
    """
    name = setting.data
    if name == "peptides":
        splits = _peptides()
    elif name == "mfeat":
        splits = _by_split({k: torch.from_numpy(v) for k, v in load_mfeat().items()})
    else:
        splits = _by_split(_prepared(name, load_file(FOLDER / f"{name}.safetensors")))
    splits = {s: {k: part[k] for k in (*setting.modalities, "label")} for s, part in splits.items()}
    if setting.train is not None:
        order = torch.randperm(len(splits["train"]["label"]), generator=torch.Generator().manual_seed(0))
        rows, left = order[: setting.train], order[setting.train :]
        splits["fresh"] = {k: torch.cat([v, splits["train"][k][left]]) for k, v in splits["test"].items()}
        splits["train"] = {k: v[rows] for k, v in splits["train"].items()}
    label = splits["train"]["label"]
    if label.is_floating_point():
        return Data(splits, label.shape[1], "regression")
    return Data(splits, int(label.max()) + 1)


def standardise(data: Data, names: tuple[str, ...] | None = None) -> Data:
    """Scale inputs by the training split: each column of a vector, each channel of an image or a sequence."""
    out: dict[str, Split] = {s: dict(part) for s, part in data.splits.items()}
    for m in names or data.modalities:
        train = data.splits["train"][m]
        over = [0, *range(2, train.ndim)]
        middle, spread = train.mean(over, keepdim=True), train.std(over, keepdim=True)
        for part in out.values():
            part[m] = (part[m] - middle) / torch.where(spread > 1e-6, spread, 1.0)
    return Data(out, data.outputs, data.task)


def only(data: Data, modalities: tuple[str, ...]) -> Data:
    """Keep some modalities."""
    splits = {s: {k: part[k] for k in (*modalities, "label")} for s, part in data.splits.items()}
    return Data(splits, data.outputs, data.task)


def _by_split(tensors: Split) -> dict[str, Split]:
    where = tensors.pop("split")
    return {
        name: {k: v[where == i].long() if k == "label" else v[where == i].float() for k, v in tensors.items()}
        for i, name in enumerate(SPLITS)
    }


def _prepared(name: str, raw: Split) -> Split:
    """The tensors of a file that are an example each, bytes of pictures between 0 and 1."""
    n = len(raw["label"])
    out = {k: v for k, v in raw.items() if v.ndim > 0 and len(v) == n}
    out = {k: v.float() / 255 if v.dtype == torch.uint8 and v.ndim > 2 else v for k, v in out.items()}
    if name.startswith("avmnist"):
        out["audio"] = out.pop("audio_logmel")
        out["speaker"] = torch.nn.functional.one_hot(raw["speaker"]).float()
    if name == "mimic4_demo":
        out["labs"] = torch.cat([raw["labs"].flatten(1), raw["labs_mask"]], 1)
    return out


def _peptides() -> dict[str, Split]:
    """Peptides with channels before positions; cross sections in units of their spread."""
    path = Path(os.environ.get("COLLAPSEKIT_PEPTIDES", PEPTIDES))
    raw = load_file(path)
    splits: dict[str, Split] = {s: {} for s in SPLITS}
    for key, value in raw.items():
        split, _, name = key.partition("/")
        splits[split][name] = value.transpose(1, 2).contiguous() if value.ndim == 3 else value
    middle, spread = splits["train"]["ccs"].mean(), splits["train"]["ccs"].std()
    for part in splits.values():
        part["label"] = (part.pop("ccs") - middle) / spread
    return {s: {k: v[:most] for k, v in splits[s].items()} for s, most in PEPTIDES_READ.items()}
