"""Repairs on real data: models collapsed by ordinary training, each method beside plain fine-tuning."""
