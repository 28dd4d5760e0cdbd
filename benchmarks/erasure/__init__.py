"""How well artists are erased from the demo model, by the shipped judge."""
