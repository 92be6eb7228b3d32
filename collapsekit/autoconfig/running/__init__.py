"""A config out of one batch: the model runs on it, and what it makes of each field is watched."""
