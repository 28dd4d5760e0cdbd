"""Images that concepts share: those of the combined checkpoint, where no mask has its own."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from ..records.combined import combined_row
from .rows import Row

Read = Callable[[str], list[dict[str, Any]]]
"""The images of a preview unit, by its key."""


class SharedImages:
    """Finds, among the combined checkpoint's images, those of one concept's prompts."""

    def __init__(self, rows: Sequence[Row], read: Read) -> None:
        """`rows` are the ledger's; images are read when first asked for."""
        combined = combined_row(rows)
        self._key = combined["key"] if combined else ""
        self._rows = [row for row in rows if row["kind"] == "preview" and row["mask"] == self._key]
        self._read = read

    def of(self, key: str, rows: list[Row], texts: Iterable[str]) -> tuple[str, list[Row]]:
        """What shows a concept erased, by its mask's key if that has images, and the rows of them.

        `rows` are the concept's own, `texts` its prompts.
        """
        own = any(row["kind"] == "preview" and row["mask"] == key for row in rows)
        if own or not self._rows:
            return key, rows
        found = {row["key"]: row for text in texts for row in self._by_text.get(text, ())}
        return self._key, [*rows, *found.values()]

    @cached_property
    def _by_text(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in self._rows:
            for text in {image["prompt"] for image in self._read(row["key"])}:
                found.setdefault(text, []).append(row)
        return found
