"""Models that the papers' items train, in plain PyTorch."""
