"""How well artists are erased from the studio model, according to its judge."""
