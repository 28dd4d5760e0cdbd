"""The worker of an erase job that also scores its previews."""

from functools import cached_property

from conceptprune.evaluation.scoring import Scorers, read_rows
from conceptprune.evaluation.summarise import scorer_settings
from conceptprune.evaluation.tables import scores_table
from conceptprune.evaluation.units import PreviewScoresUnit
from conceptprune.models.images import read_image
from conceptprune.units.commit import Made
from conceptprune.units.unit import Unit
from conceptprune.units.worker import Worker


class ScoringWorker(Worker):
    """The worker of an erase job, with the scorers of its previews."""

    @cached_property
    def scorers(self) -> Scorers:
        """The scorers of this process."""
        return Scorers(self.device)

    def make(self, unit: Unit) -> Made:
        """The same as the erase job's worker, and also scores of previews.

        Raises:
            UserError: this machine's scorers differ from those of the machine that planned.
            StoreError: the preview is missing or damaged.
        """
        return self._scores(unit) if isinstance(unit, PreviewScoresUnit) else super().make(unit)

    def _scores(self, unit: PreviewScoresUnit) -> Made:
        rows = read_rows(self.store, self.store.get("preview", unit.preview), "preview")
        files = {(row["prompt"], row["seed"]): row["png"] for row in rows}
        images = [read_image(files[case.text, case.seed]) for case in unit.cases]
        readings = self.scorers.loaded(unit.scorer, unit.facts).score(images, unit.cases, None)
        table = scores_table(unit.cases, readings)
        return Made(
            objects={"scores": self._put_table(unit, "scores", table)},
            # For readers of the numbers: what was scored, and by which scorer.
            facts={
                "preview": unit.preview,
                "title": unit.scorer.title,
                "settings": scorer_settings(unit.scorer, unit.facts),
            },
        )
