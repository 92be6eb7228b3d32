"""Parts that tests of several packages are made of: subjects and results of reports, arrays by split, rows, digests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from collapsekit.report.diagnosis import ModalityVerdict, Report, Result, Subject

SHA256 = "0" * 64


def make_subject(modalities: Sequence[str] = ("a", "b"), **changes: Any) -> Subject:
    """A classifier's subject on the test split, but for what ``changes`` says."""
    fields: dict[str, Any] = {
        "checkpoint": "c.pt",
        "sha256": SHA256,
        "modalities": tuple(modalities),
        "task": "classification",
        "metric": "accuracy",
        "split": "test",
        "examples": 3,
        "seed": 0,
    }
    return Subject(**{**fields, **changes})


def make_plain_report(results: Sequence[Result] = (), names: Sequence[str] = ("a", "b"), **changes: Any) -> Report:
    """A report of these results that decides nothing, but for what ``changes`` says."""
    undecided = ModalityVerdict(verdict="inconclusive", score=None, reason="r")
    fields: dict[str, Any] = {
        "collapsekit": "0",
        "subject": make_subject(names),
        "verdict": "inconclusive",
        "summary": "s",
        "modalities": dict.fromkeys(names, undecided),
        "results": tuple(results),
    }
    return Report(**{**fields, **changes})


def make_result(name: str, value: float | None, modality: str | None = None, **more: Any) -> Result:
    """A number of the probe that its name says; without a value it is skipped."""
    fields: dict[str, Any] = {
        "name": name,
        "probe": name.split(".")[0],
        "modality": modality,
        "value": value,
        "definition": f"what {name} is",
        "source": "made by hand",
        "skipped": None if value is not None else "it could not be had",
    }
    return Result(**{**fields, **more})


def split_arrays(arrays: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Arrays by split and name, of arrays by SPLIT/NAME."""
    splits: dict[str, dict[str, Tensor]] = {}
    for key, value in arrays.items():
        split, _, name = key.partition("/")
        splits.setdefault(split, {})[name] = value
    return splits


def shuffled(arrays: Mapping[str, Tensor], seed: int = 1) -> dict[str, Tensor]:
    """Arrays by SPLIT/NAME, the rows of each split in another order."""
    g = torch.Generator().manual_seed(seed)
    orders = {s: torch.randperm(len(part["label"]), generator=g) for s, part in split_arrays(arrays).items()}
    return {key: value[orders[key.partition("/")[0]]] for key, value in arrays.items()}


class Rows(Dataset[dict[str, Tensor]]):
    """A data set of one split's arrays: an example is a mapping of names to rows."""

    def __init__(self, arrays: Mapping[str, Tensor]) -> None:
        self.arrays = dict(arrays)

    def __len__(self) -> int:
        return len(self.arrays["label"])

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {k: v[i] for k, v in self.arrays.items()}


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests_in(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in a folder, by name."""
    return {p.name: digest_of(p) for p in folder.iterdir() if p.is_file()}
