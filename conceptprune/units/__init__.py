"""Units of work, the plan of a run, and the worker that does them."""
