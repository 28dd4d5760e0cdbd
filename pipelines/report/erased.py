"""When concepts were erased before the masks that a report is about, or since, by other runs."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from conceptprune.errors import StoreError
from conceptprune.store import Store

from ..records.concepts import ConceptStates, Made

logger = logging.getLogger("conceptprune.job")


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """When a concept was erased, and by which run of the store."""

    at: datetime
    run: str | None
    """None if not known."""

    @classmethod
    def of(cls, made: Made) -> "Erased":
        """The time as pages show it."""
        return cls(at=datetime.fromtimestamp(made.at, UTC), run=made.run)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The first and the last time that a concept was erased."""

    first: Erased
    last: Erased


def times_beside(store: Store, run: str) -> Mapping[str, Times]:
    """By name, the concepts of which there is more to say than when this run made their mask."""
    try:
        states = ConceptStates.read(store, run)
    except StoreError as error:
        logger.warning("when concepts were first erased is not shown: %s", error)
        return {}
    return {
        each.name: Times(first=Erased.of(each.first), last=Erased.of(each.last))
        for each in (states.states if states else ())
        if each.first and each.last and (each.first != each.last or each.first.run != run)
    }
