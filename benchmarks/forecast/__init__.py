"""What a repair was expected to gain, beside what repairs then gained."""
