"""Families of models as people have them: shared encoders, stacked channels, token ranges, ragged and missing inputs."""
