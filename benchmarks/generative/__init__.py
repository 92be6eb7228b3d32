"""Verdicts on tiny vision-language models whose truth is known because it was planted."""
