"""Drawings of what reports hold: for pages, and for papers."""

from collapsekit.deprecated import names_of_before

__getattr__ = names_of_before(__name__)
