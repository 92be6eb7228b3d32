"""A first collapsekit.yaml: out of a checkpoint's tensor names and shapes alone, or by running one batch."""
