"""Files beside weights that say what those are: JSON of a known maker, read within bounds; nothing in it is executed."""
