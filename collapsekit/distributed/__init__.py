"""Several processes at one job: how they meet, what they tell one another, and who is gone."""
