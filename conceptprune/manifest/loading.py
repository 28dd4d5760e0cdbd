"""Load a manifest from a file, and describe everything that is wrong with it in one error."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from conceptprune.errors import ManifestError, UserError
from conceptprune.manifest.concept_lists import Listed
from conceptprune.manifest.fields import FieldPath, NamedPath, field_named, is_union_tag
from conceptprune.manifest.schema import Manifest
from conceptprune.manifest.strict_yaml import Document, PlainYamlError, Unreadable, read_yaml
from conceptprune.redaction import FAR, shortened
from conceptprune.strict_reading import open_regular

MAX_BYTES = 4 * 1024 * 1024
MAX_SHOWN_PROBLEMS = 100
"""Of a list with thousands of wrong names, only the first are shown."""
_MAX_SHOWN_CHARS = 80
_MIN_ABBREVIATION_CHARS = 3


S = TypeVar("S", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class _Reading:
    """A document, and the schema it is checked against."""

    document: Document
    schema: type[BaseModel]
    files: Mapping[FieldPath, str] = field(default_factory=dict)
    """The files of entries that come from concept lists."""

    @classmethod
    def of(
        cls, document: Document, schema: type[BaseModel], listed: Mapping[str, Listed]
    ) -> "_Reading":
        """Replace each section that names a list by the list's entries."""
        files: dict[FieldPath, str] = {}
        for name, each in listed.items():
            document.data[name] = each.concepts
            for index, line in enumerate(each.lines):
                files[name, index] = each.file
                document.lines[name, index] = line
        return cls(document, schema, files)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    line: int
    path: FieldPath
    found: str
    allowed: str
    nearest: str | None = None
    file: str | None = None
    """The file of that line, if it is not the document itself."""


def load_manifest(path: Path | str) -> Manifest:
    """Read and check the manifest at `path`.

    Raises:
        ManifestError: the file cannot be read, is not UTF-8, is larger than `MAX_BYTES`, is not
            plain YAML, or breaks a rule of the schema; the message lists all problems.

    """
    return load_document(path, Manifest)


def parse_manifest(text: str, *, source: str, folder: Path) -> Manifest:
    """Check the manifest `text`; `source` is its name in messages, `folder` resolves paths in it.

    Raises:
        ManifestError: as `load_manifest`.

    """
    return parse_document(text, Manifest, source=source, folder=folder)


def checked_section(section: type[S], **values: Any) -> S:
    """Check a section whose values do not come from a file, by the same rules.

    Raises:
        UserError: a value breaks a rule; one line that names the field and what is allowed.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        document = Document(data=values)
        details = error.errors(include_url=False)[0]
        problem = next(_problems_in(details, _Reading(document, section)))
        _, value = _value_at(values, problem.path)
        nearest = f" (nearest: {problem.nearest})" if problem.nearest else ""
        raise UserError(
            f"{_dotted(problem.path)}: found {_printable(repr(value))}, allowed is "
            f"{problem.allowed}{nearest}"
        ) from error


def load_document(path: Path | str, schema: type[S]) -> S:
    """Read and check a YAML file of any schema.

    Raises:
        ManifestError: as `load_manifest`.

    """
    return load_with_paths(path, schema)[0]


def load_with_paths(path: Path | str, schema: type[S]) -> tuple[S, tuple[NamedPath, ...]]:
    """Read and check a YAML file of any schema; also returns the files and folders it names.

    Raises:
        ManifestError: as `load_manifest`.

    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ManifestError(f"{path} cannot be read: {error}") from error
    if len(content) > MAX_BYTES:
        raise ManifestError(f"{path} is larger than {MAX_BYTES} bytes, the limit for such a file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{path}:{line}: not UTF-8 text ({error.reason})") from error
    return _parse(text, schema, source=str(path), folder=path.parent)


def parse_document(text: str, schema: type[S], *, source: str, folder: Path) -> S:
    """Check the YAML `text` against a schema; see `parse_manifest`.

    Raises:
        ManifestError: as `load_manifest`.

    """
    return _parse(text, schema, source=source, folder=folder)[0]


def _parse(
    text: str, schema: type[S], *, source: str, folder: Path
) -> tuple[S, tuple[NamedPath, ...]]:
    try:
        document = read_yaml(text)
    except PlainYamlError as problem:
        found = _Problem(
            line=problem.line, path=(), found=_printable(problem.found), allowed=problem.allowed
        )
        raise ManifestError(_message(source, [found])) from problem
    problems = [
        _Problem(
            line=line,
            path=path,
            found="the same key a second time",
            allowed=f"each key once (first on line {first_line})",
        )
        for path, line, first_line in document.repeated_keys
    ]
    try:
        named: list[NamedPath] = []
        listed: dict[str, Listed] = {}
        context = {"folder": str(folder.absolute()), "named": named, "listed": listed}
        checked = schema.model_validate(document.data, context=context)
    except ValidationError as error:
        reading = _Reading.of(document, schema, listed)
        for details in error.errors(include_url=False):
            problems.extend(_problems_in(details, reading))
        raise ManifestError(_message(source, problems)) from error
    if problems:
        raise ManifestError(_message(source, problems))
    return checked, tuple(named)


def _message(source: str, problems: list[_Problem]) -> str:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [f"{source} has {count}:"]
    ordered = sorted(problems, key=lambda problem: (problem.file or "", problem.line))
    for problem in ordered[:MAX_SHOWN_PROBLEMS]:
        where = f": {_dotted(problem.path)}" if problem.path else ""
        lines += [
            f"{problem.file or source}:{problem.line}{where}",
            f"    found:   {problem.found}",
            f"    allowed: {problem.allowed}",
        ]
        if problem.nearest is not None:
            lines.append(f"    nearest: {problem.nearest}")
    if len(problems) > MAX_SHOWN_PROBLEMS:
        lines.append(f"and {len(problems) - MAX_SHOWN_PROBLEMS} more problems")
    return "\n".join(lines)


def _dotted(path: FieldPath) -> str:
    """Write a path as `concepts[3].kind`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{_printable(part)}" for part in path]
    return "".join(parts).removeprefix(".")


def _printable(text: str) -> str:
    """Escape control characters, and shorten long text."""
    shown = "".join(
        char if char.isprintable() else repr(char)[1:-1] for char in shortened(text, FAR)
    )
    return shortened(shown, _MAX_SHOWN_CHARS)


def _problems_in(details: ErrorDetails, reading: _Reading) -> Iterator[_Problem]:
    """Translate one validation error; the schema's own errors may hold several problems."""
    kind = details["type"]
    path = _without_union_tags(details["loc"], last_is_key=kind == "extra_forbidden")
    if kind == "manifest":
        for below, allowed in details["ctx"]["problems"]:
            yield _problem(reading, (*path, *below), allowed)
    elif kind == "extra_forbidden":
        yield _unknown_key(reading, path)
    elif kind in ("model_type", "model_attributes_type"):
        keys = _keys_at(reading.schema, path)
        yield _problem(reading, path, f"a section with {', '.join(keys)}")
    else:
        allowed = _allowed_at(reading.schema, path) or _plain_words(details["msg"])
        yield _problem(reading, path, allowed, wants_text=kind == "string_type")


def _without_union_tags(loc: FieldPath, *, last_is_key: bool) -> FieldPath:
    """Drop the names of union members that pydantic inserts."""
    last = len(loc) - 1
    return tuple(
        part for i, part in enumerate(loc) if not is_union_tag(part) or (last_is_key and i == last)
    )


def _problem(
    reading: _Reading, path: FieldPath, allowed: str, *, wants_text: bool = False
) -> _Problem:
    document, schema = reading.document, reading.schema
    # Cells of a concept list have no line in the document itself.
    file = reading.files.get(path[:2])
    exists, value = _value_at(document.data, path)
    spelling = "" if file else document.unquoted.get(path, "")
    if wants_text and spelling:
        allowed += f'; to mean the text, put it in quotes: "{_printable(spelling)}"'
    return _Problem(
        line=_line_of(document, path),
        path=path,
        found=_shown(value, spelling) if exists else _shown_default(schema, path),
        allowed=allowed,
        nearest=_nearest_in(schema, value, path),
        file=file,
    )


def _unknown_key(reading: _Reading, path: FieldPath) -> _Problem:
    keys = _keys_at(reading.schema, path[:-1])
    return _Problem(
        line=_line_of(reading.document, path),
        path=path,
        found="an unknown key",
        allowed=", ".join(keys),
        nearest=_nearest(str(path[-1]), keys),
        file=reading.files.get(path[:2]),
    )


def _shown(value: Any, spelling: str) -> str:
    """Describe a value as its author wrote it, and as YAML reads it if that differs."""
    if isinstance(value, dict):
        return f"a section with {_printable(', '.join(value)) or 'no keys'}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        return f'"{_printable(value)}"'
    if not spelling:
        return "nothing"
    if isinstance(value, Unreadable):
        return f"{_printable(spelling)} (which YAML reads as neither text nor a plain number)"
    reading = {True: "true", False: "false", None: "null"}.get(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number or spelling == reading:
        return _printable(spelling)
    return f"{spelling} (which YAML reads as {reading})"


def _shown_default(schema: type[BaseModel], path: FieldPath) -> str:
    _, info = _field_at(schema, path)
    has_default = info is not None and not info.is_required() and info.default is not None
    return f"nothing (default: {info.default})" if info and has_default else "nothing"


def _value_at(data: Any, path: FieldPath) -> tuple[bool, Any]:
    for part in path:
        match data:
            case list() if isinstance(part, int) and part < len(data):
                data = data[part]
            case dict() if part in data:
                data = data[part]
            case _:
                return False, None
    return True, data


def _line_of(document: Document, path: FieldPath) -> int:
    """Return the line of `path`, or of the nearest section around it that is in the file."""
    for length in range(len(path), -1, -1):
        if path[:length] in document.lines:
            return document.lines[path[:length]]
    return 1


def _field_at(schema: type[BaseModel], path: FieldPath) -> tuple[Any, FieldInfo | None]:
    """The schema's type at `path`, and the field if `path` ends at one."""
    annotation: Any = schema
    info: FieldInfo | None = None
    for part in path:
        info = None
        if isinstance(part, str):
            sections = _sections_in(annotation)
            fields = [field for each in sections if (field := field_named(each, part))]
            info = fields[0] if fields else None
            # For a union of sections, what any of them allows there.
            found = tuple(field.annotation for field in fields)
            annotation = found if len(found) > 1 else (*found, None)[0]
    return annotation, info


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in _parts(annotation) for model in _sections_in(argument)]


def _keys_at(schema: type[BaseModel], path: FieldPath) -> list[str]:
    annotation, _ = _field_at(schema, path)
    return [key for section in _sections_in(annotation) for key in section.model_fields]


def _choices_in(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for argument in _parts(annotation) for choice in _choices_in(argument)]


def _parts(annotation: Any) -> tuple[Any, ...]:
    """The parts of a type; several possible types are a tuple."""
    return annotation if isinstance(annotation, tuple) else get_args(annotation)


def _allowed_at(schema: type[BaseModel], path: FieldPath) -> str | None:
    """The choices of the field at `path`, or its description; None within a list."""
    annotation, info = _field_at(schema, path)
    if info is None:
        return None
    choices = [str(choice) for choice in _choices_in(annotation)]
    if choices:
        return ", ".join([*choices, "null"] if type(None) in get_args(annotation) else choices)
    return info.description


def _plain_words(message: str) -> str:
    """Translate pydantic's message about a list entry to the words of the manual."""
    words = message.removeprefix("Input should be ").replace("a valid string", "one line of text")
    return words[0].lower() + words[1:]


def _nearest_in(schema: type[BaseModel], value: Any, path: FieldPath) -> str | None:
    if isinstance(value, dict):
        keys = _keys_at(schema, path)
        guesses = (_nearest(key, keys) for key in value if key not in keys)
        return next((guess for guess in guesses if guess is not None), None)
    annotation, info = _field_at(schema, path)
    choices = [choice for choice in _choices_in(annotation) if isinstance(choice, str)]
    choices += (info and info.examples) or []
    return _nearest(value, choices) if isinstance(value, str) and value not in choices else None


def _nearest(text: str, choices: list[str]) -> str | None:
    """The choice that `text` abbreviates or misspells, if any."""
    by_folded = {choice.casefold(): choice for choice in choices}
    folded = text.casefold()[:_MAX_SHOWN_CHARS]
    if len(folded) >= _MIN_ABBREVIATION_CHARS:
        for candidate, choice in by_folded.items():
            if folded in candidate:
                return choice
    close = difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.5)
    return by_folded[close[0]] if close else None
