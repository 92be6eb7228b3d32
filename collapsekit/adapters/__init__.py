"""Models that answer: one user's model seen as encode, fuse, head, plus its data."""
