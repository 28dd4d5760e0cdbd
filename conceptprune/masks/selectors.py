"""The selectors: each reads the same statistics, and a new one is a file and a row here.

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
from conceptprune.masks.mask import LayerMask, PruningMask, widened

Entries = NDArray[np.int64]
"""Sorted flat indices `row * columns + column` into a weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was collected for a concept, and how its sides compare."""

    target: Statistics
    base: Statistics
    retained: Sequence[Statistics] = ()
    """Target sides of other concepts, which count where `rule` says so."""
    rule: BaseRule = "plain"

    def at_call(self, call: int) -> "Evidence":
        """Of one denoiser call alone."""
        return replace(
            self,
            target=self.target.at_call(call),
            base=self.base.at_call(call),
            retained=[side.at_call(call) for side in self.retained],
        )


Selector = Callable[[str, Tensor, Evidence], NDArray[np.bool_] | Entries | Tensor]
"""(layer, weight [R, W], evidence) -> which of its weights become zero: True for them in an array
[R, W], or their flat indices `row * W + column`. Any function of this kind selects."""


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
        UserError: a setting keeps nothing of the layer, or asks for more calls than collected.
    """
    return _SELECTORS[settings[0].selector].in_layer(name, weight, evidence, settings)


def stronger_neurons(selector: SelectorName, name: str, evidence: Evidence) -> NDArray[np.bool_]:
    """[C, W]: whether a call excites a neuron enough for its weights to be selected."""
    return _SELECTORS[selector].stronger(name, evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSelector:
    """A selector of the table with its settings, as a function; see `Selector`."""

    settings: Pruning

    def __call__(self, layer: str, weight: Tensor, evidence: Evidence) -> Entries:
        """One layer's entries."""
        return select_in_layer(layer, weight, evidence, [self.settings])[0]


def named_selector(name: SelectorName, **settings: Any) -> NamedSelector:
    """A selector by its name, with the published settings where none are given.

    "conceptprune" has sparsity, tau, threshold and min_per_row; "fia" has r1, r2 and tau.

    Raises:
        UserError: there is no such selector, or no such setting of it, or a value is wrong.
    """
    return NamedSelector(settings=checked_section(Pruning, selector=name, **settings))


def select_entries(
    weights: Mapping[str, Tensor], evidence: Evidence, selector: Selector
) -> dict[str, Entries]:
    """The entries to prune, per layer; `weights` are the site's [R, W] by layer.

    Raises:
        UserError: as `select_in_layer`; or what the selector gave are no entries of the weight.
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
    """What a selector gave for a layer, as sorted flat indices."""
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
    concept: str,
    component: str,
    provenance: Mapping[str, Any],
) -> PruningMask:
    """The mask of one concept; jobs, benchmarks and `method.find_mask` all make theirs here.

    Args:
        weights: by layer, whole [R, W], as the model's own files have them where there are some.
        evidence: statistics of the same layers; of their last columns where only these are the
            site's.
        selector: what selects, with its settings.
        dtype: of the weights when they are selected, as the model had it; their own by default.
        concept: the name that the mask will have.
        component: the pipeline's name for the denoiser.
        provenance: what the mask says of its origin, beside selector and timesteps; JSON.

    Raises:
        UserError: the selector keeps nothing of a layer, asks for more calls than were collected,
            or gives what are no entries.
        EmptyMaskError: no weight was selected in any layer.
    """
    used = {name: weight.to(dtype or weight.dtype) for name, weight in weights.items()}
    site_weights = on_site(used, evidence.target)
    entries = select_entries(site_weights, evidence, selector)
    layers = {}
    for name, weight in sorted(weights.items()):
        columns = weight.shape[1]
        first_column = columns - site_weights[name].shape[1]
        flat = widened(entries[name], columns, first_column)
        layers[name] = LayerMask.of(weight, flat, first_column)
    return PruningMask(
        concepts=(concept,),
        component=component,
        layers=layers,
        provenance={**provenance, **_selection(selector, evidence)},
    )


def on_site(weights: Mapping[str, Tensor], statistics: Statistics) -> dict[str, Tensor]:
    """Of each weight [R, W] the last columns, of which there are statistics."""
    return {
        name: weight[:, weight.shape[1] - statistics.layers[name].sum_sq.shape[1] :]
        for name, weight in weights.items()
    }


def _selection(selector: Selector, evidence: Evidence) -> dict[str, Any]:
    """What a mask says of how its entries were selected."""
    known: dict[str, Any] = {"selector": getattr(selector, "__name__", repr(selector))}
    tau = None
    if isinstance(selector, NamedSelector):
        settings = selector.settings
        known = {"selector": settings.selector, "selection": settings.selection}
        tau = settings.tau
    return {**known, "base": evidence.rule, "timesteps": evidence.target.timesteps[:tau]}
