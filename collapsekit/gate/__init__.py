"""The gate: rules over one report, and one report held against a baseline of earlier ones."""

from collapsekit.gate.decide import gate

__all__ = ["gate"]
