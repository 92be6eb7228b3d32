"""Probes of the shape of features: rank, collinearity, similarity."""
