"""How a driver waits for units that other jobs are computing, but not for dead jobs."""

import logging
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from conceptprune.errors import StoreError
from conceptprune.store import Store
from conceptprune.store.claims import Claim, Watch, remove_lapsed

logger = logging.getLogger("conceptprune.job")


class OtherJobs:
    """Watches other jobs' claims, and removes those that are no longer renewed.

    Only the driver can do this, because it sees a claim repeatedly: many different workers find
    one, and a worker for units without a denoiser ends after each unit.
    """

    def __init__(self, store: Store, claim_seconds: float) -> None:
        """Give no claim more than `claim_seconds` without a renewal."""
        self._store = store
        self._watch = Watch(claim_seconds)
        # In a separate thread, so that a store that does not answer cannot delay the job.
        self._remover = ThreadPoolExecutor(1)

    def held(self, claim: Claim) -> None:
        """Record a claim that blocked a unit."""
        if self._watch.lapsed(claim):
            self._watch.forget(claim.path)
            self._remover.submit(self._remove, claim)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remover.shutdown(wait=False, cancel_futures=True)

    def _remove(self, claim: Claim) -> None:
        try:
            remove_lapsed(self._store, claim, self._watch.patience(claim))
        except StoreError as error:
            # It will be seen to lapse again.
            logger.warning("a claim that lapsed could not be removed just now: %s", error)
