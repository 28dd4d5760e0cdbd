"""Measures a trained pipeline and writes the numbers that the model card quotes."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from conceptprune.studio.judge import Judge
from conceptprune.studio.names import ARTISTS
from conceptprune.studio.training.acceptance import (
    NUM_LOOKS,
    Setting,
    Sheet,
    collect,
    density,
    everything,
    generate_sheet,
    pruned,
    scattered,
    skilled,
    unite,
)
from conceptprune.studio.training.sampling import NUM_STEPS, Studio

SEEDS = [101, 102, 103]
LOOKS = list(range(NUM_LOOKS))
# The published setting for styles: k 1 %, the first fifth of the calls, both branches, plain base.
PUBLISHED = Setting(k=0.01, tau=NUM_STEPS // 5, branches="both", base="plain")
GROUP = 4


def erasure_rates(sheet: Sheet, erased: list[int]) -> dict[str, float]:
    """Rates in the erased artists' prompts, in the other artists' and in photos."""
    gone = np.isin(sheet.look, erased)
    photo = sheet.look == 0
    rates: dict[str, float] = {}
    for name, chosen in (("erased", gone), ("others", ~gone & ~photo), ("photos", photo)):
        if chosen.any():
            rates[name], rates[f"{name}, things"] = sheet.rates(chosen)
    return rates


def measure(folder: Path, judge: Judge, work: Path, setting: Setting = PUBLISHED) -> None:
    """Whole model, site zeroed, each artist erased, groups erased; WORK/acceptance.json."""
    studio = Studio(folder)
    found: dict[str, Any] = {}

    def note(name: str, value: Any) -> None:
        found[name] = value
        print(name, json.dumps(value), flush=True)
        (work / "acceptance.json").write_text(json.dumps(found, indent=1))

    whole = generate_sheet(studio, judge, LOOKS, SEEDS)
    note("pictures", len(whole.look))
    note("whole", whole.rates(whole.look >= 0))
    for look, label in enumerate(["photo", *(artist.look for artist in ARTISTS)]):
        note(f"whole, {label}", whole.rates(whole.look == look))
    with pruned(studio, everything(studio)):
        note(
            "site zeroed", erasure_rates(generate_sheet(studio, judge, LOOKS, SEEDS[:1]), LOOKS[1:])
        )

    energies = collect(studio)
    masks = {look: skilled(studio, energies, look, setting) for look in LOOKS[1:]}
    for look, mask in masks.items():
        others = [0, *(1 + (look - 1 + away) % len(ARTISTS) for away in (1, 9))]
        with pruned(studio, mask):
            rates = erasure_rates(generate_sheet(studio, judge, [look, *others], SEEDS[:1]), [look])
        with pruned(studio, scattered(mask, look)):
            control = generate_sheet(studio, judge, [look], SEEDS[:1])
        rates["erased, random mask"], _ = control.rates(control.look == look)
        note(f"without {ARTISTS[look - 1].look}", rates | {"density": density(mask)})
    for first in range(1, NUM_LOOKS, GROUP):
        group = range(first, first + GROUP)
        with pruned(studio, unite([masks[look] for look in group])):
            sheet = generate_sheet(studio, judge, LOOKS, SEEDS[:1])
        names = ", ".join(ARTISTS[look - 1].look for look in group)
        note(f"without {names}", erasure_rates(sheet, list(group)))
