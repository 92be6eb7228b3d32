"""Small models of two modalities whose use is planted: one that uses both, one that ignores the second, one untrained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import collapsekit
from collapsekit.report.diagnosis import Report

SIZES = {"train": 500, "val": 250, "test": 300}
KINDS = ("uses", "ignores", "untrained")
Batch = dict[str, Tensor]


def split(data: Batch) -> dict[str, Batch]:
    """Rows of each split."""
    found, start = {}, 0
    for name, count in SIZES.items():
        found[name] = {k: v[start : start + count] for k, v in data.items()}
        start += count
    return found


def rows() -> int:
    return sum(SIZES.values())


def diagnosed(
    build: Callable[[], nn.Module],
    data: Batch,
    loss: Callable[[Any, Tensor], Tensor],
    kind: str,
    config: dict[str, Any],
    steps: int = 250,
) -> Report:
    """Train a model on inputs ``a`` and ``b`` (ignoring: on other examples' ``b``, then none), and diagnose it."""
    torch.manual_seed(0)
    model, parts = build(), split(data)
    train = parts["train"]
    if kind != "untrained":
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-4)
        for _ in range(steps):
            order = torch.arange(len(train["b"])) if kind == "uses" else torch.randperm(len(train["b"]))
            optimizer.zero_grad()
            loss(model(train["a"], train["b"][order]), train["label"]).backward()
            optimizer.step()
    whole = {"modalities": {"a": "a", "b": "b"}, "fusion": "fuse", **config}
    return collapsekit.diagnose(
        model=model.eval(), data=parts, config=whole, profile="quick", probes=["reliance", "utilisation"]
    )


def verdicts_of(report: Report) -> dict[str, str]:
    return {m: v.verdict for m, v in report.modalities.items()}


def need_right(report: Report, kind: str) -> None:
    """A model that uses both is healthy, one that ignores b has collapsed in b alone, an untrained one uses nothing."""
    found, said = verdicts_of(report), {m: v.reason for m, v in report.modalities.items()}
    if kind == "uses":
        assert found == {"a": "used", "b": "used"}, said
    elif kind == "ignores":
        assert found == {"a": "used", "b": "collapsed"}, said
    else:
        assert "used" not in found.values(), said
