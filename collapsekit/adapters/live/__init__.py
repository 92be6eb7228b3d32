"""A model given as an object: unwrapped, put back as it was, its state watched."""
