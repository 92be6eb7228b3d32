"""Find out which modalities a multimodal PyTorch model ignores, how much that costs, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from collapsekit.deprecated import install
from collapsekit.version import __version__ as __version__

if TYPE_CHECKING:
    from collapsekit.adapters.base import Adapter
    from collapsekit.adapters.encode_fuse_head import EncodeFuseHeadAdapter
    from collapsekit.adapters.module import ModuleAdapter
    from collapsekit.config.load import load_config
    from collapsekit.config.schema import Config
    from collapsekit.context import Options, Settings
    from collapsekit.diagnosis import diagnose
    from collapsekit.errors import CollapsekitError
    from collapsekit.features.features import Features
    from collapsekit.registry import probe
    from collapsekit.repairs.export import load_repaired
    from collapsekit.repairs.run import repair
    from collapsekit.report.diagnosis import Curve, ModalityVerdict, Report, Result
    from collapsekit.report.repair import RepairReport

# Imported when first asked for, so that `import collapsekit` and `--help` do not wait for torch.
_WHERE = {
    "Adapter": "collapsekit.adapters.encode_fuse_head",  # so that the class for those with its parts is known
    "EncodeFuseHeadAdapter": "collapsekit.adapters.encode_fuse_head",
    "ModuleAdapter": "collapsekit.adapters.module",
    "Config": "collapsekit.config.schema",
    "load_config": "collapsekit.config.load",
    "CollapsekitError": "collapsekit.errors",
    "Features": "collapsekit.features.features",
    "Options": "collapsekit.registry",
    "probe": "collapsekit.registry",
    "Curve": "collapsekit.report.diagnosis",
    "ModalityVerdict": "collapsekit.report.diagnosis",
    "Report": "collapsekit.report.diagnosis",
    "Result": "collapsekit.report.diagnosis",
    "RepairReport": "collapsekit.report.repair",
    "repair": "collapsekit.repairs.run",
    "load_repaired": "collapsekit.repairs.export",
    "diagnose": "collapsekit.diagnosis",
    "Settings": "collapsekit.context",
}

__all__ = [
    "Adapter",
    "CollapsekitError",
    "Config",
    "Curve",
    "EncodeFuseHeadAdapter",
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


install()
