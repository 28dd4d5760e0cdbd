"""The selectors. All read the same statistics; a new one takes a file, and a row here.

Shapes: C denoiser calls; a prunable linear has R rows (outputs) and W columns (inputs, "neurons").
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conceptprune.collection.statistics import Statistics
from conceptprune.errors import EmptyMaskError, UserError
from conceptprune.manifest import BaseRule, Pruning, SelectorName
from conceptprune.manifest.loading import checked_section
from conceptprune.masks import select_conceptprune as select
from conceptprune.masks import select_fia
from conceptprune.masks.contrast import contrast
from conceptprune.masks.layer_mask import LayerMask, widened
from conceptprune.masks.mask import PruningMask

Entries = NDArray[np.int64]
"""Sorted flat indices `row * columns + column` into a weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The statistics collected for a concept, and how to compare its sides."""

    target: Statistics
    base: Statistics
    retained: Sequence[Statistics] = ()
    """Target sides of other concepts, used if `rule` says so."""
    rule: BaseRule = "plain"

    def at_call(self, call: int) -> "Evidence":
        """The evidence of one denoiser call."""
        return replace(
            self,
            target=self.target.at_call(call),
            base=self.base.at_call(call),
            retained=[side.at_call(call) for side in self.retained],
        )


Selector = Callable[[str, Tensor, Evidence], NDArray[np.bool_] | Entries | Tensor]
"""(layer, weight [R, W], evidence) -> which weights to zero: a boolean array [R, W], or flat
indices `row * W + column`. Any such function can be used."""


def _conceptprune(
    name: str, weight: Tensor, evidence: Evidence, settings: Sequence[Pruning]
) -> list[Entries]:
    target = evidence.target
    base = select.base_energy(
        name, evidence.base, evidence.retained, evidence.rule, num_prompts=target.num_prompts
    )
    return select.select_in_layer(name, weight, target.layers[name].sum_sq, base, settings)


def _fia(
    name: str, weight: Tensor, evidence: Evidence, settings: Sequence[Pruning]
) -> list[Entries]:
    return select_fia.select_in_layer(name, weight, _contrast(name, evidence), settings)


def _stronger_energy(name: str, evidence: Evidence) -> NDArray[np.bool_]:
    target = evidence.target
    base = select.base_energy(
        name, evidence.base, evidence.retained, evidence.rule, num_prompts=target.num_prompts
    )
    return target.layers[name].sum_sq > base


def _stronger_contrast(name: str, evidence: Evidence) -> NDArray[np.bool_]:
    return _contrast(name, evidence) > 0


def _contrast(name: str, evidence: Evidence) -> NDArray[np.float64]:
    return contrast(
        evidence.target, evidence.base, name, retained=evidence.retained, rule=evidence.rule
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Selector:
    """A row of the table."""

    in_layer: Callable[[str, Tensor, Evidence, Sequence[Pruning]], list[Entries]]
    """(name, weight [R, W], evidence, settings) -> the layer's entries under each setting."""
    stronger: Callable[[str, Evidence], NDArray[np.bool_]]
    """(name, evidence) -> [C, W]: whether the call may select weights of the neuron."""


_SELECTORS: dict[SelectorName, _Selector] = {
    "conceptprune": _Selector(
        in_layer=_conceptprune,
        stronger=_stronger_energy,
    ),
    "fia": _Selector(
        in_layer=_fia,
        stronger=_stronger_contrast,
    ),
}


def select_in_layer(
    name: str, weight: Tensor, evidence: Evidence, settings: Sequence[Pruning]
) -> list[Entries]:
    """One layer's entries under each of several settings of one selector, at least one.

    Raises:
        UserError: a setting selects nothing in the layer, or needs more calls than were collected.
    """
    return _SELECTORS[settings[0].selector].in_layer(name, weight, evidence, settings)


def stronger_neurons(selector: SelectorName, name: str, evidence: Evidence) -> NDArray[np.bool_]:
    """[C, W]: whether a call excites a neuron enough for its weights to be selected."""
    return _SELECTORS[selector].stronger(name, evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSelector:
    """A built-in selector with its settings, as a function; see `Selector`."""

    settings: Pruning

    def __call__(self, layer: str, weight: Tensor, evidence: Evidence) -> Entries:
        """One layer's entries."""
        return select_in_layer(layer, weight, evidence, [self.settings])[0]


def named_selector(name: SelectorName, **settings: Any) -> NamedSelector:
    """A built-in selector by name; settings that are not given are the published ones.

    "conceptprune" has sparsity, tau, threshold and min_per_row; "fia" has r1, r2 and tau.

    Raises:
        UserError: there is no such selector or setting, or a value is wrong.
    """
    return NamedSelector(settings=checked_section(Pruning, selector=name, **settings))


def select_entries(
    weights: Mapping[str, Tensor], evidence: Evidence, selector: Selector
) -> dict[str, Entries]:
    """The entries to prune, per layer; `weights` are the site's [R, W] by layer.

    Raises:
        UserError: as `select_in_layer`; or the selector returned something other than entries.
        EmptyMaskError: no entry was selected in any layer.
    """
    entries = {
        name: _entries(name, weights[name], selector(name, weights[name], evidence))
        for name in sorted(weights)
    }
    if not any(len(flat) for flat in entries.values()):
        raise EmptyMaskError(
            "no weight was selected: the target prompts excite no neuron more than the base "
            "prompts do; check that base and target prompts differ"
        )
    return entries


def _entries(name: str, weight: Tensor, chosen: Any) -> Entries:
    """A selector's result for a layer, as sorted flat indices."""
    found = np.asarray(chosen.cpu() if isinstance(chosen, Tensor) else chosen)
    if found.dtype == np.bool_ and found.shape == weight.shape:
        return np.flatnonzero(found)
    if found.ndim == 1 and (found.dtype.kind in "iu" or not found.size):
        flat: Entries = np.unique(found.astype(np.int64))
        if not flat.size or (flat[0] >= 0 and flat[-1] < weight.numel()):
            return flat
    raise UserError(
        f"the selector gave {found.dtype} {list(found.shape)} for {name}; it should give True or "
        f"False for each of its {list(weight.shape)} weights, or flat indices of them"
    )


def select_mask(
    weights: Mapping[str, Tensor],
    evidence: Evidence,
    selector: Selector,
    *,
    dtype: torch.dtype | None = None,
    stored: Mapping[str, Tensor] | None = None,
    concept: str,
    component: str,
    provenance: Mapping[str, Any],
) -> PruningMask:
    """The mask of one concept; jobs, benchmarks and `method.find_mask` all make theirs here.

    Args:
        weights: whole weights [R, W] by layer, as stored in the model's files if there are any.
        evidence: statistics of the same layers, or of their last columns if only these belong to
            the site.
        selector: the selector with its settings.
        dtype: the model's dtype, used to select; by default that of the weights.
        stored: the weights as files have them, by which the mask knows the model, where `weights`
            are those of a pipeline that may have rounded them.
        concept: name to record in the mask.
        component: the pipeline's name for the denoiser.
        provenance: what the mask records about its origin, besides selector and timesteps; JSON.

    Raises:
        UserError: the selector selects nothing in a layer, needs more calls than were collected, or
        returns something other than entries. EmptyMaskError: no weight was selected in any layer.
    """
    used = {name: weight.to(dtype or weight.dtype) for name, weight in weights.items()}
    site_weights = on_site(used, evidence.target)
    entries = select_entries(site_weights, evidence, selector)
    layers = {}
    for name, weight in sorted(weights.items()):
        columns = weight.shape[1]
        first_column = columns - site_weights[name].shape[1]
        flat = widened(entries[name], columns, first_column)
        layers[name] = LayerMask.of((stored or {}).get(name, weight), flat, first_column)
    return PruningMask(
        concepts=(concept,),
        component=component,
        layers=layers,
        provenance={**provenance, **_selection(selector, evidence)},
    )


def on_site(weights: Mapping[str, Tensor], statistics: Statistics) -> dict[str, Tensor]:
    """The last columns of each weight [R, W], as many as there are statistics for."""
    return {
        name: weight[:, weight.shape[1] - statistics.layers[name].sum_sq.shape[1] :]
        for name, weight in weights.items()
    }


def _selection(selector: Selector, evidence: Evidence) -> dict[str, Any]:
    """What a mask records about how its entries were selected."""
    known: dict[str, Any] = {"selector": getattr(selector, "__name__", repr(selector))}
    tau = None
    if isinstance(selector, NamedSelector):
        settings = selector.settings
        known = {"selector": settings.selector, "selection": settings.selection}
        tau = settings.tau
    return {**known, "base": evidence.rule, "timesteps": evidence.target.timesteps[:tau]}
