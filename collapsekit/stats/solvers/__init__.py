"""What minimises a loss step by step: AdamW for networks."""
