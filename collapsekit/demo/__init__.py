"""The embedded example: its data, its model, and how it is trained."""

from collapsekit.deprecated import names_of_before

__getattr__ = names_of_before(__name__)
