"""Every table and figure of the two papers: what it takes to have it here, and whether the order is the same."""
