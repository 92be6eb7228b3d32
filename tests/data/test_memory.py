"""Data handed to diagnose(): the same report, whatever it comes as."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from collapsekit import diagnose
from collapsekit.config.load import check_config
from collapsekit.data.memory import MemorySource, with_data
from collapsekit.errors import CollapsekitError
from tests.factories import Rows, split_arrays
from tests.problems import Problem

Splits = dict[str, dict[str, Tensor]]


FORMS: dict[str, Callable[[Problem, Splits], Any]] = {
    "tensors": lambda _, splits: splits,
    "numpy": lambda _, splits: {s: {k: np.asarray(v) for k, v in held.items()} for s, held in splits.items()},
    "datasets": lambda _, splits: {s: Rows(held) for s, held in splits.items()},
    "loaders": lambda _, splits: {s: DataLoader(Rows(held), batch_size=7) for s, held in splits.items()},
    "of each": lambda _, splits: {"train": splits["train"], "val": [splits["val"]], "test": Rows(splits["test"])},
    "path": lambda problem, _: problem.config["data"]["path"],
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_report_whatever_the_data_come_as(problem: Problem, form: str) -> None:
    named = problem.diagnose(probes=["reliance", "spectrum"])
    config = {**problem.config, "data": {"path": "nowhere.safetensors", "label": "label"}}
    given = problem.diagnose(
        config=config, data=FORMS[form](problem, split_arrays(problem.arrays)), probes=["reliance", "spectrum"]
    )
    assert given.results == named.results
    assert given.settings["examples"] == named.settings["examples"]
    assert given.records == named.records
    said = given.settings["config"].get("data", {})
    assert ("path" in said) == (form == "path")  # of what it was not made of, the report says nothing


def test_data_given_are_read_for_a_checkpoint_too_and_no_command_is_claimed(problem: Problem, tmp_path: Path) -> None:
    torch.save(problem.model.state_dict(), tmp_path / "ckpt.pt")
    (tmp_path / "late.py").write_text(
        "from tests.problems import Late\n\ndef build():\n    return Late({'image': 5, 'audio': 4}, 3, ['audio'])\n"
    )
    config = check_config({**problem.config, "model": {"factory": "late:build"}, "data": {}}, base=tmp_path)
    report = diagnose(tmp_path / "ckpt.pt", config=config, data=split_arrays(problem.arrays), probes=["reliance"])
    assert report.results == problem.diagnose(probes=["reliance"], options={}).results
    assert report.settings["command"] is None


def test_limit_draws_from_all_rows_of_each_split(problem: Problem) -> None:
    splits = split_arrays(problem.arrays)
    ascending = {s: {k: v[held["label"].argsort()] for k, v in held.items()} for s, held in splits.items()}
    _, source = with_data(check_config(problem.config, base=Path.cwd()), ascending)
    assert source is not None
    rows = torch.cat([b["label"] for b in source.batches("test", ["label"], 8, 40, 0)])
    assert len(rows) == 40
    assert set(rows.tolist()) == {0, 1, 2}
    assert source.count("test") == 160


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "no splits"),
        (7, "the data given is int, expected a mapping of splits"),
        ({"test": torch.zeros(3)}, "Tensor as split 'test', expected a mapping of names to tensors"),
        ({"test": "test.npz"}, "str as split 'test'"),
        ({"test": {"image": ["a"]}}, "'image' in split 'test' of the data given is list"),
        ({"tset": {"image": torch.zeros(3)}}, "no split 'test'.*did you mean 'tset'"),
        ({"test": {"image": torch.zeros(3)}}, "split 'test' of the data given has no 'audio'"),
        (
            {"test": [(torch.zeros(3),)]},
            "no 'image': it has 0; .*the config names image, audio, label",
        ),
        ("nowhere.npz", "nowhere.npz is not a file"),
    ],
)
def test_what_is_no_data_is_said(problem: Problem, data: Any, says: str) -> None:
    with pytest.raises(CollapsekitError, match=says) as e:
        problem.diagnose(data=data)
    assert str(e.value).endswith(".")
    assert "\n" not in str(e.value)


def test_lists_of_tensors_are_told_where_they_go() -> None:
    data = {"test": {"images": [torch.rand(2, 3), torch.rand(2, 3)]}}
    with pytest.raises(CollapsekitError, match=r"is list that is no tensor.*in a list of batches: \[\{'images'"):
        MemorySource(data)
    assert MemorySource({"test": [data["test"]]}).splits() == ["test"]
