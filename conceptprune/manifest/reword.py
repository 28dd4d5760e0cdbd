"""Which method makes a batch's combined checkpoint, and the settings of rewording."""

from typing import Annotated, Any, Literal

from pydantic import Field

from conceptprune.manifest.concept import DefaultFillers, MoreTemplates
from conceptprune.manifest.fields import Float, Int, Section

Method = Literal["conceptprune", "reword"]

_STRENGTH = Field(gt=0, description="a number above 0")
_WORDS = Field(ge=0, le=100_000, description="a whole number from 0 to 100000")


class Reword(Section):
    """How strongly rewording keeps what stays, against 1 for what is erased.

    Means are compared, not sums, so that no strength depends on the number of prompts. How large
    they should be depends on the model: `conceptprune tune` finds it.
    """

    retain: Annotated[Float, _STRENGTH] = 4.5
    """The retained concepts' prompts."""
    base: Annotated[Float, _STRENGTH] = 6.0
    """The base prompts."""
    empty: Annotated[Float, _STRENGTH] = 1.5
    """The empty prompt, which guidance uses in every image."""
    vocabulary: Annotated[Float, _STRENGTH] = 1.0
    """Base prompts with common words of the text encoder's vocabulary as fillers."""
    words: Annotated[
        Int, Field(ge=0, le=100_000, description="a whole number from 0 to 100000")
    ] = 1000
    """How many such words, at most; 0 leaves them out."""
    ridge: Annotated[Float, Field(ge=0, description="a number of at least 0")] = 1e-3
    """The edit itself: how strongly it is kept small, against the mean of all prompts."""
    fillers: DefaultFillers = DefaultFillers()
    """More fillers by kind, for concepts with a template: their prompts are reworded or kept, too,
    and cost texts alone, no images."""

    templates: MoreTemplates = MoreTemplates()
    """More wordings by kind, for concepts with a template: each is filled with the concept's own
    fillers, or its kind's, and with those above."""

    @property
    def key_parts(self) -> dict[str, Any]:
        """The settings that decide the edit; fillers and templates do as texts of its sums."""
        return self.model_dump(mode="json", exclude={"fillers", "templates"})

    @property
    def asked(self) -> dict[str, Any]:
        """All that a manifest asks for; without fillers or templates, the same as before there
        were any."""
        texts = {
            "fillers": self.fillers.model_dump(mode="json", exclude_none=True),
            "templates": self.templates.model_dump(mode="json", exclude_none=True),
        }
        return self.key_parts | {name: given for name, given in texts.items() if given}
