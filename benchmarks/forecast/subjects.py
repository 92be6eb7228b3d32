"""Models to repair: those that were trained as people train them, and those of the benchmark of repairs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.natural.__main__ import at_hand, inputs
from benchmarks.natural.files import weights
from benchmarks.natural.verdicts import config_of as natural_config
from benchmarks.repair.subjects import WEAK, Subject, arrays_of, trained
from benchmarks.repair.subjects import config_of as made_config

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ToRepair:
    """A checkpoint and its data, in a folder; ``weak``: whom to repair, None: whom the diagnosis finds."""

    name: str
    seed: int
    config: dict[str, Any]
    checkpoint: Path
    weak: tuple[str, ...] | None


def natural(
    out: Path, verdicts: Path, seeds: Sequence[int], folder: Path, names: list[str] | None = None
) -> Iterator[ToRepair]:
    """Yield the trained models in which a verdict finds a modality collapsed or underused, of one seed after the other.

    Args:
        out: The folder of ``benchmarks.natural``, with weights.
        verdicts: Its file of verdicts.
        seeds: Which models of each setting.
        folder: To write data and checkpoints to.
        names: Of settings; None: all.

    Yields:
        A model at a time; its files are overwritten by the next.
    """
    found = {
        (record["setting"], record["seed"])
        for record in map(json.loads, verdicts.read_text().splitlines())
        if any(m["verdict"] in ("collapsed", "underused") for m in record["modalities"].values())
    }
    for seed in seeds:
        for setting, data in at_hand(names):
            place = weights(out, setting, seed)
            if (setting.name, seed) not in found or not setting.counted or not place.is_file():
                continue
            data = inputs(setting, data)
            arrays = {f"{s}/{k}": v.contiguous() for s in SPLITS for k, v in data.splits[s].items()}
            config = natural_config(setting, data)
            yield _written(setting.name, seed, config, arrays, load_file(place), folder, None)


def planted(sets: Sequence[str], noises: Sequence[float], seeds: Sequence[int], folder: Path) -> Iterator[ToRepair]:
    """Yield models of ``benchmarks.repair``, whose weak modality is known.

    Args:
        sets: Names of data sets.
        noises: How much of the weak modality is another example's.
        seeds: Of noise and training.
        folder: To write data and checkpoints to.

    Yields:
        A model at a time; its files are overwritten by the next.
    """
    torch.set_num_threads(1)
    for seed in seeds:
        for data in sets:
            for noise in noises:
                subject = Subject(data, noise, seed)
                arrays = arrays_of(subject)
                state = trained(subject, arrays).state_dict()
                config = made_config(subject, folder / "data.safetensors")
                yield _written(f"{data} {noise:g}", seed, config, arrays, state, folder, (WEAK[data],))


def _written(
    name: str,
    seed: int,
    config: dict[str, Any],
    arrays: dict[str, torch.Tensor],
    state: dict[str, torch.Tensor],
    folder: Path,
    weak: tuple[str, ...] | None,
) -> ToRepair:
    save_file(arrays, folder / "data.safetensors")
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "ckpt.safetensors")
    config["data"]["path"] = str(folder / "data.safetensors")
    return ToRepair(name, seed, config, folder / "ckpt.safetensors", weak)
