"""The linears that see the encoded prompt, cross-attention's keys and values, and their edit."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from conceptprune.errors import UserError
from conceptprune.models.base import DiffusionModel
from conceptprune.models.sites import Site

PROMPT_SITES = ("attn_key", "attn_value")
VALUE_SITES = PROMPT_SITES[1:]


def check_prompt_sites(pipeline: str, sites: Mapping[str, Site]) -> None:
    """Check that a family, with these `sites`, has such linears.

    Raises:
        UserError: it has none.
    """
    if not all(name in sites and sites[name].sees == "prompt" for name in PROMPT_SITES):
        raise UserError(
            f"model: {pipeline} has no cross-attention whose keys and values see the prompt alone, "
            "which is what this method edits"
        )


def prompt_projections(
    model: DiffusionModel, sites: Sequence[str] = PROMPT_SITES
) -> dict[str, nn.Linear]:
    """The linears that see the encoded prompt, cross-attention's keys and values, by module name.

    With `sites` only those of one of them.

    Raises:
        UserError: the model has none.
    """
    check_prompt_sites(type(model.pipe).__name__, model.sites)
    found = {
        name: site_linear.linear for name, site_linear in model.site_linears(tuple(sites)).items()
    }
    return dict(sorted(found.items()))


def check_widths(weights: Mapping[str, Tensor], width: int) -> None:
    """See that projections [R, D] take the encoded prompt's width.

    Raises:
        UserError: one does not.
    """
    for name, weight in weights.items():
        if weight.shape[1] != width:
            raise UserError(
                f"{name} takes {weight.shape[1]} features, and the encoded prompt has "
                f"{width}: this model's cross-attention does not see the prompt itself"
            )


def edited(weights: Mapping[str, Tensor], change: Tensor) -> dict[str, Tensor]:
    """The projections [R, D] times the map [D, D], each in its own dtype, by name.

    Raises:
        UserError: a projection does not take what the text encoder gives.
    """
    check_widths(weights, len(change))
    return {name: (weight.double() @ change).to(weight.dtype) for name, weight in weights.items()}
