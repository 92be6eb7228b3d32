"""Reports side by side: what differs, which is best, and what chance may have done."""

from collapsekit.compare.build import compare

__all__ = ["compare"]
