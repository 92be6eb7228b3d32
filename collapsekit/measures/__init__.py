"""What is measured, declared once: in the file of the probe that makes it, for all who show or compare results."""

from collapsekit.measures.catalogue import declare, heading_of, headings, index, lookup, measures_of
from collapsekit.measures.measure import LOSS, METRIC, Heading, Measure, Quantity

__all__ = [
    "LOSS",
    "METRIC",
    "Heading",
    "Measure",
    "Quantity",
    "declare",
    "heading_of",
    "headings",
    "index",
    "lookup",
    "measures_of",
]
