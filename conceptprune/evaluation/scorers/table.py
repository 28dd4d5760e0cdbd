"""Which scorers there are: a row here, and a file beside it."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from conceptprune.evaluation.scorers.base import ScorerSettings
from conceptprune.evaluation.scorers.classifier import ClassifierSettings
from conceptprune.evaluation.scorers.clip import (
    ClipAccuracySettings,
    ClipSimilaritySettings,
    GenderRatioSettings,
)
from conceptprune.evaluation.scorers.copies import CopiesSettings
from conceptprune.evaluation.scorers.distribution import DistributionSettings
from conceptprune.evaluation.scorers.nudity import NudeNetSettings
from conceptprune.evaluation.scorers.perceptual import LpipsSettings, PerceptualSettings
from conceptprune.evaluation.scorers.studio_judge import StudioJudgeSettings

SCORERS: Mapping[str, type[ScorerSettings]] = {
    "classifier": ClassifierSettings,
    "clip-accuracy": ClipAccuracySettings,
    "clip-similarity": ClipSimilaritySettings,
    "copies": CopiesSettings,
    "fid": DistributionSettings,
    "gender-ratio": GenderRatioSettings,
    "kid": DistributionSettings,
    "lpips": LpipsSettings,
    "nudenet": NudeNetSettings,
    "perceptual": PerceptualSettings,
    "studio-judge": StudioJudgeSettings,
}
"""Settings by the scorer's name; `ScorerSettings.load` makes the scorer."""

ONE_SCORER = f"a section whose scorer is one of {', '.join(SCORERS)}"


def _tag(value: Any) -> str | None:
    name = value.get("scorer") if isinstance(value, dict) else getattr(value, "scorer", None)
    known = SCORERS.get(name) if isinstance(name, str) else None
    return f"<{known.__name__}>" if known else None


AnyScorer = Annotated[
    Annotated[ClassifierSettings, Tag("<ClassifierSettings>")]
    | Annotated[ClipAccuracySettings, Tag("<ClipAccuracySettings>")]
    | Annotated[ClipSimilaritySettings, Tag("<ClipSimilaritySettings>")]
    | Annotated[CopiesSettings, Tag("<CopiesSettings>")]
    | Annotated[DistributionSettings, Tag("<DistributionSettings>")]
    | Annotated[GenderRatioSettings, Tag("<GenderRatioSettings>")]
    | Annotated[LpipsSettings, Tag("<LpipsSettings>")]
    | Annotated[NudeNetSettings, Tag("<NudeNetSettings>")]
    | Annotated[PerceptualSettings, Tag("<PerceptualSettings>")]
    | Annotated[StudioJudgeSettings, Tag("<StudioJudgeSettings>")],
    Discriminator(
        _tag,
        custom_error_type="manifest",
        custom_error_message=ONE_SCORER,
        custom_error_context={"problems": ((("scorer",), ONE_SCORER),)},
    ),
]
