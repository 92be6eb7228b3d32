"""The gate: rules over one report, and one report held against a baseline of earlier ones."""
