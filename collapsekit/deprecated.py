"""Import paths of version 0.1.0 that README, docs, examples or plugins showed: they still work, and name the new one."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Old module -> modules that hold its names now.
_MOVED: dict[str, tuple[str, ...]] = {
    "adapter": ("adapters.base", "adapters.module"),
    "adapter.base": ("adapters.base",),
    "adapter.build": ("adapters.build",),
    "adapter.preserve": ("adapters.live.preserve",),
    "example": (),
    "example.model": ("demo.model",),
    "files": ("io.files",),
    "imports": ("config.imports",),
    "inserts": ("adapters.inserts",),
    "probes.spectrum": ("probes.geometry.spectrum",),
    "render.sanitize": ("report.cleaning", "io.safe_text", "report.names"),
    "replay": ("interventions.replay", "interventions.marginal", "games.coalitions"),
    "run": ("diagnosis",),
    "settings": ("context",),
    "sources": ("data.base",),
    "stats.jackknife": ("stats.inference.jackknife",),
    "stats.moments": ("stats.linalg.moments",),
    "stats.spectrum": ("stats.linalg.spectrum",),
    "verdict": ("report.verdicts",),
}
# Packages that bear the name of a module of before.
_NOW_PACKAGES: dict[str, tuple[str, ...]] = {
    "config": ("config.schema",),
    "demo": ("demo.make",),
    "features": ("features.features", "features.extraction"),
    "report": ("report.diagnosis", "report.parts"),
}


def names_of_before(package: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose name a module bore: it hands on that module's names, with a warning."""
    return _handing_on(package, _NOW_PACKAGES[package.removeprefix("collapsekit.")])


def install() -> None:
    """Let ``import`` find the modules of before, after all that is really there."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())


class _Moved:
    """Finds and makes a module of before, which holds no name of its own."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        """The spec of ``name`` where it is a module of before, else None."""
        del path, target
        short = name.removeprefix("collapsekit.")
        if short == name or short not in _MOVED:
            return None
        return ModuleSpec(name, self, is_package=any(old.startswith(f"{short}.") for old in _MOVED))  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Python's own kind of module will do."""

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its names."""
        module.__dict__["__getattr__"] = _handing_on(
            module.__name__, _MOVED[module.__name__.removeprefix("collapsekit.")]
        )


def _handing_on(old: str, new: Sequence[str]) -> Callable[[str], Any]:
    def get(name: str) -> Any:
        for place in () if name.startswith("__") else new:
            module = importlib.import_module(f"collapsekit.{place}")
            if name in vars(module):
                message = f"{old}.{name} is now {module.__name__}.{name}: import it from collapsekit.ext or from there."
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                return vars(module)[name]
        raise AttributeError(f"module {old!r} has no attribute {name!r}")

    return get
