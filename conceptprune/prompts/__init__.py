"""Prompt pairs of concepts: published, written in the manifest, or with generated fillers."""
