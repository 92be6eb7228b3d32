"""The plugins' packages, imported from where they lie in this repository, installed or not."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

PLUGINS = Path(__file__).parents[1] / "plugins"


def import_plugin(name: str) -> ModuleType:
    """Import ``collapsekit_NAME`` of ``plugins/NAME``."""
    sys.path.insert(0, str(PLUGINS / name / "src"))
    return import_module(f"collapsekit_{name}")
