"""What need not run in a replay, as it feeds nothing but encoders that answer from their recordings."""
