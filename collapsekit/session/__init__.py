"""The opened subject of a diagnosis, and the checks before it is opened."""
