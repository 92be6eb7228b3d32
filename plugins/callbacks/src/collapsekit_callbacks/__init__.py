"""Cheap probes of modality collapse while a model trains: a plain monitor, and callbacks for Lightning and Hugging Face."""

from __future__ import annotations

from collapsekit_callbacks.monitor import FUSED, CollapseWarning, Log, Monitor

__all__ = ["FUSED", "CollapseWarning", "Log", "Monitor"]
