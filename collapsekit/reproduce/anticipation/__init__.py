"""Actions that follow: R3D of the second paper, its data, training and scores."""
