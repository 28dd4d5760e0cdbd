"""`python -m benchmarks.erasure.baselines choose|report ...`: our erasures against the baselines.

`choose` scores UCE's and RECE's settings with the choosing seeds on four artists erased at once;
`report` scores every method on 1, 4 or 8 artists with seeds that no method's settings were chosen
with. Lines that are already in the results are not computed again.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.erasure.__main__ import CHOOSING_SEEDS, GUIDANCE, NAMES, PLAIN, STEPS, row
from benchmarks.erasure.fusion import questions
from benchmarks.erasure.masks import MaskMaker
from benchmarks.erasure.scores import Change, Exam, Examiner, Score
from benchmarks.erasure.text_edits import (
    RECE_CANDIDATES,
    RECE_PUBLISHED,
    UCE_CANDIDATES,
    UCE_PUBLISHED,
    TextEdit,
    TextEditor,
)
from conceptprune.baselines.controls import at_random, by_magnitude
from conceptprune.checkpoints.files import delta_file, encode_delta
from conceptprune.manifest import Fuse, Pruning
from conceptprune.masks.mask import PruningMask
from conceptprune.models.stable_diffusion import StableDiffusion
from conceptprune.studio import model_path

Line = dict[str, Any]

RESULTS = Path(__file__).with_name("baselines_results.jsonl")
FRESH_SEEDS = (301, 302, 303, 304)
"""No setting, ours or theirs, was chosen with these."""
NUMBERS = (1, 4, 8)
IMAGES = 24
"""Images of the erased artists, and about as many of the others."""
CHOOSING_ARTISTS = NAMES[2::4]
CHOOSING_IMAGES = 12
FIA = Pruning(selector="fia", tau=PLAIN.tau)
FUSIONS: tuple[Fuse, ...] = (Fuse(how="union"), Fuse(how="retain-shared"), Fuse(how="budget"))
GOOD = ("erased thing", "others look", "others thing", "photos look", "photos thing")
"""Rates that an erasure should leave as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An erasure: what it does to the denoiser, and what it cost."""

    change: Change
    seconds: float
    """On one core, with the model already loaded."""
    file_bytes: int
    """Of the smallest file that holds it."""
    delta_bytes: int
    density: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A method at some setting, and how to make its erasure."""

    method: str
    setting: Any
    make: Callable[[], Made]


class Comparison:
    """The model, all methods, and the file of results."""

    def __init__(self, out: Path) -> None:
        self.model = StableDiffusion.load(model_path())
        self.maker = MaskMaker(self.model, steps=STEPS, guidance=GUIDANCE, calls=PLAIN.tau)
        self.editor = TextEditor(self.model)
        self.examiner = Examiner(self.model, steps=STEPS, guidance=GUIDANCE)
        self.out = out
        self._scored: dict[tuple[str, Exam], tuple[Score, list[float]]] = {}

    def choose(self) -> None:
        """Score the settings of UCE and RECE."""
        retained = [name for name in NAMES if name not in CHOOSING_ARTISTS]
        asked = questions(CHOOSING_ARTISTS, CHOOSING_SEEDS, CHOOSING_IMAGES)
        for edit in (*UCE_CANDIDATES, *RECE_CANDIDATES):
            make = partial(self.edit, edit, CHOOSING_ARTISTS, retained)
            line = Row(method=edit.method, setting=edit.as_json(), make=make)
            self.score("choosing", len(CHOOSING_ARTISTS), line, asked)

    def report(self, number: int) -> None:
        """Score every method on `number` artists."""
        asked = questions(NAMES[:number], FRESH_SEEDS, IMAGES)
        for line in self.rows(number):
            self.score("report", number, line, asked)

    def rows(self, number: int) -> Iterator[Row]:
        """Every method of the table."""
        artists, retained = NAMES[:number], NAMES[number:]
        yield from self.mask_rows(FUSIONS[:1], artists, retained)
        for control in ("random", "magnitude"):
            yield Row(
                method=control, setting={}, make=partial(self.control, control, artists, retained)
            )
        published = (UCE_PUBLISHED, RECE_PUBLISHED)
        yield from self.edit_rows("published", published, artists, retained)
        if number > 1:
            yield from self.mask_rows(FUSIONS[1:], artists, retained)
        # Last, because only these need the sweep.
        yield from self.edit_rows("best of the sweep", self.best_edits(), artists, retained)

    def mask_rows(
        self, fusions: Sequence[Fuse], artists: Sequence[str], retained: Sequence[str]
    ) -> Iterator[Row]:
        """Both selectors with each of the fusions."""
        for selector, settings in (("conceptprune", asdict(PLAIN)), ("fia", FIA.selection)):
            for fusion in fusions:
                yield Row(
                    method=selector,
                    setting={"selection": settings, "fusion": fusion.key_parts},
                    make=partial(self.mask, selector, fusion, artists, retained),
                )

    def edit_rows(
        self,
        how: str,
        edits: Sequence[TextEdit],
        artists: Sequence[str],
        retained: Sequence[str],
    ) -> Iterator[Row]:
        """UCE and RECE; `how` says where their settings come from."""
        for edit in edits:
            yield Row(
                method=edit.method,
                setting={"how": how, **edit.as_json()},
                make=partial(self.edit, edit, artists, retained),
            )

    def best_edits(self) -> tuple[TextEdit, TextEdit]:
        """The settings of UCE and of RECE that `choose` finds best."""
        self.choose()
        lines = self.lines()
        return chosen(lines, UCE_CANDIDATES), chosen(lines, RECE_CANDIDATES)

    def mask(
        self, selector: str, fusion: Fuse, artists: Sequence[str], retained: Sequence[str]
    ) -> Made:
        """Our erasure: statistics, a mask for each artist, and one mask fused from them."""
        needed = [None, *artists, *(retained if fusion.how == "budget" else ())]
        collection = 0.0
        for side in needed:
            self.maker.side("both", side)
            collection += self.maker.seconds["both", side]
        started = time.process_time()
        masks = [
            self.maker.mask(artist, PLAIN)
            if selector == "conceptprune"
            else self.maker.fia_mask(artist, FIA)
            for artist in artists
        ]
        if len(masks) == 1:
            (mask,) = masks
        else:
            mask = self.maker.fused_masks(masks, PLAIN, fusion, retained)
        return _made_mask(mask, collection + time.process_time() - started)

    def control(self, how: str, artists: Sequence[str], retained: Sequence[str]) -> Made:
        """As many weights of each layer as ConceptPrune's union, chosen without statistics."""
        like = self.mask("conceptprune", Fuse(how="union"), artists, retained).change
        if not isinstance(like, PruningMask):
            raise TypeError("a selector makes a mask")
        started = time.process_time()
        choose = at_random(len(artists)) if how == "random" else by_magnitude()
        mask = self.maker.control_like(like, choose)
        return _made_mask(mask, time.process_time() - started)

    def edit(self, edit: TextEdit, artists: Sequence[str], retained: Sequence[str]) -> Made:
        """An erasure by UCE or RECE."""
        self.model.forget_encodings()
        started = time.process_time()
        tensors = self.editor.tensors(edit, artists, retained)
        seconds = time.process_time() - started
        delta = encode_delta(
            tensors, component=self.model.component, concepts=artists, mask=None, provenance={}
        )
        return Made(change=tensors, seconds=seconds, file_bytes=len(delta), delta_bytes=len(delta))

    def score(self, what: str, number: int, line: Row, asked: Exam) -> None:
        """Generate, judge and record, unless already recorded."""
        named = {
            "what": what,
            "artists": number,
            "method": line.method,
            "setting": json.loads(json.dumps(line.setting)),
        }
        if any(all(old[key] == named[key] for key in named) for old in self.lines()):
            return
        made = line.make()
        score, distances = self._generated(made.change, asked)
        recorded = {
            **row(score, **named),
            "rmse": _mean_with_interval(distances),
            "seconds": round(made.seconds, 3),
            "file_bytes": made.file_bytes,
            "delta_bytes": made.delta_bytes,
            "density": made.density,
        }
        with self.out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(recorded) + "\n")
        print(number, line.method, json.dumps(line.setting), flush=True)
        print({k: v["rate"] for k, v in recorded.items() if isinstance(v, dict) and "rate" in v})

    def lines(self) -> list[Line]:
        """The recorded lines."""
        if not self.out.exists():
            return []
        return [json.loads(line) for line in self.out.read_text(encoding="utf-8").splitlines()]

    def _generated(self, change: Change, asked: Exam) -> tuple[Score, list[float]]:
        """Scores, and root mean square pixel distances of retained images from the base model's."""
        # Fusions that select the same entries generate the same images.
        entries = (
            json.dumps({name: layer.entries.tolist() for name, layer in change.layers.items()})
            if isinstance(change, PruningMask)
            else None
        )
        if entries is not None and (entries, asked) in self._scored:
            return self._scored[entries, asked]
        images = self.examiner.images(asked.prompts, change)
        kept = (*asked.others, *asked.photos)
        after = images[-len(kept) :].astype(np.float64)
        before = self.examiner.untouched(kept).astype(np.float64)
        distances = list(np.sqrt(((after - before) ** 2).mean((1, 2, 3))))
        result = self.examiner.judged(asked, images), distances
        if entries is not None:
            self._scored[entries, asked] = result
        return result


def chosen(lines: Sequence[Line], candidates: Sequence[TextEdit]) -> TextEdit:
    """The candidate with the most merit; among equals, the one that changes the rest least.

    Raises:
        ValueError: a candidate was not scored.
    """
    by_setting = {
        json.dumps(line["setting"], sort_keys=True): (merit(line), -line["rmse"]["mean"])
        for line in lines
        if line["what"] == "choosing"
    }
    keys = [json.dumps(candidate.as_json(), sort_keys=True) for candidate in candidates]
    if not set(keys) <= by_setting.keys():
        raise ValueError("run `choose` first: some settings were not scored")
    best = max(keys, key=lambda key: by_setting[key])
    return candidates[keys.index(best)]


def merit(line: Line) -> float:
    """Mean of six rates: 1 - erased artists seen, and the five that should stay high."""
    rates = [1 - line["erased look"]["rate"], *(line[name]["rate"] for name in GOOD)]
    return round(float(sum(rates) / len(rates)), 6)


def _made_mask(mask: PruningMask, seconds: float) -> Made:
    return Made(
        change=mask,
        seconds=seconds,
        file_bytes=len(mask.to_bytes()),
        delta_bytes=len(delta_file(mask, model_path())),
        density=round(mask.density, 5),
    )


def _mean_with_interval(values: Sequence[float]) -> Line:
    """The mean, and its bootstrap 95 % interval (1000 samples, seed 0)."""
    numbers = np.asarray(values)
    picks = np.random.default_rng(0).integers(len(numbers), size=(1000, len(numbers)))
    low, high = np.quantile(numbers[picks].mean(axis=1), [0.025, 0.975])
    return {
        "mean": round(float(numbers.mean()), 3),
        "n": len(numbers),
        "interval": [round(float(low), 3), round(float(high), 3)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.erasure.baselines", description=__doc__
    )
    parser.add_argument("part", choices=("choose", "report"))
    parser.add_argument("--artists", type=int, nargs="+", default=NUMBERS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    comparison = Comparison(arguments.out)
    if arguments.part == "choose":
        comparison.choose()
    else:
        for number in arguments.artists:
            comparison.report(number)
    print(f"{time.process_time():.0f} s of the CPU")


if __name__ == "__main__":
    main()
