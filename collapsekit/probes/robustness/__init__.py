"""Probes of what happens when a modality is missing or noisy."""
