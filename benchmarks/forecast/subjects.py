"""Models to repair: those that were trained as people train them, and those of the benchmark of repairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.natural.__main__ import at_hand, inputs
from benchmarks.natural.data import Data
from benchmarks.natural.files import weights
from benchmarks.natural.settings import Setting
from benchmarks.natural.verdicts import config_of as natural_config
from benchmarks.repair.subjects import Subject, arrays_of, trained
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


@dataclass(frozen=True)
class Candidate:
    """A model to repair that is only made where it is wanted; making it overwrites the files of the one before."""

    name: str
    seed: int
    make: Callable[[], ToRepair]


def natural(
    out: Path, verdicts: Path | None, seeds: Sequence[int], folder: Path, names: list[str] | None = None
) -> Iterator[Candidate]:
    """Yield the trained models in which a modality may be collapsed or underused, of one seed after the other.

    Args:
        out: The folder of ``benchmarks.natural``, with weights.
        verdicts: Its file of verdicts, by which those with nobody to repair are left out; None: all are yielded.
        seeds: Which models of each setting.
        folder: To write data and checkpoints to.
        names: Of settings; None: all.

    Yields:
        A model at a time.
    """
    found = None if verdicts is None else _to_repair(verdicts)
    for seed in seeds:
        for setting, data in at_hand(names):
            place = weights(out, setting, seed)
            left_out = found is not None and (setting.name, seed) not in found
            if left_out or not setting.counted or not place.is_file():
                continue
            yield Candidate(setting.name, seed, partial(_natural, setting, data, seed, place, folder))


def _to_repair(verdicts: Path) -> set[tuple[str, int]]:
    return {
        (record["setting"], record["seed"])
        for record in map(json.loads, verdicts.read_text().splitlines())
        if any(m["verdict"] in ("collapsed", "underused") for m in record["modalities"].values())
    }


def _natural(setting: Setting, data: Data, seed: int, place: Path, folder: Path) -> ToRepair:
    data = inputs(setting, data)
    arrays = {f"{s}/{k}": v.contiguous() for s in SPLITS for k, v in data.splits[s].items()}
    return _written(setting.name, seed, natural_config(setting, data), arrays, load_file(place), folder, None)


def planted(sets: Sequence[str], noises: Sequence[float], seeds: Sequence[int], folder: Path) -> Iterator[Candidate]:
    """Yield models of ``benchmarks.repair``, whose weak modality is known.

    Args:
        sets: Names of data sets.
        noises: How much of the weak modality is another example's.
        seeds: Of noise and training.
        folder: To write data and checkpoints to.

    Yields:
        A model at a time.
    """
    torch.set_num_threads(1)
    for seed in seeds:
        for data in sets:
            for noise in noises:
                yield Candidate(f"{data} {noise:g}", seed, partial(_planted, Subject(data, noise, seed), folder))


def _planted(subject: Subject, folder: Path) -> ToRepair:
    arrays = arrays_of(subject)
    state = trained(subject, arrays).state_dict()
    config = made_config(subject, folder / "data.safetensors")
    return _written(
        f"{subject.data} {subject.noise:g}", subject.seed, config, arrays, state, folder, (subject.data_set.weak,)
    )


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
