"""The plugins' own packages, importable from where they lie; and what tests of one run share, whatever their process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

PLUGINS = Path(__file__).parents[2] / "plugins"
sys.path[:0] = [str(PLUGINS / name / "src") for name in ("callbacks", "pytest")]

Once = Callable[[str, Callable[[Path], Any]], Any]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """``once(name, make)``: the JSON that ``make(folder)`` gives, made by the first process of the test run that asks."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name: str, make: Callable[[Path], Any]) -> Any:
        with FileLock(shared / f"{name}.lock"):
            found = shared / f"{name}.json"
            if not found.exists():
                folder = shared / name
                folder.mkdir(exist_ok=True)
                found.write_text(json.dumps(make(folder)))
        return json.loads(found.read_text())

    return get
