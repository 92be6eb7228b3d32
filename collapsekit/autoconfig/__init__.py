"""A first collapsekit.yaml out of a checkpoint's tensor names and shapes; nothing is loaded or executed."""
