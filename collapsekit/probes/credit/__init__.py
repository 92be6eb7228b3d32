"""Probes of what the model gets from each modality, and what could be had from it."""
