"""What a worker does with each unit of an attack job."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from conceptprune.attacks.attempts import SCHEMA, Drawing, Scene, Shows, attempt_row
from conceptprune.attacks.summarise import summary_table
from conceptprune.attacks.table import ATTACKS
from conceptprune.attacks.work import AttackSummaryWork, AttackWork
from conceptprune.digest import canonical_json
from conceptprune.evaluation.checkpoint import applied
from conceptprune.evaluation.stages import Evaluator
from conceptprune.evaluation.summary import OBJECT
from conceptprune.evaluation.tables import sorted_table
from conceptprune.evaluation.work import EvaluationUnit
from conceptprune.models.draw import Images
from conceptprune.models.images import Image
from conceptprune.store import Commit
from conceptprune.store.claims import Claims
from conceptprune.units.commit import Done, Held, Made, commit_made, run_claimed
from conceptprune.units.units import APPLIED

ATTEMPTS = "attempts"
"""Name of the table of attempts among a commit's objects."""

AttackUnit = EvaluationUnit | AttackWork | AttackSummaryWork


class Attacker:
    """Runs the units of attacks and of evaluations, with an evaluator's store and models."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.store = evaluator.store

    def run(self, work: AttackUnit) -> Commit:
        """Do one unit and commit it; work that is committed already is not done again.

        Raises:
            UserError, StoreError: see the stages.
        """
        return self.store.find(work.kind, work.key) or self._do(work)

    def run_claimed(self, work: AttackUnit, claims: Claims) -> Done | Held:
        """Do one unit unless another job is at it; see `run`."""
        return run_claimed(work, claims, self._do)

    def _do(self, work: AttackUnit) -> Commit:
        match work:
            case AttackWork():
                return commit_made(self.store, work, lambda: self._attack(work))
            case AttackSummaryWork():
                return commit_made(self.store, work, lambda: self._summary(work))
            case _:
                return self.evaluator.run(work)

    def _attack(self, work: AttackWork) -> Made:
        evaluator = self.evaluator
        model = evaluator.model(work.drawn)
        pictures = self._pictures(work) if work.pictures else None
        with applied(model, evaluator.edit(work.drawn)):
            scene = Scene(
                model=model,
                concept=work.concept,
                plain=tuple(victim.plain for victim in work.victims),
                asked=tuple(victim.start for victim in work.victims),
                examples=work.examples,
                pictures=pictures,
                shows=self._shows(work),
                drawing=Drawing(
                    steps=work.steps, guidance=work.guidance, batch_size=work.batch_size
                ),
            )
            attempts = ATTACKS[work.attack].run(scene, work.settings)
        # What the checkpoint is called is the summary's business: equal work is shared.
        rows = [
            attempt_row(
                attempt,
                suite="",
                checkpoint="",
                attack=work.attack,
                concept=work.concept,
                settings=canonical_json(work.settings.model_dump(mode="json")),
            )
            for attempt in attempts
        ]
        objects = {ATTEMPTS: evaluator.put_table("attack", sorted_table(rows, SCHEMA))}
        if work.drawn.edit is not None:
            objects[APPLIED] = work.drawn.edit.ref
        return Made(objects=objects, facts={"successes": sum(each.success for each in attempts)})

    def _pictures(self, work: AttackWork) -> Images:
        """The base's picture of each victim."""
        found: dict[tuple[str, int], Image] = {}
        for key in work.pictures:
            found |= self.evaluator.images_of(key)
        return np.stack(
            [found[victim.pictured.text, victim.pictured.seed] for victim in work.victims]
        )

    def _shows(self, work: AttackWork) -> Shows:
        judged = work.judgement
        scorer = self.evaluator.scorer(judged.scorer, judged.facts)

        def shows(images: Images, of: Sequence[int]) -> NDArray[np.bool_]:
            cases = [work.victims[index].case for index in of]
            verdicts = np.zeros(len(images), np.bool_)
            for reading in scorer.score(list(images), cases, None):
                if reading.metric == judged.metric and reading.value is not None:
                    verdicts[reading.case] = reading.value >= judged.at_least
            return verdicts

        return shows

    def _summary(self, work: AttackSummaryWork) -> Made:
        rows = []
        for attacked in work.checkpoints:
            label = attacked.checkpoint.label
            for _, _, keys in attacked.attempts:
                for key in keys:
                    commit = self.store.get("attack", key)
                    rows += [
                        {**row, "suite": work.suite, "checkpoint": label}
                        for row in self.evaluator.rows(commit, ATTEMPTS)
                    ]
        put = self.evaluator.put_table
        return Made(
            objects={
                OBJECT: put("evaluation", summary_table(work, rows)),
                ATTEMPTS: put("evaluation", sorted_table(rows, SCHEMA)),
            }
        )
