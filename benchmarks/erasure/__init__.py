"""How well artists are erased from the demo model, according to its judge."""
