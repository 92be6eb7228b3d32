"""Repairs: one file a method; stage.py says what a method gives, loop.py trains it, snapshots.py lets it go on."""
