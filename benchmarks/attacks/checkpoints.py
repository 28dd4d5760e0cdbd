"""`python -m benchmarks.attacks.checkpoints FOLDER`: makes the checkpoints that are attacked."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.erasure.__main__ import GUIDANCE, NAMES, STEPS
from benchmarks.erasure.masks import MaskMaker, Setting
from conceptprune.attacks.refill import near_low_rank
from conceptprune.checkpoints.files import Edit, delta_file, zeroed
from conceptprune.checkpoints.seal import sealer
from conceptprune.evaluation.attack_settings import Refill
from conceptprune.manifest import Pruning
from conceptprune.masks.mask import PruningMask, union_masks
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.models.weights import read_layers
from conceptprune.studio import model_path

ARTISTS = NAMES[:4]
"""The artists of the attack suites."""
SPARSITIES = (0.01, 0.005)
"""The published k for styles, and half of it."""


def located(mask: PruningMask, edit: Edit) -> dict[str, float]:
    """How well pruned entries can be located without the base model: areas under the ROC curve.

    0.5 is chance. `magnitude` ranks the smallest entries first, `neuron` the entries in the columns
    with the smallest norms, `residual` those that a low-rank model of the layer fits worst.
    """
    weights = read_layers(model_path(), mask.layers, mask.component, torch.float32)
    areas: dict[str, list[float]] = {"magnitude": [], "neuron": [], "residual": []}
    for name, weight in weights.items():
        given = edit(name, mask.layers[name], weight).double()
        pruned = np.zeros(given.numel(), np.bool_)
        pruned[mask.layers[name].entries] = True
        scores = {
            "magnitude": -given.abs(),
            "neuron": -given.norm(dim=0).expand_as(given),
            "residual": (given - near_low_rank(given, Refill().rank)).abs(),
        }
        for how, score in scores.items():
            areas[how].append(area_under_roc(score.flatten().numpy(), pruned))
    return {how: round(float(np.mean(each)), 3) for how, each in areas.items()}


def area_under_roc(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Chance that a positive outscores a negative (Mann and Whitney 1947; ties count half)."""
    ordered = np.sort(score)
    below, upto = (np.searchsorted(ordered, score, side) for side in ("left", "right"))
    ranks = (below + upto + 1) / 2
    hits = int(positive.sum())
    misses = len(score) - hits
    return float((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks.checkpoints")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    maker = MaskMaker(StableDiffusion.load(model_path()), steps=STEPS, guidance=GUIDANCE)
    for sparsity in SPARSITIES:
        setting = Setting(sparsity=sparsity, tau=10)
        write(f"ours-{sparsity:g}", [maker.mask(artist, setting) for artist in ARTISTS], folder)
    write("fia", [maker.fia_mask(artist, Pruning(selector="fia")) for artist in ARTISTS], folder)


def write(name: str, masks: Sequence[PruningMask], folder: Path) -> None:
    """Write the union of masks and a sealed delta; print how well each hides what was pruned."""
    mask = union_masks(masks)
    mask.save(folder / f"{name}.safetensors")
    data = delta_file(mask, model_path(), edit=sealer(mask))
    (folder / f"{name}-sealed.safetensors").write_bytes(data)
    print(f"{name}: {100 * mask.density:.2f} % of the site")
    print("  zeroed", located(mask, zeroed))
    print("  sealed", located(mask, sealer(mask)))


if __name__ == "__main__":
    main()
