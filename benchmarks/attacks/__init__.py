"""What attacks bring back of artists erased from the demo model, by the shipped judge."""
