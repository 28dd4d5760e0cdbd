"""Pruned checkpoints: deltas, pipeline folders and single files, and their model cards."""
