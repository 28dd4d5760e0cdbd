"""Formats of files, apart from the code that reads them: units' keys hold them without torch."""

SUMS_FORMAT = "conceptprune.moments/1"
"""Of second moments and shifts (`moments_file.py`)."""
