"""Intervals and tests: tensors in, numbers out."""
