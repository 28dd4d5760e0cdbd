"""How often attacks bring back artists erased from the demo model, according to its judge."""
