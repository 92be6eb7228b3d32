"""How long things take, and how much memory: start-up, large checkpoints, and others' code on the same data."""
