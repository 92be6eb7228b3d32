"""The one loop that trains repairs, its snapshots, and what shares or compiles the work."""
