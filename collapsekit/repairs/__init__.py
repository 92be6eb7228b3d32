"""repair(): diagnose, train a method, judge it beside plain fine-tuning, write what was accepted."""
