"""A statement of provenance: which files an export has, and what they were made from.

The layout is in-toto's statement (https://github.com/in-toto/attestation, spec/v1/statement.md):
subjects with their SHA-256, and a predicate. A signature covers exactly the bytes of `to_bytes`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from conceptprune.digest import canonical_json, digest_file
from conceptprune.errors import UserError
from conceptprune.strict_reading import plain_json

STATEMENT_FILE = "provenance.json"
SIGNATURE_FILE = "provenance.json.sig"
"""The statement's signature, if somebody has signed it."""
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:conceptprune:provenance:1"

_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A statement about the files of one export."""

    subjects: Mapping[str, str]
    """SHA-256 of each file, by its path below the export's folder, with `/` between parts."""
    predicate: Mapping[str, Any]
    """What they were made from and what was measured, as JSON."""

    def to_bytes(self) -> bytes:
        """As canonical JSON: equal statements are equal bytes."""
        content = {
            "_type": STATEMENT_TYPE,
            "subject": [
                {"name": name, "digest": {"sha256": self.subjects[name]}}
                for name in sorted(self.subjects)
            ],
            "predicateType": PREDICATE_TYPE,
            "predicate": self.predicate,
        }
        return canonical_json(content).encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, source: str) -> "Statement":
        """The inverse of `to_bytes`; `source` names it in errors.

        Raises:
            UserError: it is not a statement, or of another kind.
        """
        try:
            content = plain_json(data)
            if (content["_type"], content["predicateType"]) != (STATEMENT_TYPE, PREDICATE_TYPE):
                raise UserError(
                    f"{source}: is another kind of statement ({content['predicateType']}); "
                    f"this version reads {PREDICATE_TYPE}"
                )
            subjects = {each["name"]: each["digest"]["sha256"] for each in content["subject"]}
            predicate = content["predicate"]
            named = all(_is_inside(name) for name in subjects)
            if not (named and subjects and isinstance(predicate, dict)):
                raise ValueError("its subjects are not files of a folder")
            if not all(_DIGEST.fullmatch(digest) for digest in subjects.values()):
                raise ValueError("a digest is not a SHA-256")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise UserError(f"{source}: is not a statement of provenance ({error})") from error
        return cls(subjects=subjects, predicate=predicate)

    def differences(self, folder: Path) -> Iterator[str]:
        """How a folder differs from the statement, one line per file."""
        found = files_in(folder)
        for name, digest in sorted(self.subjects.items()):
            path = folder / name
            if name not in found:
                yield f"{name}: is missing"
            elif path.is_symlink():
                yield f"{name}: is a link"
            # A pipe would be waited for, for ever.
            elif not path.is_file():
                yield f"{name}: is not a regular file"
            elif (now := digest_file(path)) != digest:
                yield f"{name}: has SHA-256 {now[:12]}, stated is {digest[:12]}"
        stated = {*self.subjects, STATEMENT_FILE, SIGNATURE_FILE}
        for name in sorted(found - stated):
            yield f"{name}: is not in the statement"
        holding = {parent.as_posix() for name in found for parent in PurePosixPath(name).parents}
        for name in sorted(_folders_in(folder) - holding):
            yield f"{name}: is a folder that is not in the statement"


def state(folder: Path, predicate: Mapping[str, Any]) -> Statement:
    """The statement of all files in a folder, except the statement itself."""
    names = files_in(folder) - {STATEMENT_FILE, SIGNATURE_FILE}
    return Statement(
        subjects={name: digest_file(folder / name) for name in names}, predicate=predicate
    )


def files_in(folder: Path) -> set[str]:
    """Paths of all that is not a folder, in a folder and below it; a link is never followed."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def _folders_in(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_dir() and not path.is_symlink()
    }


def _is_inside(name: object) -> bool:
    """Whether a subject's name is a plain path of a file below a folder."""
    if not isinstance(name, str) or not name or not name.isprintable():
        return False
    return not name.startswith("/") and not {"", ".", ".."} & set(name.split("/"))
