"""The method on one screen: from a pipeline and a concept to the weights that generate the concept.

mask = conceptprune.find_mask(pipe, "Van Gogh")
mask.apply(pipe)

`find_mask` collects statistics of two sets of prompts, then uses them to select weights. Both steps
can be called separately: `collect` returns statistics that can be stored, and `select` takes any
selector. A job makes its masks with the same functions; it only spreads prompts and calls over
workers.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from conceptprune.collection.collect import collect
from conceptprune.errors import ModelMismatchError, UserError
from conceptprune.manifest import Collection, Concept, Kind, Pruning, SelectorName
from conceptprune.manifest.loading import checked_section
from conceptprune.masks.apply import applied_masks
from conceptprune.masks.by_call import MasksByCall
from conceptprune.masks.layer_mask import LayerMask
from conceptprune.masks.live import folder_of, stored_weight
from conceptprune.masks.mask import PruningMask
from conceptprune.masks.selectors import (
    Evidence,
    NamedSelector,
    Selector,
    named_selector,
    select_mask,
)
from conceptprune.models.base import DiffusionModel
from conceptprune.models.borrowed import borrowed
from conceptprune.models.sites import split_layer
from conceptprune.models.weights import component_of
from conceptprune.models.wrappers import modules_of
from conceptprune.prompts.pairs import prompt_pairs, prompts_digest
from conceptprune.versions import versions


def find_mask(
    pipe: Any,
    concept: str | Concept,
    kind: Kind = "style",
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    sparsity: float | None = None,
    tau: int = 10,
    steps: int = 50,
    guidance: float = 7.5,
    seed: int = 0,
    site: str | Sequence[str] = "ffn_out",
    selector: SelectorName | Selector = "conceptprune",
    batch_size: int = 8,
    resolution: int | None = None,
) -> PruningMask:
    """Find the mask that erases `concept` from `pipe`, a loaded diffusers pipeline (left
    unchanged).

    The defaults are ConceptPrune's for the kind (arXiv 2405.19237). A job with the same settings
    selects the same entries, as long as its `collection.shard_prompts` holds all prompts of a side.
    LoRAs that peft has loaded stay on meanwhile: the mask is what the model with them generates the
    concept by, and is of the base weights beneath.

    Args:
        pipe: a text-to-image pipeline of diffusers, on any device and in any dtype.
        concept: its name, or a `Concept` with other fields of its kind (direction, captions).
        kind: whose published prompts are used: "style", "object", "nudity", ...
        pairs: (base, target) prompts to use instead of the published ones; a base prompt describes
            the same image without the concept.
        sparsity: k, the fraction of each row's columns that one denoiser call may select; by
            default the published value for the kind: 0.02 for an object, 0.01 for others.
        tau: how many denoiser calls to run, from the first.
        steps: scheduler steps of a whole image.
        guidance: classifier-free guidance scale.
        seed: seed of the noise.
        site: which linears to prune: a name, "re:" and a regular expression, or several of these.
        selector: what selects the weights: "conceptprune", "fia", `named_selector("fia", r2=0.03)`
            for other settings, or your own function (see `Selector`).
        batch_size: prompts that go through the denoiser together.
        resolution: side of the images in pixels; the model's own by default.

    Raises:
        UserError: a setting is wrong, `pipe` has no such site, or masks are applied to it.
        EmptyMaskError: the target prompts excite no neuron more than the base prompts do.
        NumericalError: an activation overflowed or is not a number.
    """
    erased = _concept(concept, kind, pairs)
    prompts = prompt_pairs(erased, seed=seed)
    chosen = _selector(selector, sparsity)
    if isinstance(chosen, NamedSelector) and not callable(selector):
        chosen = NamedSelector(settings=chosen.settings.of_concept(erased, tau))
    collection = checked_section(
        Collection,
        steps=steps,
        tau=tau,
        guidance=guidance,
        seed=seed,
        batch_size=batch_size,
        resolution=resolution,
    )
    watched = checked_section(Pruning, site=site)
    with borrowed(pipe, resolution=resolution) as model:
        weights = _weights(model, model.site_linears(watched.sites))
        target = collect(model, [pair.target for pair in prompts], collection, site=watched.site)
        base = collect(model, [pair.base for pair in prompts], collection, site=watched.site)
        return select_mask(
            weights,
            Evidence(target=target, base=base),
            chosen,
            stored=_stored(model, weights),
            concept=erased.name,
            component=model.component,
            provenance={
                **_origin(model),
                "kind": erased.kind,
                "collection": collection.recorded(watched.site),
                "seed": seed,
                "prompts_digest": {
                    "target": prompts_digest([pair.target for pair in prompts]),
                    "base": prompts_digest([pair.base for pair in prompts]),
                },
                "site": watched.site,
            },
        )


def select(
    pipe: Any,
    evidence: Evidence,
    selector: SelectorName | Selector = "conceptprune",
    *,
    concept: str,
) -> PruningMask:
    """Select a mask from statistics collected from `pipe` earlier, in this or another process.

    Args:
        pipe: the pipeline that the statistics are of.
        evidence: the statistics of the target and of the base prompts, as `collect` gives them.
        selector: as for `find_mask`.
        concept: name to record in the mask.

    Raises:
        UserError: `pipe` lacks layers of the statistics or has masks applied to it, or the selector
        returns something that is not a set of entries. EmptyMaskError: no weight was selected.
    """
    with borrowed(pipe) as model:
        weights = _weights(model, evidence.target.layers)
        return select_mask(
            weights,
            evidence,
            _selector(selector),
            stored=_stored(model, weights),
            concept=concept,
            component=model.component,
            provenance=_origin(model),
        )


def select_by_call(
    pipe: Any,
    evidence: Evidence,
    selector: SelectorName | Selector = "conceptprune",
    *,
    concept: str,
) -> MasksByCall:
    """Select one mask per collected call, instead of one mask for all calls; see `select`.

    Raises:
        UserError: as `select`.
        EmptyMaskError: no weight was selected at one of the calls.
    """
    with borrowed(pipe) as model:
        weights = _weights(model, evidence.target.layers)
        stored = _stored(model, weights)
        first, chosen = evidence.target.first_call, _selector(selector)
        return MasksByCall(
            tuple(
                select_mask(
                    weights,
                    evidence.at_call(call),
                    chosen,
                    stored=stored,
                    concept=concept,
                    component=model.component,
                    provenance={**_origin(model), "call": call},
                )
                for call in range(first, first + evidence.target.num_calls)
            )
        )


def _concept(
    concept: str | Concept, kind: Kind, pairs: Sequence[tuple[str, str]] | None
) -> Concept:
    if isinstance(concept, Concept):
        return concept
    if pairs is None:
        return checked_section(Concept, name=concept, kind=kind)
    if any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
        raise UserError("pairs: each must be a (base, target) pair of prompts")
    texts = [{"base": base, "target": target} for base, target in pairs]
    return checked_section(Concept, name=concept, kind=kind, prompts=texts)


def _selector(selector: SelectorName | Selector, sparsity: float | None = None) -> Selector:
    if not callable(selector):
        settings = {} if sparsity is None else {"sparsity": sparsity}
        return named_selector(selector, **settings)
    if sparsity is not None:
        raise UserError(
            "sparsity: is a setting of the selector conceptprune, and another selector is given, "
            "which has its own settings; leave it out"
        )
    return selector


def _weights(model: DiffusionModel, layers: Iterable[str]) -> dict[str, Tensor]:
    """The whole weights [R, W] of layers in the pipeline.

    Raises:
        ModelMismatchError: a layer does not exist.
        UserError: a mask is applied to a layer, or its weights are not in memory.
    """
    weights = {}
    # Once for each component: to look through all of its modules takes longer than the rest.
    modules: dict[str, dict[str, nn.Module]] = {}
    for layer in layers:
        component, name = split_layer(layer, model.component)
        if component not in modules:
            modules[component] = modules_of(component_of(model.pipe, component))
        linear = modules[component].get(name)
        if not isinstance(linear, nn.Linear):
            raise ModelMismatchError(f"{type(model.pipe).__name__} has no linear {layer}")
        if applied_masks(linear):
            raise UserError(
                "masks are applied to this pipeline, and what is pruned already cannot be found "
                "again: take them off first (mask.remove(pipe))"
            )
        if linear.weight.is_meta:
            raise UserError(
                f"the weights of {layer} are not in memory, as after enable_sequential_cpu_offload:"
                " find the mask before that, or use enable_model_cpu_offload"
            )
        weights[layer] = linear.weight.detach()
    return weights


def _stored(model: DiffusionModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those weights as the model's files have them, where these are here and are the pipeline's.

    What a pipeline was loaded in has rounded them, and a mask should fit every rounding of them.
    """
    stored = {}
    for layer, weight in weights.items():
        component, name = split_layer(layer, model.component)
        file = stored_weight(folder_of(component_of(model.pipe, component), component), name)
        if file is not None and LayerMask.of(file, np.empty(0, np.int64)).fits(weight):
            stored[layer] = file
    return stored


def _origin(model: DiffusionModel) -> dict[str, Any]:
    """What a mask records about the pipeline that it was found in."""
    name = model.pipe.name_or_path or type(model.pipe).__name__
    return {
        # Only the folder's name: its path says something about the machine, not about the model.
        "model": Path(name).name if Path(name).is_dir() else name,
        "revision": None,
        "dtype": str(model.dtype).removeprefix("torch."),
        "scheduler": type(model.scheduler).__name__,
        "versions": versions(),
    }
