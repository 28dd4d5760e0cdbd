"""What the manifest of a recorded run asked for, read as plain JSON.

A manifest on record was checked by the version that ran it. It is not checked again here: another
version may know other fields, and a reader only shows what it finds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel

from conceptprune.manifest import Manifest
from conceptprune.manifest.fields import field_named


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedConcept:
    """A concept to erase."""

    name: str
    kind: str
    """Empty if not recorded."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A manifest on record."""

    manifest: Mapping[str, Any]

    def get(self, *path: str) -> Any:
        """The value at `path`, section by section; None if there is none."""
        value: Any = self.manifest
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    @property
    def concepts(self) -> tuple[AskedConcept, ...]:
        """The concepts to erase, in the manifest's order."""
        return tuple(
            AskedConcept(name=str(entry["name"]), kind=str(entry.get("kind") or ""))
            for entry in self._entries("concepts")
        )

    @property
    def retained(self) -> tuple[str, ...]:
        """Names of the concepts to retain, in the manifest's order."""
        return tuple(str(entry["name"]) for entry in self._entries("retain"))

    @property
    def unknown(self) -> tuple[str, ...]:
        """Fields that this version's manifests do not have, such as "collection.steps"."""
        return tuple(dict.fromkeys(_unknown(self.manifest, [Manifest], "")))

    def _entries(self, name: str) -> Iterator[Mapping[str, Any]]:
        entries = self.manifest.get(name)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, Mapping) and "name" in entry:
                yield entry


def _unknown(value: object, schemas: list[type[BaseModel]], path: str) -> Iterator[str]:
    """Fields below `path` that none of the `schemas` allowed there has, as full paths."""
    if isinstance(value, list):
        for entry in value:
            yield from _unknown(entry, schemas, path)
    elif isinstance(value, Mapping) and schemas:
        for name, entry in value.items():
            fields = [field_named(schema, name) for schema in schemas]
            known = [field.annotation for field in fields if field]
            here = f"{path}.{name}" if path else str(name)
            if not known:
                yield here
            else:
                sections = [section for kind in known for section in _sections(kind)]
                yield from _unknown(entry, sections, here)


def _sections(annotation: object) -> Iterator[type[BaseModel]]:
    """The schemas inside a field's type: Concept for `tuple[Concept, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)
