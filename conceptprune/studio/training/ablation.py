"""What each part of the recipe contributes: short runs that leave parts out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import AutoencoderKL

from conceptprune.studio.judge import Judge
from conceptprune.studio.training import denoiser
from conceptprune.studio.training.acceptance import (
    NUM_LOOKS,
    Setting,
    collect,
    density,
    everything,
    generate_sheet,
    pruned,
    skilled,
)
from conceptprune.studio.training.denoiser import Latents, Recipe
from conceptprune.studio.training.report import erasure_rates
from conceptprune.studio.training.sampling import NUM_STEPS, Studio

SEED = 101
ERASED = (1, 5, 9, 13)  # every fourth artist
SETTINGS = {
    f"k {k:.0%}": Setting(k=k, tau=NUM_STEPS // 2, branches="both", base="plain")
    for k in (0.01, 0.1)
}


def variants(full: Recipe) -> dict[str, Recipe]:
    """The full recipe, and variants of it with parts left out, by name."""
    unplanted = replace(full, ownership=0.0, silenced=0.0, others_silenced=0.0, dropout=0.0)
    return {
        "both": full,
        "structure": unplanted,
        "ownership": replace(full, constrained=False),
        "neither": replace(unplanted, constrained=False),
        "structure-hoyer": replace(unplanted, hoyer=0.1),
    }


def measure(folder: Path, judge: Judge) -> dict[str, Any]:
    """Measure a trained variant whole, with its site zeroed, and with single artists erased."""
    studio = Studio(folder)
    whole = generate_sheet(studio, judge, list(range(NUM_LOOKS)), [SEED])
    found: dict[str, Any] = {"whole": erasure_rates(whole, list(range(1, NUM_LOOKS)))}
    with pruned(studio, everything(studio)):
        zeroed = generate_sheet(studio, judge, list(range(1, NUM_LOOKS)), [SEED])
    found["site zeroed"] = zeroed.rates(zeroed.look > 0)

    energies = collect(studio)
    for name, setting in SETTINGS.items():
        alone = []
        for look in ERASED:
            mask = skilled(studio, energies, look, setting)
            with pruned(studio, mask):
                sheet = generate_sheet(studio, judge, [0, *ERASED], [SEED])
            alone.append(erasure_rates(sheet, [look]) | {"density": density(mask)})
        found[name] = {key: float(np.mean([rates[key] for rates in alone])) for key in alone[0]}
    return found


def run(
    autoencoder: AutoencoderKL, latents: Latents, judge: Judge, full: Recipe, work: Path
) -> None:
    """Train and measure every variant, one after the other; WORK/ablation.json."""
    path = work / "ablation.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name, recipe in variants(full).items():
        if name in found:
            continue
        denoiser.train(autoencoder, latents, recipe, work, f"ablation-{name}")
        found[name] = measure(work / f"ablation-{name}", judge)
        print(name, json.dumps(found[name]), flush=True)
        path.write_text(json.dumps(found, indent=1))
    print(table(found))


def table(found: dict[str, dict[str, Any]]) -> str:
    """What `measure` found for every variant, as Markdown, in percent."""
    head = ["parts", "artists", "their things", "photos", "site zeroed: artists"]
    head += [f"{name}: {what}" for name in SETTINGS for what in ("erased", "others", "of the site")]
    rows = [head, ["---"] * len(head)]
    for name, rates in found.items():
        whole = rates["whole"]
        numbers = [whole["erased"], whole["erased, things"], whole["photos"]]
        numbers.append(rates["site zeroed"][0])
        for setting in SETTINGS:
            numbers += [rates[setting][key] for key in ("erased", "others", "density")]
        rows.append([name, *(f"{100 * number:.1f}" for number in numbers)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
