"""What a repair with its control does once: the checkpoint read, models built, splits encoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from collapsekit import RepairReport
from collapsekit.adapters import base
from collapsekit.checkpoint import sandbox
from collapsekit.features.examples import Examples, SplitReader
from collapsekit.features.extraction import Extraction, Twin
from collapsekit.session import opening
from tests.repairs.test_repairing import deaf, mend

BATCH = 64
SPLITS = ("train", "val", "test")


class Counting:
    """Counts calls by name, and by split those that passed over all of it or read it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.counts = patch, Counter[str]()
        self.wrap(opening, "read_checkpoint", lambda *_, **__: "checkpoint read")
        self.wrap(sandbox.subprocess, "run", lambda command, **_: "sandbox child" if "-I" in command else None)
        self.wrap(base, "build_model", lambda *_: "model built")
        self.wrap(Extraction, "_pass", self._encodes)
        self.wrap(SplitReader, "_sorted", lambda _reader, split: f"{split} read")

    def wrap(self, holder: Any, name: str, label: Callable[..., str | None]) -> None:
        real = getattr(holder, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            if (key := label(*args, **kwargs)) is not None:
                self.counts[key] += 1
            return real(*args, **kwargs)

        self.patch.setattr(holder, name, counted)

    @staticmethod
    def _encodes(_extraction: Extraction, examples: Examples, rows: Tensor, *_: object, **__: object) -> str | None:
        """Told by the second of four batches: the first and the last are also run to check."""
        return f"{examples.split} encoded" if int(rows[0]) == BATCH else None

    @property
    def encoded(self) -> dict[str, int]:
        return {split: self.counts[f"{split} encoded"] for split in SPLITS}


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch, brief_joint_here: None) -> Counting:
    return Counting(monkeypatch)


def repaired(folder: Path, output: Path, **how: Any) -> RepairReport:
    config = deaf(folder) / "collapsekit.yaml"
    config.write_text(
        config.read_text().replace("data.safetensors}", "data.safetensors, batch_size: " + str(BATCH) + "}")
    )
    return mend(folder, output, method="dropout", limit=200, **how)


def once(counting: Counting) -> None:
    """What does not depend on what training did."""
    counts = counting.counts
    assert counts["checkpoint read"] == counts["sandbox child"] == 1
    assert counts["model built"] <= 4  # to diagnose, to compare with that, for the control, and for a new fusion
    assert [counts[f"{split} read"] for split in SPLITS] == [1, 1, 1]


def test_a_control_that_kept_its_weights_is_not_encoded(tmp_path: Path, counting: Counting) -> None:
    report = repaired(tmp_path / "project", tmp_path / "out", training={"epochs": 1, "rate": 1e-9})  # moves no weight
    assert report.control is not None
    kept = {curve.method: curve.kept for curve in report.losses}
    assert kept["finetune"] == 0
    once(counting)
    assert counting.encoded == dict.fromkeys(SPLITS, 1)  # of what dropout made with a new fusion, encoders are the same
    same = [{r.name: r.value for r in one.results} for one in (report.before, report.control)]
    assert same[0] == same[1]


def test_each_model_encodes_each_split_once(tmp_path: Path, counting: Counting) -> None:
    report = repaired(tmp_path / "project", tmp_path / "out", training={"epochs": 2, "rate": 0.01})
    assert any(curve.kept for curve in report.losses if curve.method == "finetune")  # its weights are others now
    once(counting)
    assert counting.encoded == dict.fromkeys(SPLITS, 3)


def test_weights_that_answer_otherwise_are_encoded(
    tmp_path: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bits decide, whatever is said of the weights."""
    real = opening.OpenModel.with_model

    def trusting(self: opening.OpenModel, *args: Any, changed: frozenset[str]) -> Any:
        assert changed
        return real(self, *args, changed=frozenset())

    monkeypatch.setattr(opening.OpenModel, "with_model", trusting)
    report = repaired(tmp_path / "project", tmp_path / "out", training={"epochs": 2, "rate": 0.01})
    assert report.after.subject.sha256 != report.before.subject.sha256
    assert counting.encoded == dict.fromkeys(SPLITS, 3)
    assert torch.tensor([r.value for r in report.after.results if r.value is not None]).isfinite().all()


def test_frozen_encoders_run_once(tmp_path: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows them runs on what they gave, and the reports are those of models that ran whole, to the last digit."""
    how = {"training": {"epochs": 8, "rate": 0.01, "freeze": ["encoders"]}, "cache": tmp_path / "cache"}
    shared = repaired(tmp_path / "project", tmp_path / "out", **how)
    assert any(curve.kept for curve in shared.losses if curve.method == "dropout")
    assert counting.encoded == dict.fromkeys(SPLITS, 1)
    monkeypatch.setattr(Twin, "keeps_encoders", lambda *_: False)
    counting.counts.clear()
    whole = repaired(tmp_path / "project", tmp_path / "other", **how)
    assert counting.encoded == dict.fromkeys(SPLITS, 2)  # a control that kept its weights needs none
    assert shared.to_json() == whole.to_json()
