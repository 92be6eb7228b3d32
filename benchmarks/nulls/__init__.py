"""Subjects of which nothing may be said to be used, or to be healthy: untrained networks, and labels that were shuffled."""
