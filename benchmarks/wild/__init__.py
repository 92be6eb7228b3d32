"""What a diagnosis costs on models as strangers write them, counted in plain passes, which no machine changes."""
