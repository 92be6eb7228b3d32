"""Cheap probes of modality collapse while a model trains: a plain monitor, and callbacks for Lightning and Hugging Face."""

from __future__ import annotations

from collapsekit_callbacks.monitor import FUSED, CollapseWarning, Log, Monitor
from collapsekit_callbacks.pipeline.naming import PipelineFinding
from collapsekit_callbacks.watch import PipelineWarning, Watch

__all__ = ["FUSED", "CollapseWarning", "Log", "Monitor", "PipelineFinding", "PipelineWarning", "Watch"]
