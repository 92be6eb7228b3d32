"""One file a probe. Each registers itself; its maths is a pure function in ``collapsekit.stats``."""
