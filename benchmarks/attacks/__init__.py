"""How often attacks bring back artists erased from the studio model, according to its judge."""
