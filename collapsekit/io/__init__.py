"""Bounded reads, atomic writes, locks, and rows kept on disk."""
