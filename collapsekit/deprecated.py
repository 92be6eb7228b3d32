"""Import paths of version 0.1.0 that README, docs, examples or plugins showed: they still work, and name the new one.

A repaired model that was pickled whole names its classes by such a path, too.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Names that tasks had, which configs and reports may still have.
TASKS_OF_BEFORE = {"contrastive": "retrieval"}
# Old module -> modules that hold its names now.
_MOVED: dict[str, tuple[str, ...]] = {
    "adapter": ("adapters.encode_fuse_head", "adapters.base", "adapters.module"),
    "adapter.base": ("adapters.encode_fuse_head", "adapters.base"),
    "adapter.build": ("adapters.build", "adapters.live.preserve"),
    "adapter.preserve": ("adapters.live.preserve",),
    "example": (),
    "example.model": ("demo.model",),
    "files": ("io.files",),
    "imports": ("config.imports",),
    "inserts": ("adapters.inserts",),
    "probes.spectrum": ("probes._shared", "probes.geometry.spectrum"),
    "render.canvas": ("render.figures.style",),
    "render.marks": ("render.figures.marks",),
    "render.sanitize": ("report.names", "io.safe_text"),
    "replay": ("interventions.replay", "interventions.marginal", "games.coalitions"),
    "run": ("diagnosis", "session.opening"),
    "settings": ("context",),
    "sources": ("data.base", "data.arrays", "data.loaders", "data.factory"),
    "stats.jackknife": ("stats.inference.jackknife",),
    "stats.moments": ("stats.linalg.moments",),
    "stats.spectrum": ("stats.linalg.spectrum",),
    "verdict": ("report.verdicts",),
    "world": ("distributed.process_group",),
}
# What a name of before is called where its module does not have it any more.
_RENAMED = {
    "Basis": "BasisHead",
    "Exchange": "ChannelExchange",
    "Junction": "EncoderBarrier",
    "Pass": "ForwardPass",
    "Post": "WrappedEncoder",
    "Recorded": "Activations",
    "absent": "substitute_missing",
    "donors": "marginal_samples",
    "model_kept": "preserve_model",
    "random_state_kept": "preserve_rng_state",
}
# Packages of one function, which bears the package's name now: importing the package gives the function.
_NOW_FUNCTIONS: dict[str, str] = {
    "compare": "comparison.compare",
    "gate": "gating.decide",
}
# Packages that bear the name of a module of before.
_NOW_PACKAGES: dict[str, tuple[str, ...]] = {
    "config": ("config.schema", "config.load"),
    "demo": ("demo.make",),
    "features": ("features.features", "features.extraction"),
    "render.figures": ("render.figures.diagnosis",),
    "report": ("report.diagnosis", "report.parts"),
}


def names_of_before(package: str) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a package whose name a module bore: it hands on that module's names, with a warning."""
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
        if short == name or short not in (*_MOVED, *_NOW_FUNCTIONS):
            return None
        return ModuleSpec(name, self, is_package=any(old.startswith(f"{short}.") for old in _MOVED))  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Python's own kind of module will do."""

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its names, or put the function in its place, which is then what the package's attribute holds."""
        short = module.__name__.removeprefix("collapsekit.")
        if short in _MOVED:
            module.__dict__["__getattr__"] = _handing_on(module.__name__, _MOVED[short])
            return
        function = vars(importlib.import_module(f"collapsekit.{_NOW_FUNCTIONS[short]}"))[short]
        setattr(function, short, function)  # as in `from collapsekit.gate import gate`
        sys.modules[module.__name__] = function
        _warn(module.__name__, f"the function collapsekit.{short}: call it as that.", 3)


def _handing_on(old: str, new: Sequence[str]) -> Callable[[str], Any]:
    def get(name: str) -> Any:
        for place in () if name.startswith("__") else new:
            module = importlib.import_module(f"collapsekit.{place}")
            there = name if name in vars(module) else _RENAMED.get(name, name)
            if there not in vars(module):
                continue
            # Of a package, `from ... import` first asks whether it has the name, and then for the name.
            if sys._getframe(1).f_globals.get("__name__") != "importlib._bootstrap":
                _warn(f"{old}.{name}", f"{module.__name__}.{there}: {_advice(module.__name__, there)}.", 3)
            return vars(module)[there]
        raise AttributeError(f"module {old!r} has no attribute {name!r}")

    return get


def _advice(module: str, name: str) -> str:
    """Where to import the name from."""
    surface = importlib.import_module("collapsekit.ext")
    for public, (where, there) in surface.places().items():
        if (where, there) == (module, name):
            return f"import {public} from collapsekit.ext"
    return "import it from there, where it may move again"


def _warn(old: str, new: str, level: int) -> None:
    warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=level)
