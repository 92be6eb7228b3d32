"""What a user's functions may not do to the run: end it, swallow Ctrl-C, or leave the process changed."""
