"""Coalitions of modalities: their values, Shapley credit, and the balanced reference."""
