"""Pruning sites: which linears of a pipeline may lose weights."""

import re
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A family of prunable linears, found by module name inside one component of a pipeline."""

    name: str
    pattern: str
    """Regular expression that the whole module name must match."""


SITES = {
    site.name: site
    for site in (
        # The second linear of every feed-forward: its input is the activation after GEGLU.
        Site(name="ffn_out", pattern=r"(.*\.)?ff\.net\.2"),
    )
}


def site_linears(component: nn.Module, site: Site) -> dict[str, nn.Linear]:
    """The site's linears in `component`, by module name, in sorted order.

    Raises:
        ValueError: nothing matches, or a matching module is not an `nn.Linear`.
    """
    pattern = re.compile(site.pattern)
    found: dict[str, nn.Linear] = {}
    for name, module in sorted(component.named_modules()):
        if not pattern.fullmatch(name):
            continue
        if not isinstance(module, nn.Linear):
            raise ValueError(
                f"site {site.name}: module {name} is a {type(module).__name__}, not an nn.Linear; "
                "only plain linears can be pruned (unload adapters and quantisation first)"
            )
        found[name] = module
    if not found:
        raise ValueError(
            f"site {site.name}: no module of {type(component).__name__} matches {site.pattern!r}"
        )
    return found
