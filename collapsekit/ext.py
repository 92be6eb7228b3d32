"""What plugins, examples and a user's own probes, repairs and adapters import: these names stay where the insides move.

Like the package, it imports a name's module when the name is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Name -> the module that has it, and what it is called there where that is otherwise.
_WHERE = {
    # Registering
    "adapter": "registry",
    "probe": "registry",
    "repair_method": "registry",
    "task": "registry",
    "Finding": "measures",
    "Measure": "measures",
    "Panel": "measures",
    "Picture": "measures",
    "declare": "measures",
    "LOSS": "measures.measure",
    "METRIC": "measures.measure",
    # Probes
    "Cost": "session.costs.cost",
    "CostReport": "report.cost",
    "Bounds": "stats.inference.bounds",
    "Curve": "report.diagnosis",
    "Features": "features.features",
    "Options": "context",
    "Preview": "session.costs.preview",
    "Profile": "context",
    "Progress": "context",
    "Result": "report.diagnosis",
    "Session": "session.session",
    "Settings": "context",
    "estimate_cost": "diagnosis",
    "extract": "features.extraction",
    "bounded_interval": "stats.inference.bounded",
    "jackknife_interval": "stats.inference.jackknife:interval",
    "marginal_samples": "interventions.marginal",
    "predict": "interventions.replay",
    "reads_features": "session.costs.cost",
    # Numbers
    "Moments": "stats.linalg.moments",
    "NO_MIXTURE": "probes._shared:CONCATENATED",
    "effective_rank": "stats.linalg.spectrum",
    "fit_ridge": "stats.linear",
    "singular_values": "stats.linalg.spectrum",
    "singular_values_svd": "stats.linalg.spectrum",
    # Repairs
    "Job": "repairs.training.job",
    "Stage": "repairs.training.job",
    "Step": "repairs.training.job",
    "TrainPass": "adapters.base",
    "substitute_missing": "adapters.inserts",
    # Adapters and their data
    "Activations": "adapters.base",
    "Adapter": "adapters.encode_fuse_head",
    "EncodeFuseHeadAdapter": "adapters.encode_fuse_head",
    "ArraySource": "data.arrays",
    "Batch": "data.base",
    "Checkpoint": "checkpoint.read",
    "ForwardPass": "adapters.base",
    "LoaderSource": "data.loaders",
    "ModuleAdapter": "adapters.module",
    "Prediction": "adapters.base",
    "Source": "data.base",
    "Regression": "tasks.regression",
    "Task": "tasks.base",
    "build_adapter": "session.opening",
    "find_field": "data.paths",
    "MISSING": "data.paths",
    "replace_field": "data.paths",
    "Region": "config.regions",
    "parse_region": "config.regions",
    "put_region": "data.regions",
    "take_region": "data.regions",
    "find_submodule": "adapters.build",
    "make_source": "data.factory",
    "preserve_model": "adapters.live.preserve",
    "preserve_rng_state": "adapters.build",
    "seed_everything": "adapters.build",
    # Configs
    "Config": "config.schema",
    "ModalityConfig": "config.schema",
    "ModelConfig": "config.schema",
    "DiagnoseKeywords": "config.keywords",
    "check_config": "config.load",
    "load_config": "config.load",
    "settle_config": "diagnosis",
    # Reports
    "ModalityVerdict": "report.diagnosis",
    "Report": "report.diagnosis",
    "VERDICT_PROBES": "report.verdicts:DECIDING",
    "clean_report": "report.names:cleaned",
    # Errors
    "CollapsekitError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "FaultError": "errors",
    "NothingEvaluatedError": "errors",
    "NumericsError": "errors",
    "RefusedError": "errors",
    "ResultKeyError": "errors",
    "did_you_mean": "errors",
    "is_user_file": "user_code.frames",
    "one_line": "user_code.frames",
    "short_path": "user_code.frames",
    # Several processes
    "together": "distributed.process_group",
    # Data to try things on
    "load_mfeat": "demo.make",
}

__all__ = [
    "LOSS",
    "METRIC",
    "MISSING",
    "NO_MIXTURE",
    "VERDICT_PROBES",
    "Activations",
    "Adapter",
    "ArraySource",
    "Batch",
    "Bounds",
    "Checkpoint",
    "CollapsekitError",
    "Config",
    "ConfigError",
    "Cost",
    "CostReport",
    "Curve",
    "DataError",
    "DiagnoseKeywords",
    "EncodeFuseHeadAdapter",
    "FaultError",
    "Features",
    "Finding",
    "ForwardPass",
    "Job",
    "LoaderSource",
    "Measure",
    "ModalityConfig",
    "ModalityVerdict",
    "ModelConfig",
    "ModuleAdapter",
    "Moments",
    "NothingEvaluatedError",
    "NumericsError",
    "Options",
    "Panel",
    "Picture",
    "Prediction",
    "Preview",
    "Profile",
    "Progress",
    "RefusedError",
    "Region",
    "Regression",
    "Report",
    "Result",
    "ResultKeyError",
    "Session",
    "Settings",
    "Source",
    "Stage",
    "Step",
    "Task",
    "TrainPass",
    "adapter",
    "bounded_interval",
    "build_adapter",
    "check_config",
    "clean_report",
    "declare",
    "did_you_mean",
    "effective_rank",
    "estimate_cost",
    "extract",
    "find_field",
    "find_submodule",
    "fit_ridge",
    "is_user_file",
    "jackknife_interval",
    "load_config",
    "load_mfeat",
    "make_source",
    "marginal_samples",
    "one_line",
    "parse_region",
    "predict",
    "preserve_model",
    "preserve_rng_state",
    "probe",
    "put_region",
    "reads_features",
    "repair_method",
    "replace_field",
    "seed_everything",
    "settle_config",
    "short_path",
    "singular_values",
    "singular_values_svd",
    "substitute_missing",
    "take_region",
    "task",
    "together",
]

if TYPE_CHECKING:
    from collapsekit.adapters.base import Activations as Activations
    from collapsekit.adapters.base import Adapter, Prediction
    from collapsekit.adapters.base import ForwardPass as ForwardPass
    from collapsekit.adapters.base import TrainPass as TrainPass
    from collapsekit.adapters.build import find_submodule, seed_everything
    from collapsekit.adapters.build import preserve_rng_state as preserve_rng_state
    from collapsekit.adapters.encode_fuse_head import EncodeFuseHeadAdapter
    from collapsekit.adapters.inserts import substitute_missing as substitute_missing
    from collapsekit.adapters.live.preserve import preserve_model as preserve_model
    from collapsekit.adapters.module import ModuleAdapter
    from collapsekit.checkpoint.read import Checkpoint
    from collapsekit.config.keywords import DiagnoseKeywords
    from collapsekit.config.load import check_config, load_config
    from collapsekit.config.regions import Region as Region
    from collapsekit.config.regions import parse_region as parse_region
    from collapsekit.config.schema import Config, ModalityConfig, ModelConfig
    from collapsekit.context import Options, Profile, Progress, Settings
    from collapsekit.data.arrays import ArraySource
    from collapsekit.data.base import Batch, Source
    from collapsekit.data.factory import make_source
    from collapsekit.data.loaders import LoaderSource
    from collapsekit.data.paths import MISSING as MISSING
    from collapsekit.data.paths import find_field as find_field
    from collapsekit.data.paths import replace_field as replace_field
    from collapsekit.data.regions import put_region as put_region
    from collapsekit.data.regions import take_region as take_region
    from collapsekit.demo.make import load_mfeat
    from collapsekit.diagnosis import estimate_cost, settle_config
    from collapsekit.distributed.process_group import together
    from collapsekit.errors import (
        CollapsekitError,
        ConfigError,
        DataError,
        FaultError,
        NothingEvaluatedError,
        NumericsError,
        RefusedError,
        ResultKeyError,
        did_you_mean,
    )
    from collapsekit.features.extraction import extract
    from collapsekit.features.features import Features
    from collapsekit.interventions.marginal import marginal_samples as marginal_samples
    from collapsekit.interventions.replay import predict
    from collapsekit.measures import Finding, Measure, Panel, Picture, declare
    from collapsekit.measures.measure import LOSS, METRIC
    from collapsekit.probes._shared import CONCATENATED as NO_MIXTURE
    from collapsekit.registry import adapter, probe, repair_method, task
    from collapsekit.repairs.training.job import Job, Stage, Step
    from collapsekit.report.cost import CostReport
    from collapsekit.report.diagnosis import Curve, ModalityVerdict, Report, Result
    from collapsekit.report.names import cleaned as clean_report
    from collapsekit.report.verdicts import DECIDING as VERDICT_PROBES
    from collapsekit.session.costs.cost import Cost, reads_features
    from collapsekit.session.costs.preview import Preview
    from collapsekit.session.opening import build_adapter
    from collapsekit.session.session import Session as Session
    from collapsekit.stats.inference.bounded import bounded_interval
    from collapsekit.stats.inference.bounds import Bounds
    from collapsekit.stats.inference.jackknife import interval as jackknife_interval
    from collapsekit.stats.linalg.moments import Moments
    from collapsekit.stats.linalg.spectrum import effective_rank, singular_values, singular_values_svd
    from collapsekit.stats.linear import fit_ridge
    from collapsekit.tasks.base import Task
    from collapsekit.tasks.regression import Regression
    from collapsekit.user_code.frames import is_user_file as is_user_file
    from collapsekit.user_code.frames import one_line
    from collapsekit.user_code.frames import short_path as short_path
else:

    def __getattr__(name: str) -> Any:
        if name not in _WHERE:
            raise AttributeError(f"module 'collapsekit.ext' has no attribute {name!r}")
        module, there = places()[name]
        return getattr(importlib.import_module(module), there)


def places() -> dict[str, tuple[str, str]]:
    """Say of each name which module has it, and what it is called there."""
    split = {name: place.partition(":") for name, place in _WHERE.items()}
    return {name: (f"collapsekit.{module}", there or name) for name, (module, _, there) in split.items()}


def __dir__() -> list[str]:
    return sorted([*__all__, "__doc__"])
