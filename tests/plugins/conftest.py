"""The plugins' own packages, importable from where they lie."""

from __future__ import annotations

import sys
from pathlib import Path

PLUGINS = Path(__file__).parents[2] / "plugins"
sys.path[:0] = [str(PLUGINS / name / "src") for name in ("callbacks", "pytest")]
