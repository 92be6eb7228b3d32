"""Models that answer: a user's model that runs, is replayed and is trained, and what a repair puts into it."""
