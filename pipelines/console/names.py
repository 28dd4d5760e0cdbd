"""Names of concepts for display, and file names made from them."""

import re
import unicodedata
from collections.abc import Sequence

MAX_SLUG_CHARS = 40
SHOWN_NAMES = 3


def some(names: Sequence[str], most: int = SHOWN_NAMES) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def slug(text: str) -> str:
    """Lower-case ASCII letters, digits and single hyphens of a text: never a path.

    It is empty if the text has none of these, and two texts may have the same slug: add a digest to
    tell them apart.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", plain)[:MAX_SLUG_CHARS].strip("-")
