"""Claims: who is computing a unit just now, so that two jobs on one store do not both do it.

A claim only saves work. It expires unless it is renewed, nothing waits for it longer than that, and
two that slip through at once do no harm: equal results are committed once, as ever.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace

from conceptprune.digest import canonical_json
from conceptprune.errors import StoreError
from conceptprune.store.store import Store

CLAIM_SECONDS = 30.0
RENEWALS = 3
"""How often a claim is renewed in its lifetime, so that one slow write does not lose it."""

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
    """Seconds since 1970, by the clock of the worker."""

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
            # A later version may say more.
            return cls(**{field.name: content[field.name] for field in fields(cls)})
        except (ValueError, TypeError, LookupError):
            return None


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
    ) -> None:
        """Claims in a store; in one without conditional puts they are looked for first."""
        self.store = store
        self.conditional = conditional
        self.job = job
        self.worker = worker
        self.seconds = seconds

    @contextmanager
    def held(self, kind: str, key: str) -> Iterator[Claim | None]:
        """Claim a unit for the time of the block; yields another job's claim if that came first.

        The same job's own claim is taken over, for only a worker that died can have left it.
        """
        now = time.time()
        mine = Claim(
            kind=kind,
            key=key,
            job=self.job,
            worker=self.worker,
            since=now,
            expires=now + self.seconds,
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
                return None
            data = self.store.read_claim(mine.path)
        other = Claim.from_bytes(data) if data is not None else None
        if other is not None and other.job != self.job and other.expires > time.time():
            return other
        self.store.write_claim(mine.path, mine.to_bytes())
        return None

    def _renew(self, mine: Claim, done: threading.Event) -> None:
        while not done.wait(self.seconds / RENEWALS):
            renewed = replace(mine, expires=time.time() + self.seconds)
            try:
                self.store.write_claim(mine.path, renewed.to_bytes())
            except StoreError as error:
                logger.warning("the claim on %s %s was not renewed: %s", mine.kind, mine.key, error)

    def _release(self, mine: Claim) -> None:
        try:
            self.store.remove([f"claims/{mine.path}"])
        except StoreError as error:
            # It expires by itself; the unit's result is what counts.
            logger.warning("the claim on %s %s was not released: %s", mine.kind, mine.key, error)


def live_claims(store: Store) -> list[Claim]:
    """Claims that have not expired, oldest first."""
    found = (store.read_claim(entry.path.removeprefix("claims/")) for entry in store.claims())
    claims = (Claim.from_bytes(data) for data in found if data is not None)
    now = time.time()
    live = [claim for claim in claims if claim is not None and claim.expires > now]
    return sorted(live, key=lambda claim: (claim.since, claim.key))
