"""What a driver does about units that other jobs are computing: it waits, but not for the dead."""

import logging
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from conceptprune.errors import StoreError
from conceptprune.store import Store
from conceptprune.store.claims import Claim, Watch, remove_lapsed

logger = logging.getLogger("conceptprune.job")


class OtherJobs:
    """Watches their claims, and removes those that are no longer renewed.

    The driver does it, because it alone sees a claim again and again: the workers that find one are
    many, and one of them is gone after each unit that needs no denoiser.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watch = Watch()
        # Beside the job, which a store that does not answer must not hold up.
        self._remover = ThreadPoolExecutor(1)

    def held(self, claim: Claim) -> None:
        """Take note of a claim that kept a unit from being computed."""
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
            remove_lapsed(self._store, claim)
        except StoreError as error:
            # It is seen to lapse once more.
            logger.warning("a claim that lapsed could not be removed just now: %s", error)
