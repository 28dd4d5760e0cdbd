"""The reference of manifests and suites as Markdown, from the same schema that checks them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .schema import schema_of

Schema = Mapping[str, Any]
PREFIX = "#/$defs/"
REQUIRED = "required"


def reference_text(document: str) -> str:
    """Every section of a manifest or a suite, with each field's values and default.

    Raises:
        UserError: there is no such document.
    """
    schema = schema_of(document)
    definitions: Schema = schema["$defs"]
    sections = [(document, schema), *((name, definitions[name]) for name in _reached(schema))]
    parts = [
        f"# Reference of a {document}",
        f"Written by `conceptprune schema {document} --markdown` from the schema that checks a "
        f"{document}, and never by hand. `conceptprune validate` also knows the rules between "
        "fields. A field without a default is required; `null` says nothing.",
    ]
    for name, section in sections:
        parts += [f"## {name}", *_section(section, definitions)]
    return "\n\n".join(parts) + "\n"


def _reached(schema: Schema) -> list[str]:
    """Names of a document's sections, in the order in which its fields refer to them."""
    found: dict[str, None] = {}
    pending = list(_refs(schema["properties"]))
    while pending:
        name = pending.pop(0)
        if name not in found:
            found[name] = None
            pending += _refs(schema["$defs"][name])
    return list(found)


def _refs(part: object) -> Iterator[str]:
    if isinstance(part, Mapping):
        ref = part.get("$ref")
        if isinstance(ref, str):
            yield ref.removeprefix(PREFIX)
        for value in part.values():
            yield from _refs(value)
    elif isinstance(part, list):
        for value in part:
            yield from _refs(value)


def _section(section: Schema, definitions: Schema) -> Iterator[str]:
    if section.get("description"):
        yield " ".join(str(section["description"]).split())
    fields: Schema = section.get("properties", {})
    if not fields:
        yield _values(section, definitions)
        return
    required = section.get("required", ())
    rows = ["| field | values | default |", "|---|---|---|"]
    for name, field in fields.items():
        default = REQUIRED if name in required else _default(field, definitions)
        rows.append(f"| `{name}` | {_cell(_values(field, definitions))} | {_cell(default)} |")
    yield "\n".join(rows)


def _values(field: Schema, definitions: Schema) -> str:
    """The allowed values: the schema's own words, or else what types and ranges say."""
    told = field.get("description")
    links = [f"[{name}](#{name.lower()})" for name in dict.fromkeys(_refs(field))]
    words = str(told) if told and "$ref" not in field else _type(field)
    linked = f"see {', '.join(links)}" if links else ""
    return "; ".join(part for part in (words, linked) if part) or "anything"


def _type(field: Schema) -> str:
    match field:
        case {"const": value}:
            return f"`{value}`"
        case {"enum": values}:
            return "one of " + ", ".join(f"`{value}`" for value in values)
        case {"$ref": _}:
            return "a section"
        case {"anyOf": choices} | {"oneOf": choices}:
            return " or ".join(dict.fromkeys(_type(choice) for choice in choices))
        case {"type": "array", "items": items}:
            return f"a list, each {_type(items)}"
        case {"type": "array"}:
            return "a list"
        case {"type": "boolean"}:
            return "`true` or `false`"
        case {"type": "string"}:
            return "a text"
        case {"type": "null"}:
            return "`null`"
        case {"type": "integer" | "number" as kind}:
            noun = "a whole number" if kind == "integer" else "a number"
            limits = [
                f"{word} {field[name]:g}"
                for name, word in (
                    ("minimum", "at least"),
                    ("exclusiveMinimum", "above"),
                    ("maximum", "at most"),
                    ("exclusiveMaximum", "below"),
                )
                if name in field
            ]
            return f"{noun}, {' and '.join(limits)}" if limits else noun
        case {"type": "object"}:
            return "a section"
    return ""


def _default(field: Schema, definitions: Schema) -> str:
    """The default; for a section, each of its fields has its own."""
    if "default" not in field:
        return ""
    value = field["default"]
    if isinstance(value, dict) and any(_refs(field)):
        return "its own defaults"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
