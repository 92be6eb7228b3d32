"""What is measured, declared once: in the file of the probe that makes it, for all who show or compare results."""

from collapsekit.measures.catalogue import (
    declare,
    heading_of,
    headings,
    headings_of_package,
    index,
    lookup,
    measures_of,
)
from collapsekit.measures.measure import LOSS, METRIC, Heading, Measure, Quantity
from collapsekit.measures.picture import Finding, Panel, Picture

__all__ = [
    "LOSS",
    "METRIC",
    "Finding",
    "Heading",
    "Measure",
    "Panel",
    "Picture",
    "Quantity",
    "declare",
    "heading_of",
    "headings",
    "headings_of_package",
    "index",
    "lookup",
    "measures_of",
]
