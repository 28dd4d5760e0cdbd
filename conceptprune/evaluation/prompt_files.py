"""Prompts from files: one prompt per line, or a CSV like those of published data sets.

I2P has `prompt`, `sd_seed` and `sd_guidance_scale`. Its copies in erasures' repositories, P4D,
UnlearnDiffAtk, Ring-A-Bell's violence prompts and COCO's published lists have `prompt` and
`evaluation_seed`; some have `case_number` and `evaluation_guidance` too. MMA-Diffusion's
benchmark has `adv_prompt`, Ring-A-Bell's nudity prompts `sensitive prompt`, both without seeds.
Other columns are ignored.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from pydantic_core import PydanticCustomError

from conceptprune.manifest.fields import refusal_here
from conceptprune.strict_reading import open_regular

PROMPT_COLUMNS = ("prompt", "adv_prompt", "sensitive prompt")
"""Columns with a CSV's prompts: the first of these that it has is used."""
SEED_COLUMNS = ("evaluation_seed", "sd_seed")
GUIDANCE_COLUMNS = ("evaluation_guidance", "sd_guidance_scale")

MAX_BYTES = 64 * 1024 * 1024
MAX_PROMPT_CHARS = 10_000
N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePrompt:
    """One prompt of a file, with its other values there."""

    text: str
    seed: int | None = None
    guidance: float | None = None
    case: str | None = None


def file_prompts(path: Path, *, csv_file: bool, limit: int | None = None) -> list[FilePrompt]:
    """The prompts of a file, in its order; with a `limit`, only that many are read.

    Raises:
        PydanticCustomError: it cannot be read, has no column `prompt`, or a line of it is wrong;
            the message names the line.
    """
    try:
        with (
            open_regular(path, MAX_BYTES) as stream,
            io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text,
        ):
            found = list(islice(_rows(path, text) if csv_file else _lines(text), limit))
    except PydanticCustomError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise refusal_here(f"a file of prompts that can be read: {path}: {reason}") from error
    if not found:
        raise refusal_here(f"a file with at least one prompt: {path} has none")
    return found


def _lines(lines: Iterable[str]) -> Iterator[FilePrompt]:
    for line in lines:
        if line.strip() and not line.startswith("#"):
            yield FilePrompt(text=_one_line(line))


def _rows(path: Path, lines: Iterable[str]) -> Iterator[FilePrompt]:
    # strict: an unclosed quote would otherwise swallow the rest of the file.
    reader = csv.DictReader(lines, strict=True)
    try:
        names = reader.fieldnames or ()
        column = next((name for name in PROMPT_COLUMNS if name in names), None)
        if column is None:
            raise refusal_here(
                f"a CSV with a column prompt (or {', '.join(PROMPT_COLUMNS[1:])}): {path} has "
                f"{', '.join(names)}"
            )
        for row in reader:
            where = f"{path}:{reader.line_num}"
            prompt = _one_line(row[column] or "")
            # Like an empty line of a list: not a prompt.
            if not prompt:
                continue
            if len(prompt) > MAX_PROMPT_CHARS:
                raise refusal_here(f"prompts of at most {MAX_PROMPT_CHARS} characters: {where}")
            yield FilePrompt(
                text=prompt,
                seed=_number_in(row, SEED_COLUMNS, int, where),
                guidance=_number_in(row, GUIDANCE_COLUMNS, float, where),
                case=row.get("case_number") or None,
            )
    except csv.Error as error:
        raise refusal_here(f"a CSV file: {path}:{reader.line_num}: {error}") from error


def _number_in(
    row: Mapping[str, str | None], columns: Iterable[str], kind: Callable[[str], N], where: str
) -> N | None:
    """The number in the first of these columns that has one."""
    for name in columns:
        text = row.get(name)
        if text and text.strip():
            return _number(text, kind, f"{where}: {name}")
    return None


def _number(text: str, kind: Callable[[str], N], where: str) -> N:
    try:
        number = kind(text)
    except ValueError:
        raise refusal_here(f"a number or nothing at {where} (found {text[:40]!r})") from None
    # Seeds go into a generator, guidance into a multiplication; NaN compares false.
    if not 0 <= number < 2**63:
        raise refusal_here(f"a number of at least 0 at {where} (found {text[:40]!r})")
    return number


def _one_line(text: str) -> str:
    """A prompt without line breaks and control characters, which data sets have by accident."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
