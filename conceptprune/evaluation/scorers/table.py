"""Which scorers there are: a row here, and a file beside it."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from conceptprune.evaluation.scorers.base import ScorerSettings
from conceptprune.evaluation.scorers.studio_judge import StudioJudgeSettings

SCORERS: Mapping[str, type[ScorerSettings]] = {
    "studio-judge": StudioJudgeSettings,
}
"""Settings by the scorer's name; `ScorerSettings.load` makes the scorer."""

ONE_SCORER = f"a section whose scorer is one of {', '.join(SCORERS)}"


def _tag(value: Any) -> str | None:
    name = value.get("scorer") if isinstance(value, dict) else getattr(value, "scorer", None)
    return f"<{name}>" if name in SCORERS else None


AnyScorer = Annotated[
    Annotated[StudioJudgeSettings, Tag("<studio-judge>")],
    Discriminator(
        _tag,
        custom_error_type="manifest",
        custom_error_message=ONE_SCORER,
        custom_error_context={"problems": ((("scorer",), ONE_SCORER),)},
    ),
]
