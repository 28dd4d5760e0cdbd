"""Concepts from a file: a text file with one name per line, or a CSV with one concept per row.

`ConceptList` is the schema for editors; `listed_concepts` reads the file. Each row becomes a
concept as if it were written in the manifest, and is checked by the same rules. Errors name the
list's file and line.
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationInfo

from conceptprune.manifest.concept import Kind
from conceptprune.manifest.fields import FieldPath, PromptText, Section, refusal
from conceptprune.manifest.files import text_below
from conceptprune.manifest.pruning import ConceptPruning
from conceptprune.strict_reading import open_regular

MAX_BYTES = 16 * 1024 * 1024
BETWEEN = "|"
"""Separates the entries of a cell that holds several."""
KINDS = get_args(Kind)
KEYS = ("file", "kind")
PRUNING = "pruning"
"""The section whose fields may be numbers."""

COLUMNS = (
    "name",
    "kind",
    "fillers",
    "template.base",
    "template.target",
    "direction",
    "captions",
    "caption_base",
    *(f"{PRUNING}.{name}" for name in ConceptPruning.model_fields),
)
SEVERAL = frozenset({"fillers", "captions"})
LISTS = "{file: NAMES.csv or NAMES.txt, kind}"


class ConceptList(Section):
    """A file of concepts: a text file with one name per line, or a CSV with one concept per row.

    Columns of a CSV: `name`, `kind`, `fillers` and `captions` (entries between `|`),
    `template.base`, `template.target`, `direction`, `caption_base`, and `pruning.sparsity`,
    `pruning.tau` and so on. An empty cell says nothing.
    """

    file: PromptText
    kind: Kind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A file's content: the concepts as a manifest would write them, and the line of each."""

    file: str
    concepts: list[Any]
    lines: list[int]


def listed_concepts(value: Any, info: ValidationInfo) -> Any:
    """The concepts of `{file: path, kind: kind}`; any other value is returned unchanged.

    They are also stored in `loading`'s context, so that messages can say where each was defined.

    Raises:
        PydanticCustomError: the file cannot be read, or is not a list of concepts.
    """
    if not isinstance(value, dict):
        return value
    kind = _checked(value)
    path, elsewhere = text_below(value["file"], info)
    if elsewhere:
        raise _refused(elsewhere)
    rows = _rows(path, _text(path), kind)
    listed = Listed(file=str(path), concepts=[], lines=[])
    for line, concept in rows:
        listed.lines.append(line)
        listed.concepts.append(concept)
    if not listed.concepts:
        raise _refused(f"a file with at least one name: {path} has none")
    if info.context:
        info.context["listed"][info.field_name] = listed
    return listed.concepts


def written_out(section: dict[str, Any], folder: Path) -> list[Any]:
    """The concepts of a section `{file: path, kind: kind}` that was checked, as a manifest in
    `folder` would write them itself."""
    path = folder / section["file"]
    return [concept for _, concept in _rows(path, _text(path), section.get("kind"))]


def place_of(index: int, info: ValidationInfo) -> str:
    """How messages refer to the concept at an index: by file and line if it comes from a list."""
    listed = info.context["listed"].get(info.field_name) if info.context else None
    if listed is None:
        return f"{info.field_name}[{index}]"
    return f"{listed.file}:{listed.lines[index]}"


def _checked(section: dict[str, Any]) -> str | None:
    problems: list[tuple[FieldPath, str]] = [
        ((key,), f"a list of concepts, or a section {LISTS}") for key in section if key not in KEYS
    ]
    if not isinstance(section.get("file"), str):
        problems.append((("file",), "the path of a .csv or .txt file, relative to the manifest"))
    kind = section.get("kind")
    if kind is not None and kind not in KINDS:
        problems.append((("kind",), ", ".join(KINDS)))
        kind = None
    if problems:
        raise refusal(*problems)
    return kind


def _refused(allowed: str) -> Exception:
    return refusal((("file",), allowed))


def _text(path: Path) -> str:
    try:
        with open_regular(path, MAX_BYTES) as stream:
            # Some files have more bytes than they say.
            content = stream.read(MAX_BYTES)
    except FileNotFoundError as error:
        raise _refused(f"a file: {path} is not there") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise _refused(f"a file that can be read: {path}: {why}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _refused(f"UTF-8 text: {path}:{line} is not ({error.reason})") from error


def _rows(path: Path, text: str, kind: str | None) -> Iterator[tuple[int, Any]]:
    if path.suffix.lower() == ".csv":
        return _of_csv(path, text, kind)
    if kind is None:
        allowed = f"{', '.join(KINDS)}: a text file has names only, and all get this kind"
        raise refusal((("kind",), allowed))
    return _of_lines(text, kind)


def _of_lines(text: str, kind: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        name = line.strip()
        if name and not name.startswith("#"):
            yield number, {"name": name, "kind": kind}


def _of_csv(path: Path, text: str, kind: str | None) -> Iterator[tuple[int, Any]]:
    # strict: a quote that is never closed would otherwise swallow the rest of the file.
    # Lines end where an editor shows their end, not at every character that Python breaks lines at.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        _check_columns(path, names, kind)
        # The first line of a row, whose cells may contain line breaks.
        line = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if len(cells) > len(names):
                    raise _refused(
                        f"rows of {len(names)} cells: {path}:{line} has {len(cells)} (a comma in a "
                        "name needs quotes around the name)"
                    )
                yield line, _concept(dict(zip(names, cells, strict=False)), kind)
            line = reader.line_num + 1
    except csv.Error as error:
        raise _refused(f"a CSV file: {path}:{reader.line_num}: {error}") from error


def _check_columns(path: Path, names: list[str], kind: str | None) -> None:
    wrong = [name for name in names if name not in COLUMNS]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    shown = ", ".join(repr(name[:40]) for name in wrong or twice)
    allowed = f"columns {', '.join(COLUMNS)}, each once, name always"
    if wrong or twice:
        hint = " (commas separate columns)" if re.search(r"[;\t|]", "".join(wrong)) else ""
        raise _refused(f"{allowed}: {path}:1 has {shown}{hint}")
    if "name" not in names:
        raise _refused(f"{allowed}: {path}:1 has no column name")
    if "kind" not in names and kind is None:
        raise _refused(f"{allowed}: {path}:1 has no column kind, nor is one given beside the file")


def _number_or_text(text: str) -> int | float | str:
    """A number; what is none stays text, which the field's own rule may refuse."""
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    if re.fullmatch(r"[+-]?[0-9]{0,18}\.?[0-9]{1,18}(e[+-]?[0-9]{1,3})?", text, re.IGNORECASE):
        return float(text)
    return text


def _concept(row: dict[str, str], kind: str | None) -> dict[str, Any]:
    """A row as a manifest would write it; empty cells are left out."""
    concept: dict[str, Any] = {} if kind is None else {"kind": kind}
    for column, cell in row.items():
        text = cell.strip()
        if not text:
            continue
        section, _, field = column.partition(".")
        if field:
            value = _number_or_text(text) if section == PRUNING else text
            concept.setdefault(section, {})[field] = value
        elif column in SEVERAL:
            concept[column] = [part.strip() for part in text.split(BETWEEN)]
        else:
            concept[column] = text
    return concept
