"""Planted faults between the data and the model, and whether the watch of plugins/callbacks names them in fifty steps."""
