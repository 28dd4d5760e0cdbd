"""Sealing: hide pruned entries, which would show as zeros, in checkpoints that are published.

Instead of zero, each pruned entry gets a random value from the distribution of its layer's other
entries, so that neither zeros nor the layer's histogram show where it is. To the denoiser these
values are noise, and only where the erased concept's neurons fire. This makes pruned entries harder
to find for anyone who has only this file (benchmarks/attacks measures how much harder); the
difference from the base model still shows all of them.

The values depend on the whole mask, which the publisher of a sealed checkpoint keeps secret.
"""

import numpy as np
import torch
from torch import Tensor

from conceptprune.checkpoints.files import Edit
from conceptprune.digest import digest_bytes
from conceptprune.masks.layer_mask import LayerMask
from conceptprune.masks.mask import PruningMask


def seal_secret(mask: PruningMask) -> str:
    """The seed of the values; not the mask's digest, which is in a checkpoint's metadata."""
    return digest_bytes(b"conceptprune.seal/1" + mask.to_bytes())


def sealer(mask: PruningMask) -> Edit:
    """The edit that makes sealed checkpoints (for `checkpoints.delta_file`)."""
    secret = seal_secret(mask)

    def sealed(name: str, layer: LayerMask, weight: Tensor) -> Tensor:
        return sealed_weight(layer, weight, secret, name)

    return sealed


def sealed_weight(layer: LayerMask, weight: Tensor, secret: str, name: str) -> Tensor:
    """A copy of the weight [R, W] with random values in place of the layer's pruned entries.

    Each value lies between two neighbouring values of the layer (inverse transform of the empirical
    distribution), because an exact copy of another entry would give it away.
    """
    rng = np.random.default_rng(int(digest_bytes(f"{secret}/{name}".encode()), 16))
    flat = weight.detach().cpu().double().flatten().numpy()
    others = np.sort(np.delete(flat, layer.entries))
    where = rng.uniform(0, len(others) - 1, len(layer.entries))
    draws = np.interp(where, np.arange(len(others)), others)
    sealed = weight.clone()
    sealed.view(-1)[layer.entries] = torch.from_numpy(draws).to(sealed)
    return sealed
