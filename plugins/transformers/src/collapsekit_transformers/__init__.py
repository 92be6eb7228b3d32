"""``adapter: transformers``: Hugging Face CLIP, ViLT and VisualBERT checkpoints for collapsekit."""

from __future__ import annotations

from collapsekit_transformers.build import build

__all__ = ["build"]
