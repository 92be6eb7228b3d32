"""What rules of verdicts read, and the first rules, for reports written under them."""
