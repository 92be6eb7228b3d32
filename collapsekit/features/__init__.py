"""What one pass of the encoders over a split left behind."""

from collapsekit.deprecated import names_of_before

__getattr__ = names_of_before(__name__)
