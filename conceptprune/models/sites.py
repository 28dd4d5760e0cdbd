"""Pruning sites: which linear layers of a pipeline may be pruned.

A layer is named by its module in the denoiser ("mid_block...ff.net.2"); a layer of another
component is prefixed with the component's name and a slash ("text_encoder/text_model...mlp.fc2").
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from conceptprune.errors import UserError

if TYPE_CHECKING:
    from torch import nn

PATTERN_PREFIX = "re:"
"""Marks a site given as a regular expression, for layers that no family has a name for."""

Sees = Literal["latents", "prompt", "text"]
"""What a site's inputs depend on: the latents of each denoiser call, the encoded prompt alone, or
the text inside the text encoders. Only the first needs denoising."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A group of prunable linears, found by module name inside a component of a pipeline."""

    name: str
    pattern: str
    """Regular expression that the whole module name must match."""
    fused: str | None = None
    """In linears that also match this, only the last columns belong to the site: the first columns,
    as many as the linear has rows, take the output of the block's attention."""
    sees: Sees = "latents"

    def first_column(self, name: str, shape: tuple[int, int]) -> int:
        """The first column of the linear `name` [rows, columns] that belongs to the site."""
        rows, _ = shape
        return rows if self.fused and re.fullmatch(self.fused, name) else 0


def sites(*every: Site) -> dict[str, Site]:
    """Sites by name."""
    return {site.name: site for site in every}


TEXT_FFN = Site(name="text_ffn", pattern=r"(.*\.)?(mlp\.fc2|DenseReluDense\.wo)", sees="text")
"""The second linear of the feed-forwards of CLIP and T5 text encoders."""

SITES = sites(
    # The second linear of every feed-forward: its input is the activation after GEGLU or GELU.
    Site(name="ffn_out", pattern=r"(.*\.)?ff\.net\.2"),
    Site(name="ffn_in", pattern=r"(.*\.)?ff\.net\.0\.proj"),
    Site(name="attn_key", pattern=r"(.*\.)?attn2\.to_k", sees="prompt"),
    Site(name="attn_value", pattern=r"(.*\.)?attn2\.to_v", sees="prompt"),
    TEXT_FFN,
)
"""Sites of blocks with cross-attention and one feed-forward, as in Stable Diffusion's UNets."""


def find_sites(known: Mapping[str, Site], names: Iterable[str], family: str) -> list[Site]:
    """The sites that a manifest names: each is a site name of `family`, or `re:` and an expression.

    Raises:
        UserError: the family has no site of that name.
    """
    found = []
    for name in names:
        if name.startswith(PATTERN_PREFIX):
            found.append(Site(name=name, pattern=name.removeprefix(PATTERN_PREFIX)))
        elif name in known:
            found.append(known[name])
        else:
            raise UserError(
                f"pruning.site: {family} has no {name}; it has {', '.join(known)}, and takes "
                f"'{PATTERN_PREFIX}' with a regular expression for module names of the denoiser"
            )
    return found


def split_layer(layer: str, denoiser: str) -> tuple[str, str]:
    """(component, module name) of a layer, where `denoiser` is the denoiser's component."""
    component, slash, module = layer.partition("/")
    return (component, module) if slash else (denoiser, layer)


def join_layer(component: str, module: str, denoiser: str) -> str:
    """The layer that is `module` of `component`; the inverse of `split_layer`."""
    return module if component == denoiser else f"{component}/{module}"


def site_linears(component: "nn.Module", site: Site) -> "dict[str, nn.Linear]":
    """The site's linears in `component`, by module name, in sorted order.

    Compilers' and peft's wrappers are looked through.

    Raises:
        UserError: nothing matches, or a matching module is not an `nn.Linear`.
    """
    # Not above: manifests are checked without torch.
    from torch import nn

    from conceptprune.models.wrappers import modules_of

    pattern = re.compile(site.pattern)
    found: dict[str, nn.Linear] = {}
    for name, module in sorted(modules_of(component).items()):
        if not pattern.fullmatch(name):
            continue
        if not isinstance(module, nn.Linear):
            raise UserError(
                f"site {site.name}: module {name} is a {type(module).__name__}, not an nn.Linear; "
                "only plain linears can be pruned (unload adapters and quantisation first)"
            )
        found[name] = module
    if not found:
        raise UserError(
            f"site {site.name}: no module of {type(component).__name__} matches {site.pattern!r}"
        )
    return found
