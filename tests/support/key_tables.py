"""What the tables of keys share: a schema's fields, and the kinds of units that a change is in."""

from collections.abc import Container, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

Keys = Mapping[str, set[str]]
"""Keys of a plan's units, by kind."""


def fields(schema: type[BaseModel], leaves: Container[str] = (), prefix: str = "") -> Iterator[str]:
    """Dotted names of every field below a section; those in `leaves` are not looked into."""
    for name, field in schema.model_fields.items():
        inner = sections_in(field.annotation)
        if inner and f"{prefix}{name}" not in leaves:
            for section in inner:
                yield from fields(section, leaves, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field may hold: of `tuple[Concept, ...] | None`, Concept."""
    found = [annotation] if isinstance(annotation, type) else []
    inner = [section for part in get_args(annotation) for section in sections_in(part)]
    return [*(section for section in found if issubclass(section, BaseModel)), *inner]


def merged(section: Any, change: Any) -> Any:
    """A section with a change in it, section by section; None takes a field away."""
    if not isinstance(change, dict) or not isinstance(section, dict):
        return change
    both = {**section, **{name: merged(section.get(name), new) for name, new in change.items()}}
    return {name: value for name, value in both.items() if value is not None}


def changed(base: Keys, other: Keys) -> set[str]:
    """The kinds of units of which some have another key."""
    return {kind for kind in base.keys() | other.keys() if base.get(kind) != other.get(kind)}
