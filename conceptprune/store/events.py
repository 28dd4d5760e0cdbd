"""What was done to a store, as a chain: each event holds the SHA-256 of the one before.

    events/<number>.json    0000000001.json is the first; nothing writes over one

One file for each event, because an object store cannot append. It is put on the condition that
there is none, so that of two jobs with the same number one takes the next. A change, a gap or an
event put in between is found by `check_events`. Whoever can write the store can write a whole new
chain, or leave out its end: against that, keep the digest of an event elsewhere, and look for it
later on.
"""

import getpass
import os
import platform
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

from conceptprune.digest import canonical_json, digest_bytes, digest_json
from conceptprune.errors import StoreError
from conceptprune.store.store import Store
from conceptprune.strict_reading import plain_json

FORMAT = "conceptprune.event/1"
FOLDER = "events"
NAME = re.compile(r"([0-9]{10})\.json")
TRIES = 100
"""Events that others may put in before one's own."""
READERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that was done to the store, or with what is in it."""

    number: int
    """From 1, without a gap."""
    what: str
    """`job-began`, `job-ended`, `exported`, `removing`."""
    at: float
    """Seconds since 1970, by the clock of who did it."""
    who: str
    """USER@HOST/PROCESS."""
    before: str
    """SHA-256 of the bytes of the event before, as hexadecimal digits; empty for the first."""
    details: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """Canonical JSON that carries the digest of all the rest of it."""
        content = {"format": FORMAT, **asdict(self)}
        return canonical_json({**content, "sha256": digest_json(content)}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Event":
        """The inverse of `to_bytes`.

        Raises:
            ValueError: the bytes are not those of an event, or were changed.
        """
        try:
            content = plain_json(data)
            said = content.pop("sha256", None) if isinstance(content, dict) else None
            digest = digest_json(content)
        except (ValueError, RecursionError) as error:
            raise ValueError("is no event") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"is not of the format {FORMAT}")
        if said != digest:
            raise ValueError("was changed, or cut short")
        match content:
            case {
                "number": int(number),
                "what": str(what),
                "at": float(at),
                "who": str(who),
                "before": str(before),
                "details": dict(details),
            }:
                return cls(number=number, what=what, at=at, who=who, before=before, details=details)
        raise ValueError("is no event")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The events of a store, as far as they hold together."""

    events: tuple[Event, ...]
    digests: tuple[str, ...]
    """SHA-256 of each event's bytes."""
    problem: str | None
    """The first break; None where there is none."""


def record_event(store: Store, what: str, details: Mapping[str, Any]) -> Event:
    """Put an event at the end of the store's chain: after the last one before any gap.

    A number behind a gap was put there by somebody else. To go on from there would let whoever
    plants the highest number end the chain for good.

    Args:
        store: where.
        what: see `Event.what`.
        details: JSON; never a secret, as everybody who can read the store reads it.

    Raises:
        StoreError: the store cannot be read or written.
    """
    for _ in range(TRIES):
        there = set(_numbers(store.event_names()))
        last = next(number for number in count() if number + 1 not in there)
        # Damaged or not, it is what lies there.
        data = store.read_event(_name(last)) if last else b""
        if data is None:
            continue
        event = Event(
            number=last + 1,
            what=what,
            at=time.time(),
            who=_who(),
            before=digest_bytes(data) if last else "",
            details=details,
        )
        written = event.to_bytes()
        name = _name(event.number)
        # Read again, because a store without conditional puts may have been told two at once.
        if store.create_event(name, written) and store.read_event(name) == written:
            return event
    raise StoreError(f"{store.uri}: an event could not be put on record in {TRIES} tries")


def check_events(store: Store) -> Chain:
    """Walk the chain, and find its first break.

    Raises:
        StoreError: the store cannot be read.
    """
    names = sorted(store.event_names())
    numbers = sorted(_numbers(names))
    with ThreadPoolExecutor(READERS) as readers:
        found = list(readers.map(lambda number: store.read_event(_name(number)), numbers))
    events: list[Event] = []
    digests: list[str] = []
    problem: str | None = None
    for expected, (number, data) in enumerate(zip(numbers, found, strict=True), start=1):
        if number != expected or data is None:
            problem = f"event {expected} is missing"
            if number != expected:
                problem += f", but there is an event {number}"
            break
        try:
            events.append(_following(number, data, digests[-1] if digests else ""))
        except ValueError as error:
            problem = f"event {number} {error}"
            break
        digests.append(digest_bytes(data))
    stray = [name for name in names if name.endswith(".json") and not NAME.fullmatch(name)]
    if stray and problem is None:
        problem = f"{FOLDER}/{stray[0]} is not the name of an event"
    return Chain(events=tuple(events), digests=tuple(digests), problem=problem)


def _following(number: int, data: bytes, before: str) -> Event:
    """The event with this number after the one with this digest; a ValueError if it is not that."""
    event = Event.from_bytes(data)
    if event.number != number:
        raise ValueError(f"says that it is event {event.number}")
    if event.before != before:
        raise ValueError(f"does not follow on event {number - 1} as it is now")
    return event


def _numbers(names: Iterable[str]) -> Iterator[int]:
    return (int(found[1]) for name in names if (found := NAME.fullmatch(name)))


def _name(number: int) -> str:
    return f"{number:010}.json"


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # In a container, a user need not have a name.
        user = f"{os.getuid()}"
    return f"{user}@{platform.node()}/{os.getpid()}"
