"""File names from concept names."""

import re
import unicodedata

MAX_SLUG_CHARS = 40


def slug(text: str) -> str:
    """Lower-case ASCII letters, digits and single hyphens of a text; never empty, never a path."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", plain)[:MAX_SLUG_CHARS].strip("-") or "concept"
