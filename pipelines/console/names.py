"""Names of files and pages, made from concept names."""

import re
import unicodedata

MAX_SLUG_CHARS = 40


def slug(text: str) -> str:
    """Lower-case ASCII letters, digits and single hyphens of a text: never a path.

    It is empty where the text has none of them, and two texts may have the same one: a digest
    beside it tells them apart.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", plain)[:MAX_SLUG_CHARS].strip("-")
