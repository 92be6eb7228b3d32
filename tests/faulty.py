"""Probes that fail where nobody foresaw it, for tests of what becomes of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from collapsekit import registry
from collapsekit.probes.runner import RAISE

FAULTY = {  # of each probe a function within it that will fail
    "gradient_rank": "collapsekit.probes.neurons.gradient_rank.find_site",
    "reliance": "collapsekit.probes.credit.reliance._subsets",
    "utilisation": "collapsekit.probes.credit.utilisation._check_size",
}
MINE = """
from collapsekit import Result, probe

@probe("mine", summary="s", definition="d", source="s", cannot="c")
def run(adapter, features, *, settings):
    yield Result(name="mine.half", probe="mine", definition="d", source="s", value=1.0)
    {}
"""


@pytest.fixture
def swallowed(monkeypatch: pytest.MonkeyPatch, brief_joint_here: None) -> None:
    """As users run it: without the switch that lets errors through."""
    monkeypatch.delenv(RAISE)


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def put(probe: str, error: BaseException | None = None) -> None:
        def broken(*_args: Any, **_kwargs: Any) -> Any:
            raise error or RuntimeError("expected all tensors to be on the same device")

        monkeypatch.setattr(FAULTY[probe], broken)

    return put


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    def write(line: str) -> Path:
        file = tmp_path / "mine.py"
        file.write_text(MINE.format(line))
        return file

    yield write
    registry.PROBES.pop("mine", None)
