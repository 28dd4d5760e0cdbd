"""Diffusion models: what is particular to each family, and how one is found, loaded and run."""
