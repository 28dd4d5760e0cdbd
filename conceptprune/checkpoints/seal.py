"""Sealing: pruned places that cannot be read off as zeros, in checkpoints that are given away.

Instead of a zero each pruned entry gets a draw from the distribution of its layer's other entries,
so that neither a zero nor the layer's histogram shows where it is. The draws are noise to the
denoiser, and only where the erased concept's neurons fire. It makes the places harder to find for
whoever has this file alone (benchmarks/attacks says how much harder); the difference to the base
model still shows every one of them.

The draws depend on the whole mask, which whoever publishes a sealed checkpoint keeps.
"""

import numpy as np
import torch
from torch import Tensor

from conceptprune.checkpoints.files import Edit
from conceptprune.digest import digest_bytes
from conceptprune.masks.mask import LayerMask, PruningMask


def seal_secret(mask: PruningMask) -> str:
    """What the draws are made from: not the mask's digest, which a checkpoint's metadata has."""
    return digest_bytes(b"conceptprune.seal/1" + mask.to_bytes())


def sealer(mask: PruningMask) -> Edit:
    """How checkpoints are edited that are to be sealed (`checkpoints.delta_file`)."""
    secret = seal_secret(mask)

    def sealed(name: str, layer: LayerMask, weight: Tensor) -> Tensor:
        return sealed_weight(layer, weight, secret, name)

    return sealed


def sealed_weight(layer: LayerMask, weight: Tensor, secret: str, name: str) -> Tensor:
    """A copy of the weight [R, W] with draws in the place of the layer's pruned entries.

    A draw lies between two neighbouring values of the layer (inverse transform of the empirical
    distribution), because an exact copy of another entry would give the place away.
    """
    rng = np.random.default_rng(int(digest_bytes(f"{secret}/{name}".encode()), 16))
    flat = weight.detach().cpu().double().flatten().numpy()
    others = np.sort(np.delete(flat, layer.entries))
    where = rng.uniform(0, len(others) - 1, len(layer.entries))
    draws = np.interp(where, np.arange(len(others)), others)
    sealed = weight.clone()
    sealed.view(-1)[layer.entries] = torch.from_numpy(draws).to(sealed)
    return sealed
