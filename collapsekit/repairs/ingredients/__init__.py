"""What several repairs are made of."""
