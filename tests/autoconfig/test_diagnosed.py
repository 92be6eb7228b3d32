"""From a checkpoint, a factory and data to verdicts, by `init` and `diagnose` alone, on families of models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.families.family import SIZES, World, train
from benchmarks.families.zoo import ZOO
from collapsekit.cli import app

# Which modality was another example's throughout training, by the name that `init` gives it, and the other one.
FAMILIES = {
    "cameras on one backbone": ("wrist", "top"),
    "packed sequences": ("audio", "text"),
    "a class for each pixel": ("depth", "rgb"),
}
CODE = """\
import torch
from benchmarks.families.zoo import ZOO
from benchmarks.families.family import SIZES, World
FAMILY = ZOO[{name!r}]
def build():
    return FAMILY.model()
def loaders():
    splits = {{s: FAMILY.hand_over(FAMILY.data(World.sample(n, i))) for i, (s, n) in enumerate(SIZES.items())}}
    return {{s: v if not isinstance(v, dict) else [v] for s, v in splits.items()}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_an_ignored_modality_is_found_without_a_line_of_yaml(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = ZOO[name]
    split: Any = family.data(World.sample(SIZES["train"], 0))
    torch.save(train(family, split, "ignores", 0).state_dict(), tmp_path / "ckpt.pt")
    (tmp_path / "my_family.py").write_text(CODE.format(name=name))
    monkeypatch.chdir(tmp_path)
    options = ["--factory", "my_family:build", "--data", "my_family:loaders"]
    made = CliRunner().invoke(app, ["init", "ckpt.pt", *options])
    assert made.exit_code == 0, made.stderr
    assert "Now: collapsekit diagnose" in made.stderr
    asked = ["diagnose", "--profile", "quick", "--json", "-p", "reliance", "-p", "utilisation"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.stderr
    verdicts = {m: v["verdict"] for m, v in json.loads(done.stdout)["modalities"].items()}
    ignored, used = FAMILIES[name]
    assert verdicts == {used: "used", ignored: "collapsed"}
