"""The same work on a device and on the CPU, and whether the numbers agree. Run it with `python -m benchmarks.gpu`."""
