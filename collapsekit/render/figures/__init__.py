"""Drawings of what reports hold: for pages, and for papers."""
