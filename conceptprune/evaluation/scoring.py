"""Run scorers on images: those of a suite's shards, and those of a job's previews."""

from typing import Any

from conceptprune.digest import canonical_json
from conceptprune.errors import UserError
from conceptprune.evaluation.scorers.base import Facts, ScorerSettings
from conceptprune.store import Commit, Store, load_table

Row = dict[str, Any]


class Scorers:
    """Scorers of one worker process, each loaded once."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._loaded: dict[str, Any] = {}

    def loaded(self, settings: ScorerSettings, facts: Facts) -> Any:
        """Load a scorer, and check that it is the one that the plan was made with.

        Raises:
            UserError: its weights or library versions differ on this machine.
        """
        name = canonical_json(settings.model_dump(mode="json"))
        if name not in self._loaded:
            if (found := settings.check()) != facts:
                raise UserError(
                    f"scorers: {settings.title} is {found} on this machine, and {facts} on the one "
                    "that planned the evaluation: install and place the same on all"
                )
            self._loaded[name] = settings.load(self._device)
        return self._loaded[name]


def read_rows(store: Store, commit: Commit, role: str) -> list[Row]:
    """The rows of one of a commit's Parquet tables.

    Raises:
        StoreError: the table is missing or damaged.
    """
    rows: list[Row] = load_table(store, commit, role).to_pylist()
    return rows
