"""Models of the papers, small."""
