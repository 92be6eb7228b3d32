"""A model asked through files has the report that it has in process, to the byte."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from collapsekit import Report
from collapsekit.adapters.base import Adapter
from collapsekit.answers.adapter import AnswersAdapter
from tests.answers.subjects import Asked, make_asked, make_text_asked

THREE = {"image": 5, "audio": 4, "text": 3}


def subjects(folder: Path, name: str) -> Asked:
    """One of several kinds of subject."""
    match name:
        case "ignored":
            return make_asked(folder, THREE, ignored=["audio"])
        case "used":
            return make_asked(folder)
        case "noise":
            return make_asked(folder, noise=["audio"])
        case "regression":
            return make_asked(folder, task="regression", outputs=2, ignored=["image"])
        case "multilabel":
            return make_asked(folder, task="multilabel", ignored=["audio"])
        case "binary":
            return make_asked(folder, outputs=1, ignored=["audio"])
        case "absent":
            return make_asked(folder, ignored=["audio"], settings={"modalities": {"image": {"absent": "mean"}}})
        case "untrained":
            return make_asked(folder, steps=0)
        case "text":
            return make_text_asked(folder)
        case "without val":
            return make_asked(folder, ignored=["audio"], sizes={"train": 160, "test": 80})
        case "many":  # more than all of whose coalitions are valued
            return make_asked(folder, {f"m{i}": 2 for i in range(7)}, ignored=["m3"])
    settings: dict[str, Any] | None = {"data": {"match": ["kind"], "group": "unit"}} if name == "matched" else None
    settings = {"data": {"category": "kind"}} if name == "category" else settings
    asked = make_asked(folder, ignored=["audio"], settings=settings)
    path = Path(asked.config["data"]["path"])
    arrays = load_file(path)
    for split in ("train", "val", "test"):
        n = len(arrays[f"{split}/label"])
        kinds = 2 if name == "category" else 3  # of 80 examples, so that 53 are of one
        arrays[f"{split}/kind"], arrays[f"{split}/unit"] = torch.arange(n) % 3 % kinds, torch.arange(n) // 2
        if name == "lacking":
            arrays[f"{split}/image"][::4] = torch.nan
    save_file(arrays, path)
    return asked


def without_subject(report: Report) -> dict[str, Any]:
    """A report, less what names the model and what ran it."""
    told = json.loads(report.to_json())
    told.pop("sha256")  # of the file's own text
    told = json.loads(json.dumps(told).replace(AnswersAdapter.why_not_fresh, Adapter.why_not_fresh))  # what each can do
    for key in ("checkpoint", "sha256", "engine"):
        told["subject"].pop(key)
    return told


@pytest.mark.parametrize(
    "name",
    [
        *("ignored", "used", "noise", "regression", "multilabel", "binary", "absent", "untrained", "text"),
        *("matched", "lacking", "without val", "many", "category"),
    ],
)
def test_the_report_is_that_of_the_model_in_process(tmp_path: Path, name: str) -> None:
    asked = subjects(tmp_path, name)
    asked.plan()
    asked.answer(batch_size=37, model="m@1")
    scored, here = asked.score(), asked.diagnose()
    assert json.dumps(without_subject(scored)) == json.dumps(without_subject(here))
    assert scored.records == here.records
    if name == "category":
        assert [(c.name, c.verdict is None) for c in scored.categories.each] == [("kind 0", False), ("kind 1", True)]
    assert (scored.subject.checkpoint, scored.subject.engine) == ("m@1", "answers")


@pytest.mark.parametrize("name", ["ignored", "multilabel"])
def test_flips_are_told_of_answers_as_well(tmp_path: Path, name: str) -> None:
    asked = subjects(tmp_path, name)
    plain = asked.plan().cost.questions
    asked = dataclasses.replace(asked, folder=tmp_path / "more", options={"reliance": {"draws": 6, "flips": True}})
    asked.folder.mkdir()
    assert asked.plan().cost.questions == plain  # nothing more is asked for them
    asked.answer(batch_size=37, model="m@1")
    scored, here = asked.score(), asked.diagnose()
    assert json.dumps(without_subject(scored)) == json.dumps(without_subject(here))
    rates = {m: scored["reliance.flips", m].value for m in scored.subject.modalities}
    assert (rates["audio"] == 0) == (min(rates.values()) == 0)
    assert max(rates.values()) > 0.2


def test_verdicts_are_those_that_were_planted(tmp_path: Path) -> None:
    asked = make_asked(tmp_path, THREE, ignored=["audio"])
    asked.plan()
    asked.answer(batch_size=500)
    assert {m: v.verdict for m, v in asked.score().modalities.items()} == {
        "image": "used",
        "audio": "collapsed",
        "text": "used",
    }
