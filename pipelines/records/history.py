"""When a store's concepts were first and last erased, and by which of its runs.

Another list of names is another run, so a concept may be on record in many of them. Runs on another
model do not count.
"""

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

from conceptprune.errors import StoreError
from conceptprune.manifest import concept_key
from conceptprune.store import Store
from conceptprune.units.find import find_commit
from conceptprune.units.units import MaskUnit

from .concepts import ConceptStates, Made, Row
from .journal import JOBS_FOLDER
from .ledger import READERS
from .runs import recorded

logger = logging.getLogger("conceptprune.job")


class History:
    """When each of some concepts was erased, as all runs of a store on one model have it."""

    def __init__(self, store: Store, model: str, names: Iterable[str]) -> None:
        """The history of the concepts `names`; `model` is the identity of their model.

        Runs whose records cannot be read are left out, and named in the log.
        """
        self._store = store
        self._known: dict[str, set[Made]] = {concept_key(name): set() for name in names}
        with ThreadPoolExecutor(READERS) as readers:
            for states in readers.map(lambda run: _states(store, run, model), store.runs()):
                for state in states.states:
                    known = self._known.get(concept_key(state.name), set())
                    known |= {made for made in (state.first, state.last) if made}

    def add(self, name: str, row: Row, *, run: str, job: str) -> Made | None:
        """Add a concept's mask, from its row in the ledger that `job` of `run` ends with.

        Returns:
            When and by whom it was made; None if it is not made.
        """
        if not row["objects"]:
            return None
        known = self._known[concept_key(name)]
        finished = row["finished"]
        at = finished.timestamp() if hasattr(finished, "timestamp") else (finished or 0) / 1000
        same = {made for made in known if (made.mask, made.at) == (row["key"], at)}
        made = next((made for made in same if made.job), None)
        if made is None:
            made_in = (run, job) if row["status"] == "done" else self._maker(row["key"])
            made = Made(at=at, run=made_in[0], job=made_in[1], mask=row["key"])
            known -= same
            known.add(made)
        return made

    def first(self, name: str) -> Made | None:
        """When a concept was first erased."""
        return min(self._known[concept_key(name)], key=lambda made: made.at, default=None)

    def last(self, name: str) -> Made | None:
        """When a concept was last erased."""
        return max(self._known[concept_key(name)], key=lambda made: made.at, default=None)

    def _maker(self, mask: str) -> tuple[str | None, str | None]:
        """Run and job that made a mask, where the job did not come to record it."""
        commit = find_commit(self._store, MaskUnit.kind, mask)
        job = commit.provenance.get("job") if commit else None
        run = self._run_of.get(job) if isinstance(job, str) else None
        return (run, job) if run else (None, None)

    @cached_property
    def _run_of(self) -> Mapping[str, str]:
        """The run of each job that gave a sign of life."""
        found = {}
        for entry in self._store.entries("runs"):
            _, run, *name = entry.path.split("/")
            if name[:1] == [JOBS_FOLDER]:
                found[name[-1].removesuffix(".json")] = run.removeprefix("run=")
        return found


def _states(store: Store, run: str, model: str) -> ConceptStates:
    """What became of a run's concepts; empty if it is of another model, or cannot be read."""
    try:
        states = ConceptStates.read(store, run)
        record = recorded(store, run) if states else None
    except StoreError as error:
        logger.warning("when its concepts were erased is not known: %s", error)
        return ConceptStates()
    return states if states and record and record.model_identity == model else ConceptStates()
