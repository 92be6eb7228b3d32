"""The coverage benchmark measures what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.coverage import WATCHED, bounded, cover, results
from benchmarks.planted.measure import config_of
from benchmarks.planted.subjects import Subject, make
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.features.extraction import extract

pytestmark = pytest.mark.usefixtures("brief_joint")
SMALL = Subject(
    "s", "healthy", {"kind": "redundant", "modalities": 2, "distances": (3.0,)}, 300, "sum", (), 3, {"fused": 4}
)


def test_a_part_of_the_examples_is_diagnosed_as_if_it_were_all(tmp_path: Path) -> None:
    made = make(SMALL)
    adapter = ModuleAdapter(check_config(config_of(made, tmp_path), base=Path.cwd()), model=made.model)
    whole = extract(adapter, "test")
    rows = torch.arange(100)
    made.data["test"] = dict(zip(whole.inputs, (x[rows] for x in whole.inputs.values()), strict=True))
    made.data["test"]["label"] = whole.targets[rows]
    (tmp_path / "alone").mkdir()
    other = ModuleAdapter(check_config(config_of(made, tmp_path / "alone"), base=Path.cwd()), model=made.model)
    ours, theirs = results(adapter, whole.taken(rows)), results(other, extract(other, "test"))
    assert {name for name, _ in ours} == set(WATCHED)
    for key, r in ours.items():
        assert r.value == pytest.approx(theirs[key].value, rel=1e-6), key
        assert r.interval == pytest.approx(theirs[key].interval, rel=1e-5, abs=1e-6), key


def test_intervals_within_bounds_hold_the_truth_where_plain_ones_do_not() -> None:
    found = {(kind, size): (held, plain) for kind, size, held, plain in bounded(1500, 400)}
    for (kind, size), (held, plain) in found.items():
        assert held >= plain - 0.005
        if size < 2.0:  # of 400 losses whose logarithm scatters by 2, too few show the tail that makes the mean
            assert 0.92 <= held <= 0.98, (kind, size)
    assert found["accuracy", 0.999][1] < 0.5  # all right in most sets: the plain interval is a point


@pytest.mark.slow
def test_intervals_hold_their_mean_more_often_than_another_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.coverage.POOL", 2000)
    monkeypatch.setattr("benchmarks.coverage.LARGE", 1000)
    found = cover(make(SMALL), 8, 120)
    assert {name for name, _ in found} == set(WATCHED)
    for (name, _), (large, mean, held, own) in found.items():
        assert 0 <= held <= 1
        assert own >= 0.5, name
        assert mean == pytest.approx(large, rel=0.6, abs=0.2), name
