"""Repairing a model: diagnose, train, judge beside plain fine-tuning, export."""

from collapsekit.repairing.order import plan, repair

__all__ = ["plan", "repair"]
