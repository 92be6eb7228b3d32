"""Models trained as people train them, nothing planted; what they use is found by exchanging and by retraining."""
