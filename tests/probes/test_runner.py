"""What a user's own probe may do wrong is one sentence that says where."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import collapsekit
from collapsekit import registry
from collapsekit.errors import ConfigError, NothingEvaluatedError

HEAD = """
from collapsekit import Result, probe
from collapsekit.errors import NumericsError
OK = dict(probe="mine", definition="d", source="s")

@probe("mine", summary="s", definition="d", source="s", cannot="c")
def run(adapter, features, *, settings):
"""


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fusion = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fusion(self.a(a) + self.b(b))
        return out


@pytest.fixture
def config(tmp_path: Path) -> Iterator[dict[str, Any]]:
    from safetensors.torch import save_file

    rows = {"test/a": torch.randn(40, 3), "test/b": torch.randn(40, 2), "test/label": torch.arange(40) % 2}
    save_file(rows, tmp_path / "data.safetensors")
    yield {
        "modalities": {"a": "a", "b": "b"},
        "fusion": "fusion",
        "data": {"path": str(tmp_path / "data.safetensors")},
    }
    registry.PROBES.pop("mine", None)


def _diagnose(config: dict[str, Any], tmp_path: Path, body: str) -> collapsekit.Report:
    file = tmp_path / f"plugin{abs(hash(body))}.py"
    file.write_text(HEAD + "".join(f"    {line}\n" for line in body.splitlines()))
    return collapsekit.diagnose(model=Sum(), config=config, probes=["mine"], plugins=[file])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return None", ["NoneType", "yield"]),
        ("yield Result(name=' ', value=1.0, **OK)", ["without a name"]),
        ("yield Result(name='x', value=5.0, interval=(0.0, 1.0), **OK)", ["'x' = 5", "interval from 0 to 1"]),
        ("return []", ["no results"]),
        ("return [3]", ["int", "collapsekit.Result"]),
        ('yield Result(name="n", value=1.0, **{**OK, "probe": "other"})', ["'other'"]),
        ('yield Result(name="n", modality="c", value=1.0, **OK)', ["'c'", "a, b"]),
        ('yield Result(name="n", value=1.0, **OK)\nyield Result(name="n", value=2.0, **OK)', ["'n'", "twice"]),
        ('yield Result(name="n", value=float("nan"), **OK)', ["value: must be finite", ".py:8: "]),
        ("x = 1\nyield features.targetz", ["AttributeError", "targetz", ".py:9: "]),
    ],
)
def test_broken_probes_are_named(config: dict[str, Any], tmp_path: Path, body: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        _diagnose(config, tmp_path, body)
    text = str(raised.value)
    assert "'mine'" in text
    assert "\n" not in text
    for word in words:
        assert word in text


def test_what_cannot_be_measured_is_skipped_with_the_reason(config: dict[str, Any], tmp_path: Path) -> None:
    body = 'yield Result(name="mine.n", value=1.0, **OK)\nraise NumericsError("too few widgets.")'
    report = _diagnose(config, tmp_path, body)
    assert [(r.name, r.value, r.skipped) for r in report.results] == [
        ("mine.n", 1.0, None),
        ("mine", None, "too few widgets"),
    ]
    assert report.summary.startswith("No verdict was asked for")


def test_nothing_measured_is_an_error(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NothingEvaluatedError, match="too few widgets"):
        _diagnose(config, tmp_path, 'raise NumericsError("too few widgets")\nyield')


def test_a_plugin_file_counts_only_for_the_call_that_names_it(config: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "plugin.py"
    file.write_text(HEAD + '    yield Result(name="mine.n", value=1.0, **OK)\n')
    with_it = collapsekit.diagnose(model=Sum(), config=config, plugins=[file], profile="quick", skip=["rank_sweep"])
    assert "mine" in {r.probe for r in with_it.results}
    without = collapsekit.diagnose(model=Sum(), config=config, profile="quick", skip=["rank_sweep"])
    assert {r.probe for r in without.results} == {r.probe for r in with_it.results} - {"mine"}


def test_two_probes_that_give_one_number_are_named(config: dict[str, Any], tmp_path: Path) -> None:
    """As a report that names a number twice does not load."""
    file = tmp_path / "plugin_twice.py"
    file.write_text(HEAD + '    yield Result(name="vif.mean", value=1.0, **OK)\n')
    with pytest.raises(ConfigError, match=r"probes 'mine' and 'vif' both gave 'vif\.mean'"):
        collapsekit.diagnose(model=Sum(), config=config, probes=["mine", "vif"], plugins=[file])
