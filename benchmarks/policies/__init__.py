"""Planted robot policies: which inputs they use is known from the making, and looked at by exchanging these."""
