"""Reports side by side: what differs, which is best, and what chance may have done."""
