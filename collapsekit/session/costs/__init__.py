"""What a diagnosis would cost: counts by probe from its first examples, and seconds from one timed batch."""
