"""What need not run in a replay: it feeds only encoders that answer from their recordings, or nothing that is read."""
