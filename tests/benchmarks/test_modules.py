"""Benchmarks are run by hand and seldom: what is renamed in one is missed by another first when it is imported."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(file.relative_to(ROOT) for file in (ROOT / "benchmarks").rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_benchmark_s_module_is_imported(file: Path) -> None:
    module = import_module(".".join(file.with_suffix("").parts))
    assert Path(str(module.__file__)) == ROOT / file
