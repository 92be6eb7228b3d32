"""Small models on recorded features and raw inputs: linear readouts, calibration, encoders and fusions trained alone."""
