"""Small models on recorded features: linear readouts, calibration, encoders and fusions trained alone."""
