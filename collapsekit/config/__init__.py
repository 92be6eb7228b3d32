"""What the user's collapsekit.yaml says: its schema, which file is used, and the code that it names."""

from collapsekit.deprecated import names_of_before

__getattr__ = names_of_before(__name__)
