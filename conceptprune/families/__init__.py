"""Families of models: what is particular to each, and the table that finds the one of a folder."""
