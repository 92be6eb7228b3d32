"""What minimises a loss step by step: Newton's method for linear models, and AdamW for networks."""
