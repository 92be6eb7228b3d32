"""Find out which modalities a multimodal PyTorch model ignores, how much that costs, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from collapsekit.adapter import Adapter, ModuleAdapter
    from collapsekit.config import Config, load_config
    from collapsekit.errors import CollapsekitError
    from collapsekit.features import Features
    from collapsekit.registry import Options, probe
    from collapsekit.repair_report import RepairReport
    from collapsekit.repairing import repair
    from collapsekit.repairs.export import load_repaired
    from collapsekit.report import Curve, ModalityVerdict, Report, Result
    from collapsekit.run import diagnose
    from collapsekit.settings import Settings

# Imported when first asked for, so that `import collapsekit` and `--help` do not wait for torch.
_WHERE = {
    "Adapter": "collapsekit.adapter",
    "ModuleAdapter": "collapsekit.adapter",
    "Config": "collapsekit.config",
    "load_config": "collapsekit.config",
    "CollapsekitError": "collapsekit.errors",
    "Features": "collapsekit.features",
    "Options": "collapsekit.registry",
    "probe": "collapsekit.registry",
    "Curve": "collapsekit.report",
    "ModalityVerdict": "collapsekit.report",
    "Report": "collapsekit.report",
    "Result": "collapsekit.report",
    "RepairReport": "collapsekit.repair_report",
    "repair": "collapsekit.repairing",
    "load_repaired": "collapsekit.repairs.export",
    "diagnose": "collapsekit.run",
    "Settings": "collapsekit.settings",
}

__all__ = [
    "Adapter",
    "CollapsekitError",
    "Config",
    "Curve",
    "Features",
    "ModalityVerdict",
    "ModuleAdapter",
    "Options",
    "RepairReport",
    "Report",
    "Result",
    "Settings",
    "diagnose",
    "load_config",
    "load_repaired",
    "probe",
    "repair",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'collapsekit' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)
