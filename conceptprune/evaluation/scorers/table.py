"""The table of scorers; a new scorer takes a row here and a file next to it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from conceptprune.evaluation.scorers.base import Metric, ScorerSettings
from conceptprune.evaluation.scorers.classifier import ClassifierSettings
from conceptprune.evaluation.scorers.clip import (
    ClipAccuracySettings,
    ClipDropSettings,
    ClipSimilaritySettings,
    GenderRatioSettings,
)
from conceptprune.evaluation.scorers.copies import CopiesSettings
from conceptprune.evaluation.scorers.distribution import DistributionSettings
from conceptprune.evaluation.scorers.judge import JudgeSettings
from conceptprune.evaluation.scorers.nudity import NudeNetSettings
from conceptprune.evaluation.scorers.perceptual import LpipsSettings, PerceptualSettings
from conceptprune.evaluation.scorers.studio_judge import StudioJudgeSettings
from conceptprune.manifest.fields import FieldPath, refusal

SCORERS: Mapping[str, type[ScorerSettings]] = {
    "classifier": ClassifierSettings,
    "clip-accuracy": ClipAccuracySettings,
    "clip-drop": ClipDropSettings,
    "clip-similarity": ClipSimilaritySettings,
    "copies": CopiesSettings,
    "fid": DistributionSettings,
    "gender-ratio": GenderRatioSettings,
    "judge": JudgeSettings,
    "kid": DistributionSettings,
    "lpips": LpipsSettings,
    "nudenet": NudeNetSettings,
    "perceptual": PerceptualSettings,
    "studio-judge": StudioJudgeSettings,
}
"""Settings by the scorer's name; `ScorerSettings.load` makes the scorer."""

ONE_SCORER = f"a section whose scorer is one of {', '.join(SCORERS)}"


def declared(settings: Mapping[str, Any], metric: str) -> Metric | None:
    """A scorer's declaration of a summary number's metric; None if the scorer is unknown.

    `settings` are those stored with the number. They are not validated again, because the files
    that they name need not be on this machine.
    """
    match settings.get("scorer"):
        case {"scorer": str(name)} if name in SCORERS:
            construct: Callable[..., ScorerSettings] = SCORERS[name].model_construct
            # UnlearnCanvas' accuracies are computed from another metric, which their settings name.
            return construct(**settings["scorer"]).metrics.get(settings.get("of", metric))
    return None


def refuse_same_titles(scorers: Sequence[ScorerSettings]) -> None:
    """Refuse two scorers whose numbers would have the same name."""
    seen: set[str] = set()
    problems: list[tuple[FieldPath, str]] = []
    for index, scorer in enumerate(scorers):
        if scorer.title in seen:
            problems.append(
                ((index,), f"a name of its own (another scorer is {scorer.title}): give name:")
            )
        seen.add(scorer.title)
    if problems:
        raise refusal(*problems)


def _tag(value: Any) -> str | None:
    name = value.get("scorer") if isinstance(value, dict) else getattr(value, "scorer", None)
    known = SCORERS.get(name) if isinstance(name, str) else None
    return f"<{known.__name__}>" if known else None


AnyScorer = Annotated[
    Annotated[ClassifierSettings, Tag("<ClassifierSettings>")]
    | Annotated[ClipAccuracySettings, Tag("<ClipAccuracySettings>")]
    | Annotated[ClipDropSettings, Tag("<ClipDropSettings>")]
    | Annotated[ClipSimilaritySettings, Tag("<ClipSimilaritySettings>")]
    | Annotated[CopiesSettings, Tag("<CopiesSettings>")]
    | Annotated[DistributionSettings, Tag("<DistributionSettings>")]
    | Annotated[GenderRatioSettings, Tag("<GenderRatioSettings>")]
    | Annotated[JudgeSettings, Tag("<JudgeSettings>")]
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
