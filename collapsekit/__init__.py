"""Find out which modalities a multimodal PyTorch model ignores, how much that costs, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from collapsekit.deprecated import install
from collapsekit.version import __version__ as __version__

# Imported when first asked for, so that `import collapsekit` and `--help` do not wait for torch.
_WHERE = {
    "Adapter": "collapsekit.adapters.encode_fuse_head",  # so that the class for those with its parts is known
    "EncodeFuseHeadAdapter": "collapsekit.adapters.encode_fuse_head",
    "Baseline": "collapsekit.report.baseline",
    "CollapsekitError": "collapsekit.errors",
    "Comparison": "collapsekit.report.comparison",
    "Config": "collapsekit.config.schema",
    "Curve": "collapsekit.report.diagnosis",
    "Features": "collapsekit.features.features",
    "GateReport": "collapsekit.report.gate",
    "ModalityVerdict": "collapsekit.report.diagnosis",
    "ModuleAdapter": "collapsekit.adapters.module",
    "Options": "collapsekit.context",
    "RepairReport": "collapsekit.report.repair",
    "Report": "collapsekit.report.diagnosis",
    "Result": "collapsekit.report.diagnosis",
    "Settings": "collapsekit.context",
    "baseline": "collapsekit.gating.baseline",
    "compare": "collapsekit.comparison.compare",
    "diagnose": "collapsekit.diagnosis",
    "gate": "collapsekit.gating.decide",
    "load_config": "collapsekit.config.load",
    "load_repaired": "collapsekit.repairs.export",
    "probe": "collapsekit.registry",
    "repair": "collapsekit.repairs.run",
    "substitute_missing": "collapsekit.adapters.inserts",
}

__all__ = [
    "Adapter",
    "Baseline",
    "CollapsekitError",
    "Comparison",
    "Config",
    "Curve",
    "EncodeFuseHeadAdapter",
    "Features",
    "GateReport",
    "ModalityVerdict",
    "ModuleAdapter",
    "Options",
    "RepairReport",
    "Report",
    "Result",
    "Settings",
    "baseline",
    "compare",
    "diagnose",
    "gate",
    "load_config",
    "load_repaired",
    "probe",
    "repair",
    "substitute_missing",
]

if TYPE_CHECKING:  # a type checker sees the names themselves, and no __getattr__ that would let a misspelt one pass
    from collapsekit.adapters.base import Adapter
    from collapsekit.adapters.encode_fuse_head import EncodeFuseHeadAdapter
    from collapsekit.adapters.inserts import substitute_missing as substitute_missing
    from collapsekit.adapters.module import ModuleAdapter
    from collapsekit.comparison.compare import compare
    from collapsekit.config.load import load_config
    from collapsekit.config.schema import Config
    from collapsekit.context import Options, Settings
    from collapsekit.diagnosis import diagnose
    from collapsekit.errors import CollapsekitError
    from collapsekit.features.features import Features
    from collapsekit.gating.baseline import baseline
    from collapsekit.gating.decide import gate
    from collapsekit.registry import probe
    from collapsekit.repairs.export import load_repaired
    from collapsekit.repairs.run import repair
    from collapsekit.report.baseline import Baseline
    from collapsekit.report.comparison import Comparison
    from collapsekit.report.diagnosis import Curve, ModalityVerdict, Report, Result
    from collapsekit.report.gate import GateReport
    from collapsekit.report.repair import RepairReport
else:

    def __getattr__(name: str) -> Any:
        import importlib

        if name == "ext":
            return importlib.import_module("collapsekit.ext")
        if name not in _WHERE:
            raise AttributeError(f"module 'collapsekit' has no attribute {name!r}")
        module, _, there = _WHERE[name].partition(":")
        return getattr(importlib.import_module(module), there or name)


def __dir__() -> list[str]:
    return sorted([*__all__, "ext", "__all__", "__doc__", "__version__"])


install()
