"""Logged episodes of robots by files alone: frames, actions that end with their episode, splits of whole episodes."""
