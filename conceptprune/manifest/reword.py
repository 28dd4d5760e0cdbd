"""Which method makes a batch's combined checkpoint, and the settings of rewording."""

from typing import Annotated, Any, Literal

from pydantic import Field

from conceptprune.manifest.fields import Float, Section

Method = Literal["conceptprune", "reword"]

_STRENGTH = Field(gt=0, description="a number above 0")


class Reword(Section):
    """How strongly rewording keeps what stays, against 1 for what is erased.

    Means are compared, not sums, so that no strength depends on the number of prompts.
    """

    retain: Annotated[Float, _STRENGTH] = 3.0
    """The retained concepts' prompts."""
    base: Annotated[Float, _STRENGTH] = 6.0
    """The base prompts."""
    empty: Annotated[Float, _STRENGTH] = 1.5
    """The empty prompt, which guidance uses in every image."""

    @property
    def key_parts(self) -> dict[str, Any]:
        """The settings that decide the edit."""
        return self.model_dump(mode="json")
