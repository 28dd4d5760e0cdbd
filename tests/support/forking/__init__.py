"""Forks of a warm process in place of processes that import for themselves; see `server`."""
