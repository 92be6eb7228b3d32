"""Numerics of matrices: tensors in, numbers out."""
