"""Claims: who is computing a unit now, so that two jobs on one store do not both do it.

A claim only saves work. It lapses unless it is renewed, and nothing waits for it longer than that.
If two workers claim the same unit at once, no harm is done: equal results are committed once.

Other jobs detect renewals by reading the claim repeatedly, and measure time with their own clock:
the clock of the claim's machine may be an hour off.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from time import monotonic

from conceptprune import progress
from conceptprune.digest import canonical_json
from conceptprune.errors import StoreError
from conceptprune.store.store import Store
from conceptprune.strict_reading import plain_json

CLAIM_SECONDS = 30.0
LONGEST = 366 * 86400.0
"""Claims of a longer lifetime, in seconds, are none."""
LAST_TIME = 253_402_300_800.0
"""The end of the year 9999, in seconds since 1970: a claim of another time is none."""
RENEWALS = 3
"""Renewals per lifetime of a claim, so that one slow write does not lose it."""
STUCK_SECONDS = 900.0
"""A worker that makes no progress (see `progress`) for this long stops renewing its claim. It is
far longer than a denoiser call, or a store operation with all its retries."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A worker's statement that it is computing a unit."""

    kind: str
    key: str
    job: str
    worker: str
    since: float
    expires: float
    """Expiry in seconds since 1970, by the worker's clock; each renewal moves it."""
    seconds: float = CLAIM_SECONDS
    """Seconds without a renewal after which it lapses, for watchers that allow so many."""

    @property
    def path(self) -> str:
        """Its path below the store's folder of claims."""
        return f"{self.kind}/{self.key}.json"

    def to_bytes(self) -> bytes:
        """As JSON."""
        return canonical_json(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes, path: str) -> "Claim | None":
        """The inverse of `to_bytes` for what lies at `path`; None if it is no claim on that.

        Whoever can write the store can put anything there; what is no claim binds nobody.
        """
        try:
            content = plain_json(data)
            claim = cls(
                **{name: _text(content[name]) for name in ("kind", "key", "job", "worker")},
                since=_number(content["since"]),
                expires=_number(content["expires"]),
                # The first versions had no `seconds`. Fields of later versions are ignored.
                seconds=_number(content.get("seconds", CLAIM_SECONDS)),
            )
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
            return None
        return claim if claim.path == path and 0 < claim.seconds <= LONGEST else None


def _text(value: object) -> str:
    if isinstance(value, str) and value.isprintable():
        return value
    raise ValueError("a field of a claim is no text")


def _number(value: object) -> float:
    """A finite number within the years that a date can show."""
    # A NaN fails the comparison too.
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LAST_TIME:
        return float(value)
    raise ValueError("a field of a claim is no number of seconds")


class Watch:
    """Observes other jobs' claims over time, to see which are renewed."""

    def __init__(self, seconds: float) -> None:
        """A watch that gives no claim more than `seconds` without a renewal.

        A claim may say that it lapses earlier. If it says later, it may be a hostile one, which
        would hold its unit for ever; an honest owner only loses work that is then done twice.
        """
        self._seconds = seconds
        self._seen: dict[str, tuple[Claim, float]] = {}
        """By path: a claim, and the (monotonic) time when it was first seen in this state."""

    def lapsed(self, claim: Claim) -> bool:
        """Record a claim; returns whether it went without renewal for as long as it may."""
        now = monotonic()
        seen, since = self._seen.get(claim.path, (None, now))
        if seen != claim:
            self._seen[claim.path] = claim, now
            return False
        return now - since >= self.patience(claim)

    def patience(self, claim: Claim) -> float:
        """Seconds without a renewal that a claim is given."""
        return min(claim.seconds, self._seconds)

    def forget(self, path: str) -> None:
        """Forget the claim at a path, which is gone or our own."""
        self._seen.pop(path, None)


class Claims:
    """The claims that one worker of one job makes."""

    def __init__(
        self,
        store: Store,
        *,
        job: str,
        worker: str,
        seconds: float = CLAIM_SECONDS,
        conditional: bool = True,
        on_stuck: Callable[[], None] = lambda: None,
    ) -> None:
        """Claims in a store; without conditional puts, `create` looks for an existing claim first.

        `on_stuck` is called, in another thread, when a unit makes no progress for `STUCK_SECONDS`
        and its claim is given up: it may end the process, because nothing else frees a thread that
        waits for a device or a drive.
        """
        self.store = store
        self.conditional = conditional
        self.job = job
        self.worker = worker
        self.seconds = seconds
        self._on_stuck = on_stuck
        self._watch = Watch(seconds)

    @contextmanager
    def held(self, kind: str, key: str) -> Iterator[Claim | None]:
        """Claim a unit inside the context; yields another job's claim if that came first.

        A claim of the same job is taken over, because only a dead worker can have left it. So is a
        claim that this object has watched until it lapsed.
        """
        now = time.time()
        mine = Claim(
            kind=kind,
            key=key,
            job=self.job,
            worker=self.worker,
            since=now,
            expires=now + self.seconds,
            seconds=self.seconds,
        )
        other = self._take(mine)
        if other is not None:
            yield other
            return
        done = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(mine, done), daemon=True)
        renewing.start()
        try:
            yield None
        finally:
            done.set()
            renewing.join()
            self._release(mine)

    def _take(self, mine: Claim) -> Claim | None:
        data = None if self.conditional else self.store.read_claim(mine.path)
        if data is None:
            if self.store.create_claim(mine.path, mine.to_bytes()):
                self._watch.forget(mine.path)
                return None
            data = self.store.read_claim(mine.path)
        other = Claim.from_bytes(data, mine.path) if data is not None else None
        if other is not None and other.job != self.job:
            if not self._watch.lapsed(other):
                return other
            say_lapsed(other, self._watch.patience(other))
        self._watch.forget(mine.path)
        self.store.write_claim(mine.path, mine.to_bytes())
        return None

    def _renew(self, mine: Claim, done: threading.Event) -> None:
        steps, stepped = progress.steps(), monotonic()
        while not done.wait(self.seconds / RENEWALS):
            if progress.steps() != steps:
                stepped = monotonic()
            elif monotonic() - stepped >= STUCK_SECONDS:
                logger.warning(
                    "no progress with %s %s for %.0f s: its claim is no longer renewed, and other "
                    "jobs may compute it",
                    mine.kind,
                    mine.key,
                    monotonic() - stepped,
                )
                self._on_stuck()
                return
            renewed = replace(mine, expires=time.time() + self.seconds)
            try:
                # No longer than its lifetime, since the end of its unit waits for this.
                self.store.write_claim(mine.path, renewed.to_bytes(), deadline=self.seconds)
            except StoreError as error:
                logger.warning("the claim on %s %s was not renewed: %s", mine.kind, mine.key, error)
            # Counted here, because the renewal is itself a store operation.
            steps = progress.steps()

    def _release(self, mine: Claim) -> None:
        try:
            self.store.remove([f"claims/{mine.path}"])
        except StoreError as error:
            # It expires by itself; only the unit's result matters.
            logger.warning("the claim on %s %s was not released: %s", mine.kind, mine.key, error)


def remove_lapsed(store: Store, claim: Claim, after: float) -> None:
    """Remove a claim that lapsed after so many seconds, unless it was renewed or taken over.

    Raises:
        StoreError: the store fails.
    """
    data = store.read_claim(claim.path)
    # Not compared as bytes: a later version may have written fields that are not read here.
    if data is not None and Claim.from_bytes(data, claim.path) == claim:
        say_lapsed(claim, after)
        store.remove([f"claims/{claim.path}"])


def say_lapsed(claim: Claim, after: float) -> None:
    """Log that a claim has lapsed after so many seconds without a renewal."""
    logger.warning(
        "%s %s: job %s on %s has not renewed its claim for %.0f s, and is taken for dead",
        claim.kind,
        claim.key[:12],
        claim.job,
        claim.worker,
        after,
    )


def live_claims(store: Store) -> list[Claim]:
    """Claims that were renewed lately, by the store's clock and this one; oldest first."""
    return [claim for claim, age in claims_by_age(store) if age < claim.seconds]


def claims_by_age(store: Store) -> list[tuple[Claim, float]]:
    """All claims, whoever's, and how many seconds ago each was renewed; the oldest claim first.

    Only to show them, as two clocks are compared: who wants to compute a unit watches its claim.
    """
    now = time.time()
    found = []
    for entry in store.claims():
        path = entry.path.removeprefix("claims/")
        data = store.read_claim(path)
        claim = Claim.from_bytes(data, path) if data is not None else None
        if claim is not None:
            found.append((claim, max(0.0, now - entry.modified)))
    return sorted(found, key=lambda one: (one[0].since, one[0].key))
