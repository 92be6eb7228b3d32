"""Data, training and records of items that train models of their own."""
