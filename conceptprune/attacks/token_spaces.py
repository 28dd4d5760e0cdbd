"""The families that attacks on tokens work with: those with one text encoder that is opened up."""

from collections.abc import Mapping

from conceptprune.attacks.clip_text import ClipTokens
from conceptprune.attacks.t5_text import T5Tokens
from conceptprune.attacks.text import TokenSpace
from conceptprune.errors import UserError
from conceptprune.models.base import DiffusionModel
from conceptprune.models.pixart import PixArt
from conceptprune.models.stable_diffusion import StableDiffusion

SPACES: Mapping[type[DiffusionModel], type[TokenSpace]] = {
    StableDiffusion: ClipTokens,
    PixArt: T5Tokens,
}
"""By the family itself, not its subclasses: a second text encoder (XL) would have to be attacked
along with the first."""

TITLES = tuple(space.title for space in SPACES.values())


def token_space(model: DiffusionModel) -> TokenSpace:
    """The token space of a model.

    Raises:
        UserError: the family's text encoders are not supported.
    """
    if type(model) not in SPACES:
        raise UserError(
            f"attacks on tokens are for {' and for '.join(TITLES)}, not for "
            f"{type(model).__name__}: prompt files and refill work with every family"
        )
    return SPACES[type(model)](model)
