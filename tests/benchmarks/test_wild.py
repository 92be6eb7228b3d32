"""A diagnosis of models as strangers write them takes few plain passes: work is counted, not timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn

from benchmarks.speed import passes
from benchmarks.wild.__main__ import passes_of, plain_work
from benchmarks.wild.counting import counted_work
from benchmarks.wild.zoo import HEADS, READ, STRANGERS
from collapsekit import diagnose
from collapsekit.adapters import module as module_adapter
from collapsekit.adapters.pruning.find import Pruning

ASKED = ["reliance", "utilisation"]
SMALL = ["lists of layers", "dead ends", "encoders in one piece", "a shared trunk", "transformers"]


@contextmanager
def everything_runs() -> Iterator[None]:
    with patch.object(module_adapter, "find_pruning", lambda *_args: Pruning({})):
        yield


def test_products_are_counted_where_a_forward_runs_and_not_where_something_stands_for_it() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Conv1d(1, 2, 2))
    with counted_work(model) as work:
        model[2](model[1](model[0](torch.zeros(4, 3)))[:, None])
    assert work.products == {"0": 4 * 3 * 5, "1": 4 * 5, "2": 4 * 2 * 4 * 2}
    assert work.calls == dict.fromkeys("012", 4)
    with counted_work(model) as work, patch.object(model[0], "forward", lambda x: x):
        model[0](torch.zeros(4, 3))
    assert work.total == 0
    assert "counting" not in repr(nn.Linear.forward)


@pytest.mark.parametrize("name", SMALL)
def test_what_a_model_gets_and_could_get_is_told_in_three_passes(name: str) -> None:
    found, _, _ = passes_of(STRANGERS[name], 96, ASKED, "quick")
    assert 1.0 <= found <= 2.5


@pytest.mark.parametrize("name", ["lists of layers", "dead ends"])
def test_a_report_is_the_same_where_all_of_a_model_runs(name: str) -> None:
    few: dict[str, Any] = {"options": {"reliance": {"draws": 4}}}
    pruned, _, report = passes_of(STRANGERS[name], 40, ["reliance"], "quick", **few)
    with everything_runs():
        whole, _, same = passes_of(STRANGERS[name], 40, ["reliance"], "quick", **few)
    assert report.model_dump_json() == same.model_dump_json()
    assert whole > 2 * pruned


@pytest.mark.slow
@pytest.mark.parametrize("name", ["many heads", "peptides, branches in one piece", "peptides, branches as lists"])
def test_so_it_is_of_large_ones(name: str) -> None:
    found, _, _ = passes_of(STRANGERS[name], 500, ASKED, "quick")
    assert 1.0 <= found <= 3.0


def test_heads_that_nobody_reads_run_where_the_model_is_looked_at_and_in_no_question() -> None:
    model, data, config = STRANGERS["many heads"].make(40)
    with counted_work(model) as work:
        options = {"reliance": {"draws": 16}}
        diagnose(model=model, data=data, config=config, probes=["reliance"], profile="quick", options=options)
    read, others = work.calls[f"heads.{READ}"], {work.calls[f"heads.{i}"] for i in range(HEADS) if i != READ}
    assert len(others) == 1
    assert read > 10 * 40  # the questions
    assert others.pop() < 8 * 40


def test_a_diagnosis_that_trains_nothing_is_one_pass_and_little_more() -> None:
    model, data = passes.subject(192, layers=1, elsewhere=1)
    probes = [
        name for name in passes.training_free() if name != "noise"
    ]  # which is left out of encoders as large as its own
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # else it runs past the layers that are counted
    try:
        once = plain_work(model, data["test"]).total
        with counted_work(model) as work:
            diagnose(config=passes.CONFIG, model=model, data=data, probes=probes)
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    assert 1.0 <= work.total / once <= 1.3
