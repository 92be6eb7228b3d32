"""Rules over a report: their grammar, what they name, and how they are decided."""
