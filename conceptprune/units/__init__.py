"""Units of work: what they are, the plan of a run, and the worker that does them."""
