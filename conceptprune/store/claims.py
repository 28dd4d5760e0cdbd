"""Claims: who is computing a unit just now, so that two jobs on one store do not both do it.

A claim only saves work. It lapses unless it is renewed, nothing waits for it longer than that, and
two that slip through at once do no harm: equal results are committed once, as ever.

Whether it is renewed is seen by looking at it again and again, with the looker's own clock: the
clock of the machine that made it may be an hour ahead or behind, and says nothing.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from time import monotonic

from conceptprune import progress
from conceptprune.digest import canonical_json
from conceptprune.errors import StoreError
from conceptprune.store.store import Store

CLAIM_SECONDS = 30.0
RENEWALS = 3
"""How often a claim is renewed in its lifetime, so that one slow write does not lose it."""
STUCK_SECONDS = 900.0
"""A worker that makes no step (`progress`) for so long no longer renews its claim. Far more than a
call of the denoiser takes, or an operation on the store with all its tries."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A worker's word that it is computing a unit."""

    kind: str
    key: str
    job: str
    worker: str
    since: float
    expires: float
    """Seconds since 1970, by the clock of the worker; each renewal moves the latter."""
    seconds: float = CLAIM_SECONDS
    """It lapses when it has not been renewed for so long."""

    @property
    def path(self) -> str:
        """Where it lies below the store's folder of claims."""
        return f"{self.kind}/{self.key}.json"

    def to_bytes(self) -> bytes:
        """As JSON."""
        return canonical_json(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Claim | None":
        """The inverse of `to_bytes`; None for what is no claim, which then binds nobody."""
        try:
            content = json.loads(data)
            known = {field.name for field in fields(cls)}
            # What a later version may add is none of our business; an earlier one had no `seconds`.
            claim = cls(**{name: value for name, value in content.items() if name in known})
            # Numbers are compared and added up later on.
            _ = claim.since + claim.expires + claim.seconds
            return claim
        except (ValueError, TypeError, AttributeError):
            return None


class Watch:
    """What is seen of others' claims while one looks at them now and then."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Claim, float]] = {}
        """By path: a claim, and when this clock (monotonic) first saw it as it is."""

    def lapsed(self, claim: Claim) -> bool:
        """Take note of a claim; whether it has not been renewed for as long as it lives."""
        now = monotonic()
        seen, since = self._seen.get(claim.path, (None, now))
        if seen != claim:
            self._seen[claim.path] = claim, now
            return False
        return now - since >= claim.seconds

    def forget(self, path: str) -> None:
        """The claim there is gone, or one's own."""
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
        """Claims in a store; in one without conditional puts they are looked for first.

        `on_stuck` is called, in another thread, when a unit makes no progress for `STUCK_SECONDS`
        and its claim is given up: it may end the process, as nothing else frees a thread that
        waits for a device or a drive.
        """
        self.store = store
        self.conditional = conditional
        self.job = job
        self.worker = worker
        self.seconds = seconds
        self._on_stuck = on_stuck
        self._watch = Watch()

    @contextmanager
    def held(self, kind: str, key: str) -> Iterator[Claim | None]:
        """Claim a unit for the time of the block; yields another job's claim if that came first.

        The same job's own claim is taken over, for only a worker that died can have left it; so is
        one that lapsed while this object looked at it, again and again.
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
        other = Claim.from_bytes(data) if data is not None else None
        if other is not None and other.job != self.job:
            if not self._watch.lapsed(other):
                return other
            say_lapsed(other)
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
                # Not for longer than it lives: its unit's end waits for this.
                self.store.write_claim(mine.path, renewed.to_bytes(), deadline=self.seconds)
            except StoreError as error:
                logger.warning("the claim on %s %s was not renewed: %s", mine.kind, mine.key, error)
            # Counted here, because the renewal itself is an operation on the store.
            steps = progress.steps()

    def _release(self, mine: Claim) -> None:
        try:
            self.store.remove([f"claims/{mine.path}"])
        except StoreError as error:
            # It expires by itself; the unit's result is what counts.
            logger.warning("the claim on %s %s was not released: %s", mine.kind, mine.key, error)


def remove_lapsed(store: Store, claim: Claim) -> None:
    """Remove a claim that lapsed, unless it was renewed or taken over meanwhile.

    Raises:
        StoreError: the store fails.
    """
    if store.read_claim(claim.path) == claim.to_bytes():
        say_lapsed(claim)
        store.remove([f"claims/{claim.path}"])


def say_lapsed(claim: Claim) -> None:
    """Log that a claim binds nobody any more."""
    logger.warning(
        "%s %s: job %s on %s has not renewed its claim for %.0f s, and is taken for dead",
        claim.kind,
        claim.key[:12],
        claim.job,
        claim.worker,
        claim.seconds,
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
        data = store.read_claim(entry.path.removeprefix("claims/"))
        claim = Claim.from_bytes(data) if data is not None else None
        if claim is not None:
            found.append((claim, max(0.0, now - entry.modified)))
    return sorted(found, key=lambda one: (one[0].since, one[0].key))
