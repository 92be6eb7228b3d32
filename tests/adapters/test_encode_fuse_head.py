"""A user's own subclass: of EncodeFuseHeadAdapter, or, as version 0.1.0 asked for, of Adapter."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import collapsekit
from collapsekit.adapters.base import Adapter, ForwardPass, Prediction, TrainPass
from collapsekit.config.load import check_config
from collapsekit.config.schema import Config
from tests.problems import Problem, make_problem

CODE = """
import torch
import collapsekit
class Mine(collapsekit.{base}):
    def encode(self, batch):
        return {m: encoder(batch[m]) for m, encoder in self.model.encoders.items()}
    def fuse(self, features):
        return self.model.fusion(torch.cat([features[m] * (m != "audio") for m in self.modalities], 1))
    def head(self, fused):
        return self.model.head(fused)
"""
PROBES = ["reliance", "spectrum", "collision"]


def named(problem: Problem, folder: Path, base: str) -> Config:
    (folder / f"efht_{base.lower()}.py").write_text(CODE.replace("{base}", base))
    return check_config({**problem.config, "adapter": f"efht_{base.lower()}:Mine"}, base=folder)


def test_it_gives_the_numbers_of_the_declared_model(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, ignored=["audio"], steps=30)
    found = problem.diagnose(config=named(problem, tmp_path, "EncodeFuseHeadAdapter"), probes=PROBES)
    wanted = problem.diagnose(probes=PROBES)
    assert [r.name for r in found.results] == [r.name for r in wanted.results]
    for ours, theirs in zip(found.results, wanted.results, strict=True):
        assert (ours.value is None) == (theirs.value is None)
        if ours.value is not None:
            assert ours.value == pytest.approx(theirs.value, rel=1e-5, abs=1e-6)


def test_a_subclass_of_before_works_and_is_told_its_new_base(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, ignored=["audio"], steps=30)
    with pytest.warns(DeprecationWarning, match=r"Mine has encode, fuse, head: .* collapsekit\.EncodeFuseHeadAdapter"):
        before = problem.diagnose(config=named(problem, tmp_path, "Adapter"), probes=PROBES)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        now = problem.diagnose(config=named(problem, tmp_path, "EncodeFuseHeadAdapter"), probes=PROBES)
    assert before.results == now.results


def test_it_works_where_nothing_else_was_imported(tmp_path: Path) -> None:
    (tmp_path / "efht_alone.py").write_text(CODE.replace("{base}", "Adapter"))
    code = "import efht_alone, collapsekit; assert issubclass(efht_alone.Mine, collapsekit.EncodeFuseHeadAdapter)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_bases_and_mixins_keep_their_order() -> None:
    class Mixin:
        def fuse(self, features: Any) -> Tensor:
            return torch.cat(list(features.values()), 1)

    with pytest.warns(DeprecationWarning, match="Base has") as warned:

        class Base(Mixin, collapsekit.Adapter):
            def encode(self, batch: Any) -> dict[str, Tensor]:
                return dict(batch)

    assert warned[0].filename == __file__  # where the class is, so that Python shows it there
    assert Base.__abstractmethods__ == {"head"}
    assert Base.__bases__ == (Mixin, collapsekit.EncodeFuseHeadAdapter)


def test_who_says_how_to_run_is_asked_for_nothing_else() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Whole(Adapter):
            """Knows no parts; its ``head`` is its own affair."""

            head = "a name"

            def run(self, batch: Any) -> ForwardPass:
                raise NotImplementedError

            def rerun(self, recorded: Any, inputs: Any) -> Prediction:
                raise NotImplementedError

            def run_live(self, batch: Any, change: Any = None) -> TrainPass:
                raise NotImplementedError

    assert not Whole.__abstractmethods__
    assert Whole.__bases__ == (Adapter,)
    assert Adapter.__abstractmethods__ == {"run", "rerun", "run_live"}
