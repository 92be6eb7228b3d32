"""Examples: where they come from, their order, and what a data file holds."""
