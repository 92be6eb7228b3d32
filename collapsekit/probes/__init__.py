"""Probes, one file each: what is measured of a model. Each registers itself; its maths is a pure function in
``collapsekit.stats``."""
