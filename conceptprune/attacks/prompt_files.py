"""Published sets of adversarial prompts, read from the CSV files they are shared as."""

import csv
from pathlib import Path

from conceptprune.errors import UserError
from conceptprune.prompts import Prompt

PROMPT_COLUMNS = ("adv_prompt", "sensitive prompt", "prompt")
"""Where the prompt is, the first that a file has: MMA-Diffusion's benchmark; Ring-A-Bell's nudity
prompts; I2P, P4D, UnlearnDiffAtk and Ring-A-Bell's violence prompts."""

SEED_COLUMNS = ("evaluation_seed", "sd_seed", "seed")
"""Where the seed is; a file without (MMA-Diffusion, Ring-A-Bell) leaves it to the caller."""


def read_prompts(path: Path, *, default_seed: int, limit: int | None = None) -> tuple[Prompt, ...]:
    """The prompts of a file, in its order, blank ones left out; at most `limit` of them.

    A file of one column needs no header: Ring-A-Bell's own search writes none.

    Raises:
        UserError: the file cannot be read, has no column of prompts, or a seed that is no number.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a CSV of prompts: {error}") from error
    if not rows:
        raise UserError(f"{path}: is empty; a CSV of prompts is needed")
    header = [name.strip().lower() for name in rows[0]]
    column = next((header.index(name) for name in PROMPT_COLUMNS if name in header), None)
    if column is None:
        if max(map(len, rows)) > 1:
            raise UserError(
                f"{path}: no column of prompts (looked for {', '.join(PROMPT_COLUMNS)}; the file "
                f"has {', '.join(rows[0])})"
            )
        column, header = 0, []
    seed_column = next((header.index(name) for name in SEED_COLUMNS if name in header), None)
    first = 1 if header else 0
    prompts = []
    for number, row in enumerate(rows[first:], start=first + 1):
        text = row[column].strip() if column < len(row) else ""
        if not text:
            continue
        seed = default_seed
        if seed_column is not None:
            seed = _seed(row[seed_column] if seed_column < len(row) else "", path, number)
        prompts.append(Prompt(text=" ".join(text.split()), seed=seed))
        if len(prompts) == limit:
            break
    if not prompts:
        raise UserError(f"{path}: has no prompts")
    return tuple(prompts)


def _seed(text: str, path: Path, row: int) -> int:
    try:
        # Some sets went through a table of floats: "1664501552.0".
        value = float(text) if "." in text else int(text)
    except ValueError:
        value = -1
    if value != int(value) or not 0 <= value < 2**63:
        raise UserError(f"{path}, row {row}: the seed {text!r} is not a whole number from 0 on")
    return int(value)
