"""Every file we write, as frozen models, and what has to agree in each before it is read again."""

from collapsekit.deprecated import names_of_before

__getattr__ = names_of_before(__name__)
