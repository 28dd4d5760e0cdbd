"""What the store records about finished units: references to objects, and commit records."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from conceptprune.digest import canonical_json, digest_bytes, digest_json
from conceptprune.errors import StoreError
from conceptprune.strict_reading import plain_json

FORMAT = "conceptprune.store/3"

OBJECT_PATH = re.compile(
    r"objects/[A-Za-z0-9][A-Za-z0-9_.-]*/model=[A-Za-z0-9][A-Za-z0-9_.-]*/"
    r"(?P<digest>[0-9a-f]{64})\.[A-Za-z0-9]+"
)
"""Where objects are put; a path elsewhere in a record is never read or moved."""


class UnknownFormatError(StoreError):
    """An intact record in a format that this version does not know."""


class LostUnitError(StoreError):
    """A committed unit (kind, key) that is missing or damaged, and has to be computed again."""

    def __init__(self, message: str, *, kind: str, key: str, path: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.key = key
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        # By hand, because exceptions are by default rebuilt from their message only.
        return _lost_unit, (str(self), self.kind, self.key, self.path)


def _lost_unit(message: str, kind: str, key: str, path: str) -> LostUnitError:
    return LostUnitError(message, kind=kind, key=key, path=path)


MOST_BYTES = 1 << 36
"""Limit for an object of a kind that may have all weights of a model, such as a pipeline's file."""
MOST_BYTES_OF = {"mask": 1 << 33, "state": 1 << 33, "moments": 1 << 31, "image": 1 << 28}
"""The same for other kinds: widths of denoisers and sizes of images have an end."""
MOST_TABLE_BYTES = 1 << 32


def most_bytes_at(path: str) -> int:
    """Limit for the object at a path: more is never read, whatever a record says."""
    if path.endswith(".parquet"):
        return MOST_TABLE_BYTES
    return MOST_BYTES_OF.get(path.split("/")[1], MOST_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRef:
    """Where an object is in the store, and what its bytes must be."""

    path: str
    digest: str
    size: int

    @classmethod
    def from_json(cls, content: Any) -> "ObjectRef":
        """Read a reference from a commit record.

        Raises:
            ValueError: it is not a reference, or its path does not belong to its digest.
        """
        match content:
            case {"path": str(path), "digest": str(digest), "size": int(size)} if len(content) == 3:
                found = OBJECT_PATH.fullmatch(path)
                whole = size is not True and 0 <= size <= most_bytes_at(path) if found else False
                if found and found["digest"] == digest and whole:
                    return cls(path=path, digest=digest, size=size)
        raise ValueError("a commit record refers to something that is not an object of the store")

    def fault(self, data: bytes | None) -> str:
        """What is wrong with `data` as this object's bytes; empty if nothing is."""
        if data is None:
            return "is missing"
        found = digest_bytes(data)
        if found != self.digest:
            return f"is damaged: {len(data)} of {self.size} bytes, and their SHA-256 is {found}"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The record that a unit is done."""

    kind: str
    key: str
    objects: Mapping[str, ObjectRef]
    """By role ("statistics", "state"), so that a later reader finds what it needs."""
    provenance: Mapping[str, Any]
    """How it was made (seconds, worker, versions); takes no part in comparisons."""

    @property
    def at_once(self) -> int | None:
        """How many prompts of a batch went through the denoiser together; None if unknown."""
        return self.provenance.get("at_once")

    def to_bytes(self) -> bytes:
        """Canonical JSON, including a digest of everything else in it."""
        content = {"format": FORMAT, **asdict(self)}
        return canonical_json({**content, "sha256": digest_json(content)}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Commit":
        """The inverse of `to_bytes`.

        Raises:
            ValueError: the bytes are not a record, or are damaged.
            UnknownFormatError: the record is intact, but in another format.
        """
        content = plain_json(data)
        if not isinstance(content, dict):
            raise ValueError("not a commit record")
        whole = content.pop("sha256", None) == digest_json(content)
        declared = content.get("format")
        # A later version may compute its digest differently.
        if not whole and not _is_later(declared):
            raise ValueError("a damaged commit record")
        if declared != FORMAT:
            raise UnknownFormatError(
                f"a commit record has the format {declared}, and this version of "
                f"conceptprune knows {FORMAT}: use another store"
            )
        match content:
            case {"kind": str(kind), "key": str(key), "objects": dict(refs), "provenance": dict()}:
                objects = {role: ObjectRef.from_json(ref) for role, ref in refs.items()}
                return cls(kind=kind, key=key, objects=objects, provenance=content["provenance"])
        raise ValueError("not a commit record")

    def difference(self, earlier: "Commit") -> str:
        """How this result differs from an earlier one of the same unit; empty if they are equal."""
        for role in sorted(self.objects.keys() | earlier.objects.keys()):
            was, now = earlier.objects.get(role), self.objects.get(role)
            if was is None or now is None or was.digest != now.digest:
                return (
                    f"its {role} was {was.digest if was else 'not made'} and is now "
                    f"{now.digest if now else 'not made'}"
                )
        return ""


def _is_later(declared: object) -> bool:
    name, _, number = str(declared).rpartition("/")
    known, _, newest = FORMAT.rpartition("/")
    return name == known and number.isdecimal() and int(number) > int(newest)
