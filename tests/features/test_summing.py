"""Features that are summed where they are made: what is told without rows is what the rows tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from collapsekit import registry
from collapsekit.adapters.base import ForwardPass, Prediction
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.distributed.process_group import ProcessGroup
from collapsekit.features import summing
from collapsekit.features.extraction import extract
from collapsekit.features.features import Sums
from collapsekit.features.summing import cut, find_undecided, least_read, run_summed, widths_to_sum, worth_summing
from collapsekit.io.spill import SpillBuffer
from collapsekit.session.session import Session
from collapsekit.stats.linalg.moments import BLOCK, grouped_moments
from tests.problems import Problem, adapt, make_problem

ALONE = ProcessGroup()


def test_who_reads_rows_decides() -> None:
    assert least_read(["fused sums", "rows", "sums"]) == "rows"
    assert least_read(["fused sums", "sums"]) == "sums"
    assert least_read(["fused sums", "fused sums"]) == "fused sums"


def test_each_process_has_a_segment_or_features_travel() -> None:
    assert not worth_summing(10 * BLOCK, ALONE)
    assert worth_summing(BLOCK + 1, ProcessGroup(0, 2))
    assert not worth_summing(BLOCK, ProcessGroup(0, 2))
    assert not worth_summing(2 * BLOCK + 1, ProcessGroup(0, 4))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    fused=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    pooled=st.lists(st.integers(0, 3), min_size=1, max_size=4),
)
def test_side_by_side_is_told_by_digests_as_by_rows(fused: list[int], pooled: list[int]) -> None:
    """Columns that are there several times, such as those of dead features, among them."""
    columns = torch.randn(4, 40, generator=torch.Generator().manual_seed(0))
    columns[0] = 0.0
    x, y = columns[fused].T.contiguous(), columns[pooled].T.contiguous()
    first = ForwardPass({}, {"one": y[:, :1], "two": y[:, 1:]}, Prediction(x, torch.zeros(40, 2)))

    def batches(_first: int, _last: int) -> Iterator[ForwardPass]:
        for start in range(0, 40, 7):
            yield cut(first, 0, start, min(start + 7, 40))

    made = run_summed(batches, first, torch.arange(40) % 8, {}, SpillBuffer().column(), ALONE)
    known = {c.numpy().tobytes() for c in x.T.contiguous()}
    expected = x.shape[1] == y.shape[1] and all(c.numpy().tobytes() in known for c in y.T.contiguous())
    assert made.sums.concatenated == expected
    assert made.fused.tensor().shape == x.shape
    assert torch.equal(made.outputs.tensor(), torch.zeros(40, 2))


def _without_rows(x: Tensor) -> Tensor:
    return torch.empty_like(x, device="meta")


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    return make_problem(tmp_path_factory.mktemp("summing"), noise=["audio"])


def problem_adapter(problem: Problem) -> ModuleAdapter:
    arrays: dict[str, dict[str, Any]] = {}
    for name, value in problem.arrays.items():
        split, _, key = name.partition("/")
        arrays.setdefault(split, {})[key] = value
    return adapt(problem.model, problem.config, arrays)


def test_probes_that_say_so_read_sums_alone(problem: Problem) -> None:
    """Each of them measures the same where there is nothing else."""
    registry.load_builtins()
    chosen = [spec for spec in registry.PROBES.values() if spec.reads != "rows"]
    assert "vif" in {spec.name for spec in chosen}
    adapter = problem_adapter(problem)
    features = extract(adapter, "test")
    count = int(features.groups.max()) + 1
    for spec in chosen:
        named: dict[str | None, Tensor] = {None: features.fused}
        if spec.reads == "sums":
            named |= features.pooled
        sums = Sums({k: grouped_moments(x, features.groups, count) for k, x in named.items()}, features.concatenated)
        bare = replace(
            features,
            recorded={m: tuple(map(_without_rows, r)) for m, r in features.recorded.items()},
            pooled={m: _without_rows(x) for m, x in features.pooled.items()},
            fused=_without_rows(features.fused),
            sums=sums,
        )
        assert list(spec.run(Session(adapter, bare))) == list(spec.run(Session(adapter, features)))


def test_layouts_that_rows_decide_and_wide_sums_keep_features_travelling(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = problem_adapter(problem)
    extract(adapter, "test")  # so that what the encoders give is known
    x = torch.randn(6, 12)
    encoded = {m: (torch.randn(6, 6),) for m in adapter.modalities}
    first = ForwardPass(encoded, {m: t[0] for m, t in encoded.items()}, Prediction(x, torch.zeros(6, 3)))
    assert widths_to_sum(adapter, first, 16, "fused sums") == {None: 12}
    assert widths_to_sum(adapter, first, 16, "sums") == {None: 12, "image": 6, "audio": 6}
    monkeypatch.setattr(summing, "KEEP", 16 * 11 * 11 * 8)
    assert widths_to_sum(adapter, first, 16, "fused sums") is None
    maps = replace(first, recorded={**encoded, "image": (torch.randn(6, 3, 5, 5),)})
    assert find_undecided(adapter, maps.recorded).keys() == {"image"}
    assert widths_to_sum(adapter, maps, 1, "fused sums") is None
