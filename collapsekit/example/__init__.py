"""The embedded example: UCI Multiple Features (see ATTRIBUTION.md) and a small model that fuses four of its views."""
