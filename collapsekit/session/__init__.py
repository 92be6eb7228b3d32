"""The opened subject of a diagnosis, what is measured of it once for all probes, and the checks before it is opened."""
