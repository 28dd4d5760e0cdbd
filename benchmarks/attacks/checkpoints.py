"""`python -m benchmarks.attacks.checkpoints FOLDER`: the checkpoints that are attacked."""

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.erasure.__main__ import GUIDANCE, STEPS
from benchmarks.erasure.masks import MaskMaker, Setting
from conceptprune.attacks.refill import suspect_places
from conceptprune.attacks.settings import Refill
from conceptprune.checkpoints import delta_file
from conceptprune.families.stable_diffusion import StableDiffusion
from conceptprune.mask import PruningMask, union_masks
from conceptprune.seal import sealer
from conceptprune.studio import model_path
from conceptprune.weights import read_layers

ARTISTS = ("vorla brint", "soren abeck")
"""Those of suite.yaml."""
SPARSITIES = (0.01, 0.005)
"""The published k for styles first: it is the one that is sealed."""


def located(mask: PruningMask) -> str:
    """How many of a sealed mask's places a low-rank model of each layer finds, beside chance."""
    weights = read_layers(model_path(), mask.layers, mask.component, torch.float32)
    edit = sealer(mask)
    sealed = {name: edit(name, mask.layers[name], weight) for name, weight in weights.items()}
    found = suspect_places(sealed, Refill(suspects=mask.density))
    hits = sum(np.isin(found[name], mask.layers[name].entries).sum() for name in found)
    guesses = sum(map(len, found.values()))
    return (
        f"of {guesses} guessed places {hits} were pruned ({100 * hits / guesses:.1f} %; by chance "
        f"{100 * mask.density:.1f} %)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks.checkpoints")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    maker = MaskMaker(StableDiffusion.load(model_path()), steps=STEPS, guidance=GUIDANCE)
    for sparsity in SPARSITIES:
        setting = Setting(sparsity=sparsity, tau=10)
        mask = union_masks([maker.mask(artist, setting) for artist in ARTISTS])
        mask.save(folder / f"ours-{sparsity:g}.safetensors")
        if sparsity == SPARSITIES[0]:
            data = delta_file(mask, model_path(), edit=sealer(mask))
            (folder / "sealed.safetensors").write_bytes(data)
            print(located(mask))
        print(f"k {100 * sparsity:g} %: {100 * mask.density:.2f} % of the site")


if __name__ == "__main__":
    main()
