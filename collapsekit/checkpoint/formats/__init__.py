"""Any file -> where its tensors lie, by the standard library alone: runs in a process of its own, executes nothing.

Nothing here imports torch or NumPy, so that the process that looks into an unknown file holds as little as possible
and starts at once; :mod:`collapsekit.checkpoint` maps what was located.
"""
