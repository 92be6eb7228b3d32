"""Probes of single dimensions: polysemanticity, collisions, gradients."""
