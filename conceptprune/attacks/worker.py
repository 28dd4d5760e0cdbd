"""What a worker does with each unit of an attack job."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from conceptprune.attacks.attempts import SCHEMA, Generation, Scene, Shows, attempt_row
from conceptprune.attacks.summarise import summary_table
from conceptprune.attacks.table import ATTACKS
from conceptprune.attacks.units import AttackSummaryUnit, AttackUnit
from conceptprune.checkpoints.delta import applied
from conceptprune.digest import canonical_json
from conceptprune.evaluation.summary import OBJECT
from conceptprune.evaluation.tables import sorted_table
from conceptprune.evaluation.worker import Evaluator
from conceptprune.models.generate import Images
from conceptprune.models.images import Image
from conceptprune.units.commit import Made
from conceptprune.units.unit import APPLIED, Unit

ATTEMPTS = "attempts"
"""Name of the table of attempts among a commit's objects."""


class Attacker(Evaluator):
    """Does the units of attack jobs, and those of evaluations."""

    def make(self, unit: Unit) -> Made:
        """Compute a unit of an attack job and write its objects.

        Raises:
            UserError, StoreError: see what each kind calls.
        """
        match unit:
            case AttackUnit():
                return self._attack(unit)
            case AttackSummaryUnit():
                return self._attack_summary(unit)
            case _:
                return super().make(unit)

    def _attack(self, unit: AttackUnit) -> Made:
        model = self.model(unit.image_model)
        base_images = self._base_images(unit) if unit.base_images else None
        with applied(model, self.edit(unit.image_model)):
            scene = Scene(
                model=model,
                concept=unit.concept,
                plain=tuple(victim.plain for victim in unit.victims),
                asked=tuple(victim.start for victim in unit.victims),
                examples=unit.examples,
                base_images=base_images,
                shows=self._shows(unit),
                generation=Generation(
                    steps=unit.steps, guidance=unit.guidance, batch_size=unit.batch_size
                ),
            )
            attempts = ATTACKS[unit.attack].run(scene, unit.settings)
        # The checkpoint's label is left to the summary, so that equal work is shared.
        rows = [
            attempt_row(
                attempt,
                suite="",
                checkpoint="",
                attack=unit.attack,
                concept=unit.concept,
                settings=canonical_json(unit.settings.model_dump(mode="json")),
            )
            for attempt in attempts
        ]
        objects = {ATTEMPTS: self.put_table(unit, "attack", sorted_table(rows, SCHEMA))}
        if unit.image_model.edit is not None:
            objects[APPLIED] = unit.image_model.edit.ref
        return Made(objects=objects, facts={"successes": sum(each.success for each in attempts)})

    def _base_images(self, unit: AttackUnit) -> Images:
        """The base's image of each victim."""
        found: dict[tuple[str, int], Image] = {}
        for key in unit.base_images:
            found |= self.images_of(key)
        return np.stack([found[victim.named.text, victim.named.seed] for victim in unit.victims])

    def _shows(self, unit: AttackUnit) -> Shows:
        judged = unit.judgement
        scorer = self.scorer(judged.scorer, judged.facts)

        def shows(images: Images, of: Sequence[int]) -> NDArray[np.bool_]:
            cases = [unit.victims[index].case for index in of]
            verdicts = np.zeros(len(images), np.bool_)
            for reading in scorer.score(list(images), cases, None):
                if reading.metric == judged.metric and reading.value is not None:
                    verdicts[reading.case] = reading.value >= judged.at_least
            return verdicts

        return shows

    def _attack_summary(self, unit: AttackSummaryUnit) -> Made:
        rows = []
        for attacked in unit.checkpoints:
            label = attacked.checkpoint.label
            for _, _, keys in attacked.attempts:
                for key in keys:
                    commit = self.store.get(AttackUnit.kind, key)
                    rows += [
                        {**row, "suite": unit.suite, "checkpoint": label}
                        for row in self.rows(commit, ATTEMPTS)
                    ]
        return Made(
            objects={
                OBJECT: self.put_table(unit, "evaluation", summary_table(unit, rows)),
                ATTEMPTS: self.put_table(unit, "evaluation", sorted_table(rows, SCHEMA)),
            }
        )
