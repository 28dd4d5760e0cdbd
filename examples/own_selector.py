"""Select weights by your own rule, from statistics that a job has stored, without denoising.

python examples/own_selector.py STORE CONCEPT MASK_FILE
"""

import json
import sys

import numpy as np
from diffusers import StableDiffusionPipeline
from torch import Tensor

import conceptprune
from conceptprune.store import Store, parquet_to_table
from conceptprune.studio import model_path


def whole_neurons(layer: str, weight: Tensor, evidence: conceptprune.Evidence) -> np.ndarray:
    """Prune the 1 % of a layer's neurons whose energy grows the most with the concept.

    `weight` is [rows, columns] and an energy [calls, columns]; True [rows, columns] is pruned.
    """
    target, base = (
        side.layers[layer].sum_sq.sum(axis=0) / side.num_prompts
        for side in (evidence.target, evidence.base)
    )
    growth = target / (base + base.mean())
    return np.broadcast_to(growth >= np.quantile(growth, 0.99), weight.shape)


def stored_evidence(store: Store, concept: str) -> conceptprune.Evidence:
    """The statistics of the prompts that a job's mask of `concept` was selected from."""
    masks = (store.load(store.get("mask", key), "mask") for key in store.committed("mask"))
    found = (conceptprune.PruningMask.from_bytes(data) for data in masks)
    wanted = next(mask for mask in found if mask.concepts == (concept,)).provenance
    by_prompts = {}
    for key in store.committed("statistics"):
        table = parquet_to_table(store.load(store.get("statistics", key), "statistics"))
        origin = json.loads(table.schema.metadata[b"conceptprune.provenance"])
        by_prompts[origin["prompts"]] = conceptprune.Statistics.from_arrow(table)
    target, base = (by_prompts[wanted["prompts_digest"][side]] for side in ("target", "base"))
    return conceptprune.Evidence(target=target, base=base)


uri, concept, out = sys.argv[1:]
pipe = StableDiffusionPipeline.from_pretrained(model_path())
evidence = stored_evidence(Store(uri), concept)
mask = conceptprune.select(pipe, evidence, whole_neurons, concept=concept)
mask.save(out)
print(f"{mask.num_entries} weights, {mask.density:.2%} of the site, are in {out}")
