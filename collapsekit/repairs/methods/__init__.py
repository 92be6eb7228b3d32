"""One file a repair; what several are made of is in collapsekit.repairs.ingredients."""
