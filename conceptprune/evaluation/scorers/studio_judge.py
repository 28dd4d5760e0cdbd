"""The studio's own judge: which thing an image shows, and in whose style."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from conceptprune.digest import digest_file
from conceptprune.evaluation.scorers.base import Case, Facts, Metric, Reading, ScorerSettings
from conceptprune.evaluation.scorers.judge import ACCURACIES, accuracy
from conceptprune.evaluation.scorers.libraries import versions_of
from conceptprune.models.images import Image
from conceptprune.studio.asked import asked
from conceptprune.studio.names import LOOKS, PHOTO, THINGS

if TYPE_CHECKING:
    from conceptprune.studio.judge import Judge


class StudioJudgeSettings(ScorerSettings):
    """For the studio model only, whose sixteen invented styles no other scorer knows."""

    scorer: Literal["studio-judge"]

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Whether the requested style and the requested thing are recognised: 1 or 0."""
        return ACCURACIES

    def check(self) -> Facts:
        """Nothing to check: the judge ships with the package."""
        from conceptprune.studio.judge import WEIGHTS

        return Facts(versions=versions_of("torch"), weights=digest_file(WEIGHTS))

    def load(self, device: str) -> "StudioJudge":
        """The judge; it is small and stays on the host."""
        from conceptprune.studio.judge import Judge

        return StudioJudge(Judge.load())


class StudioJudge:
    """Says whether the thing and the style named in a prompt are recognised."""

    def __init__(self, judge: "Judge") -> None:
        self._judge = judge

    def score(
        self, images: Sequence[Image], cases: Sequence[Case], references: Sequence[Image] | None
    ) -> list[Reading]:
        """Two readings per image, for what its prompt asks for.

        A style that the studio does not have gets no value.
        """
        verdicts = self._judge.verdicts(np.stack(images))
        readings = []
        for case, (thing, artist) in enumerate(zip(verdicts.thing, verdicts.artist, strict=True)):
            wanted = asked(cases[case].text)
            look, object_seen = LOOKS[artist], THINGS[thing]
            is_unknown = wanted.look == PHOTO and cases[case].label("style") is not None
            is_right = None if is_unknown else look == wanted.look
            readings.append(accuracy(case, "style", look, is_right=is_right))
            if wanted.thing is not None:
                is_right = object_seen == wanted.thing
                readings.append(accuracy(case, "object", object_seen, is_right=is_right))
        return readings
